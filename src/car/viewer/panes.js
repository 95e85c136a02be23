// The canvases on which restored tiles are painted. Each covers a square of the small picture, because browsers refuse
// canvases beyond some size.

import { withProfile } from "./png.js";
import { grown, overlaps, split } from "./tiles.js";

/** @typedef {import("./tiles.js").Region} Region */
/** @typedef {{ region: Region, canvas: HTMLCanvasElement, context: CanvasRenderingContext2D }} Pane */

const PANE = 512; // pixels of the small picture

export class Panes {
  /** @type {Pane[]} */
  #panes = [];

  /**
   * @param {HTMLElement} layer holds the canvases
   * @param {import("./picture.js").Picture} picture the small one
   * @param {import("./picture.js").Info} info
   * @param {number} native scale of the model
   */
  constructor(layer, picture, info, native) {
    this.layer = layer;
    this.picture = picture;
    this.info = info;
    this.native = native;
  }

  /**
   * Where a region of the small picture lies in the restored one.
   * @param {Region} region
   * @returns {Region}
   */
  part({ top, bottom, left, right }) {
    const { size: [width, height], scale } = this.info;
    const [across, down] =
      scale === this.native ? [scale, scale] : [width / this.picture.width, height / this.picture.height];
    return { top: Math.round(top * down), bottom: Math.round(bottom * down), left: Math.round(left * across), right: Math.round(right * across) };
  }

  /**
   * Paint a restored tile.
   * @param {Region} region
   * @param {Uint8ClampedArray} restored
   * @param {() => boolean} stale whether it came too late
   */
  async paint(region, restored, stale) {
    const { height: rows, width: columns, profile } = this.picture;
    const part = this.part(region);
    const [width, height] = [part.right - part.left, part.bottom - part.top];
    const data = new ImageData(/** @type {Uint8ClampedArray<ArrayBuffer>} */ (restored), width, height);
    const bitmap = profile ? await withProfile(restored, width, height, profile) : null;
    if (stale()) return;
    for (const at of split(rows, columns, PANE)) {
      // canvases lie over one another by a pixel, or a hairline would show between them
      const pane = grown(at, 1, rows, columns);
      if (!overlaps(region, pane)) continue;
      const { context } = this.#pane(pane);
      const [x, y] = [part.left - this.part(pane).left, part.top - this.part(pane).top];
      if (bitmap) {
        context.clearRect(x, y, width, height);
        context.drawImage(bitmap, x, y);
      } else context.putImageData(data, x, y);
    }
    bitmap?.close();
  }

  /**
   * Draw all that was painted.
   * @param {OffscreenCanvasRenderingContext2D} context
   */
  copy(context) {
    for (const { canvas, region } of this.#panes) {
      const { left, top } = this.part(region);
      context.drawImage(canvas, left, top);
    }
  }

  /**
   * Give back the canvases that are far from view.
   * @param {Region} view
   * @returns {Region[]} what they covered
   */
  release(view) {
    const near = grown(view, PANE, Infinity, Infinity);
    const away = this.#panes.filter((pane) => !overlaps(pane.region, near));
    this.#panes = this.#panes.filter((pane) => !away.includes(pane));
    away.forEach(discard);
    return away.map((pane) => pane.region);
  }

  clear() {
    this.#panes.forEach(discard);
    this.#panes = [];
  }

  /**
   * @param {Region} region
   * @returns {Pane}
   */
  #pane(region) {
    const known = this.#panes.find((pane) => pane.region.top === region.top && pane.region.left === region.left);
    if (known) return known;
    const { size: [width, height] } = this.info;
    const part = this.part(region);
    const canvas = document.createElement("canvas");
    canvas.width = Math.min(part.right, width) - part.left;
    canvas.height = Math.min(part.bottom, height) - part.top;
    canvas.style.left = `${(100 * part.left) / width}%`;
    canvas.style.top = `${(100 * part.top) / height}%`;
    canvas.style.width = `${(100 * canvas.width) / width}%`;
    canvas.style.height = `${(100 * canvas.height) / height}%`;
    const context = canvas.getContext("2d");
    if (!context) throw new Error("the browser gives no canvas");
    this.layer.append(canvas);
    const pane = { region, canvas, context };
    this.#panes.push(pane);
    return pane;
  }
}

/** @param {Pane} pane */
function discard({ canvas }) {
  canvas.width = 0; // frees its memory at once
  canvas.remove();
}
