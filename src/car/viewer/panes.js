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
   */
  constructor(layer, picture, info) {
    this.layer = layer;
    this.picture = picture;
    this.info = info;
  }

  /**
   * Paint a restored tile.
   * @param {Region} region
   * @param {Uint8ClampedArray} restored
   * @param {() => boolean} stale whether it came too late
   */
  async paint(region, restored, stale) {
    const { height: rows, width: columns, profile } = this.picture;
    const scale = this.info.scale;
    const [width, height] = [(region.right - region.left) * scale, (region.bottom - region.top) * scale];
    const data = new ImageData(/** @type {Uint8ClampedArray<ArrayBuffer>} */ (restored), width, height);
    const bitmap = profile ? await withProfile(restored, width, height, profile) : null;
    if (stale()) return;
    for (const at of split(rows, columns, PANE)) {
      // canvases lie over one another by a pixel, or a hairline would show between them
      const pane = grown(at, 1, rows, columns);
      if (!overlaps(region, pane)) continue;
      const { context } = this.#pane(pane);
      const [x, y] = [(region.left - pane.left) * scale, (region.top - pane.top) * scale];
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
    for (const { canvas, region } of this.#panes)
      context.drawImage(canvas, region.left * this.info.scale, region.top * this.info.scale);
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
    const { size: [width, height], scale } = this.info;
    const canvas = document.createElement("canvas");
    canvas.width = Math.min(region.right * scale, width) - region.left * scale;
    canvas.height = Math.min(region.bottom * scale, height) - region.top * scale;
    canvas.style.left = `${(100 * region.left * scale) / width}%`;
    canvas.style.top = `${(100 * region.top * scale) / height}%`;
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
