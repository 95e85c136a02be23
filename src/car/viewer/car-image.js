// <car-image src="photo.x4.png" alt="..."></car-image>: a small picture that restores its detail where it is viewed.
// docs/viewer.md describes attributes, properties and events.

import { withProfile } from "./png.js";
import { decode, readInfo } from "./picture.js";
import { forgetWeights, Pool } from "./pool.js";
import { cropped, grown, moved, overlaps, split, windowOf } from "./tiles.js";

/** @typedef {import("./tiles.js").Region} Region */
/** @typedef {import("./pool.js").Job} Job */
/** @typedef {"preview" | "loading" | "restoring" | "restored" | "failed"} State */
/** @typedef {{ region: Region, job: Job | null, done: boolean }} Tile */
/** @typedef {{ region: Region, canvas: HTMLCanvasElement, context: CanvasRenderingContext2D }} Pane */

const FIRST_TILE = 32; // pixels of the small picture; seen soon, but half of the work on it is for its surroundings
const TILE = 128;
const PANE = 512; // a canvas covers as much of the small picture, or browsers may refuse its size
const KEPT_PIXELS = 48_000_000; // restored pixels held at once; of larger pictures only what is in view
const MAX_ZOOM = 16;
const MAX_SAVED_PIXELS = 100_000_000;

/** @type {Map<string, Pool>} */
const pools = new Map();

const CSS = `
:host { display: block; position: relative; }
:host([hidden]) { display: none; }
.frame { position: relative; overflow: hidden; width: 100%; height: 100%; touch-action: pan-x pan-y; }
.frame:focus-visible { outline: 3px solid var(--car-accent, #3b82f6); outline-offset: 2px; }
.frame[data-zoomed] { cursor: grab; touch-action: none; }
.stage { position: relative; transform-origin: 0 0; overflow: hidden; }
.small { display: block; width: 100%; height: auto; }
.layer, .original { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.layer canvas { position: absolute; }
button {
  position: absolute; bottom: 10px; width: 40px; height: 40px; padding: 0; border: 0; border-radius: 50%; cursor: pointer;
  color: #fff; background: rgb(0 0 0 / .55); backdrop-filter: blur(6px); opacity: 0; transition: opacity .2s;
}
button svg { display: block; width: 40px; height: 40px; fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; }
button:focus-visible { outline: 3px solid var(--car-accent, #3b82f6); }
.restore { right: 10px; }
.compare { right: 58px; }
.frame:hover ~ button, button:hover, button:focus-visible, :host([data-state="loading"]) .restore,
:host([data-state="restoring"]) .restore, :host(:focus-within) button { opacity: 1; }
:host([data-state="restored"]) .restore, :host([controls="none"]) button { display: none; }
:host(:not([data-state="restored"]):not([data-state="restoring"])) .compare { display: none; }
.ring { transform: rotate(-90deg); transform-origin: center; stroke-width: 3; transition: stroke-dashoffset .2s; }
.handle {
  position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff; box-shadow: 0 0 4px rgb(0 0 0 / .6);
  pointer-events: none;
}
.slider { position: absolute; left: 0; top: 50%; width: 100%; height: 44px; margin: -22px 0 0; background: none; appearance: none; cursor: ew-resize; pointer-events: none; }
.slider::-webkit-slider-thumb { appearance: none; width: 36px; height: 36px; border: 2px solid #fff; border-radius: 50%; background: rgb(0 0 0 / .45); pointer-events: auto; }
.slider::-moz-range-thumb { width: 32px; height: 32px; border: 2px solid #fff; border-radius: 50%; background: rgb(0 0 0 / .45); pointer-events: auto; }
.slider:focus-visible { outline: 3px solid var(--car-accent, #3b82f6); }
.label { position: absolute; top: 10px; padding: 2px 8px; border-radius: 3px; font: 12px/1.5 system-ui, sans-serif; color: #fff; background: rgb(0 0 0 / .55); pointer-events: none; }
.label.before { left: 10px; } .label.after { right: 10px; }
.note { position: absolute; left: 10px; right: 106px; bottom: 10px; width: fit-content; padding: 4px 10px; border-radius: 3px; font: 12px/1.5 system-ui, sans-serif; color: #fff; background: rgb(0 0 0 / .65); }
.status { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
[hidden] { display: none !important; }
@media (hover: none) { button { opacity: 1; } }
@media (prefers-reduced-motion: reduce) { button, .ring { transition: none; } }
`;

const HTML = `
<div class="frame" part="frame" role="group" tabindex="0" aria-roledescription="restorable picture">
  <div class="stage"><img class="small" part="small" draggable="false" decoding="async"><div class="layer"></div><img class="original" alt="" draggable="false" hidden></div>
</div>
<div class="handle" hidden></div>
<span class="label before" aria-hidden="true" hidden></span><span class="label after" aria-hidden="true" hidden>Restored</span>
<input class="slider" type="range" min="0" max="100" value="50" step="1" hidden>
<button class="compare" type="button" aria-pressed="false" aria-label="Compare" title="Compare">
  <svg viewBox="0 0 40 40" aria-hidden="true"><path d="M20 9v22M16 15l-5 5 5 5M24 15l5 5-5 5"/></svg>
</button>
<button class="restore" type="button">
  <svg viewBox="0 0 40 40" aria-hidden="true"><circle class="ring" cx="20" cy="20" r="16" pathLength="100" stroke-dasharray="100" stroke-dashoffset="100"/><path class="icon" d="M17 12h-5v5M23 12h5v5M17 28h-5v-5M23 28h5v-5"/></svg>
</button>
<div class="note" part="note" hidden></div>
<div class="status" role="status"></div>
`;

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(CSS);

export class CarImage extends HTMLElement {
  static observedAttributes = ["src", "alt", "original", "restore", "compare"];

  /** @type {import("./picture.js").Info | null} */
  info = null;
  /** @type {State} */
  #state = "preview";
  #wanted = false; // the user, or the attribute, asked for restoring
  #inView = false;
  #generation = 0; // counts sources, so that what belongs to an earlier one is dropped
  #zoom = 1;
  #shift = { x: 0, y: 0 };
  /** @type {Map<number, { x: number, y: number }>} */
  #pointers = new Map();
  #moved = false;
  /** @type {import("./picture.js").Picture | null} */
  #picture = null;
  #halo = 0;
  /** @type {Tile[]} */
  #tiles = [];
  /** @type {Tile | null} */
  #first = null;
  /** @type {Pane[]} */
  #panes = [];
  /** @type {AbortController | null} */
  #fetching = null;
  #watch = new IntersectionObserver((entries) => {
    this.#inView = entries[entries.length - 1].isIntersecting;
    this.#update();
  }, { rootMargin: "100px" });
  #resize = new ResizeObserver(() => this.#update());
  #scrolled = () => {
    if (this.#tiles.length && this.#inView) this.#update();
  };

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = HTML;
    root.adoptedStyleSheets = [SHEET]; // a style element would need the page's policy to allow it
    /** @template {Element} T @param {string} selector @returns {T} */
    const part = (selector) => /** @type {any} */ (root.querySelector(selector));
    this.frame = /** @type {HTMLElement} */ (part(".frame"));
    this.stage = /** @type {HTMLElement} */ (part(".stage"));
    this.small = /** @type {HTMLImageElement} */ (part(".small"));
    this.layer = /** @type {HTMLElement} */ (part(".layer"));
    this.originalImage = /** @type {HTMLImageElement} */ (part(".original"));
    this.handle = /** @type {HTMLElement} */ (part(".handle"));
    this.labels = /** @type {HTMLElement[]} */ ([part(".label.before"), part(".label.after")]);
    this.slider = /** @type {HTMLInputElement} */ (part(".slider"));
    this.button = /** @type {HTMLButtonElement} */ (part(".restore"));
    this.compareButton = /** @type {HTMLButtonElement} */ (part(".compare"));
    this.ring = /** @type {SVGCircleElement} */ (part(".ring"));
    this.note = /** @type {HTMLElement} */ (part(".note"));
    this.status = /** @type {HTMLElement} */ (part(".status"));
    this.button.addEventListener("click", () => this.#toggle());
    this.compareButton.addEventListener("click", () => this.toggleAttribute("compare"));
    this.slider.addEventListener("input", () => this.#drawSlider());
    this.small.addEventListener("load", () => this.#update());
    this.originalImage.addEventListener("load", () => this.#drawSlider());
    this.originalImage.addEventListener("error", () => {
      this.#drawSlider();
      if (this.#state === "failed") return; // the note says why
      this.note.textContent = "The original cannot be shown. The slider compares with the small picture.";
      this.note.hidden = false;
    });
    this.small.addEventListener("error", () => this.#fail(new Error("the picture cannot be shown")));
    this.#listen();
    this.#say("preview");
  }

  /** What the element is at. */
  get state() {
    return this.#state;
  }

  /** Address of the small picture. */
  get src() {
    return this.getAttribute("src") ?? "";
  }

  set src(address) {
    this.setAttribute("src", address);
  }

  connectedCallback() {
    // a huge picture is restored where it is looked at; whatever scrolls, events of the capture phase tell
    document.addEventListener("scroll", this.#scrolled, { capture: true, passive: true });
    this.#watch.observe(this);
    this.#resize.observe(this);
    this.#wanted = this.getAttribute("restore") === "now" || this.#wanted;
    this.#update();
  }

  disconnectedCallback() {
    document.removeEventListener("scroll", this.#scrolled, { capture: true });
    this.#watch.disconnect();
    this.#resize.disconnect();
    this.#inView = false;
    this.#reset();
  }

  /**
   * @param {string} name
   * @param {string | null} before
   * @param {string | null} now
   */
  attributeChangedCallback(name, before, now) {
    if (name === "src" && before !== now) {
      this.#reset();
      this.#wanted = this.getAttribute("restore") === "now";
      this.#setZoom(1);
      if (now) this.small.src = now;
      else this.small.removeAttribute("src");
    }
    if (name === "alt") {
      this.small.alt = now ?? "";
      this.frame.setAttribute("aria-label", now || "picture");
    }
    if (name === "original") {
      if (this.#state !== "failed") this.note.hidden = true; // it was about another one
      if (now) this.originalImage.src = now;
      else this.originalImage.removeAttribute("src");
    }
    if (name === "restore" && now === "now") this.#wanted = true;
    if (name === "original" || name === "compare") this.#drawSlider();
    if (this.isConnected) this.#update();
  }

  /** Restore as soon as it is in view; nothing happens where it is done or under way. */
  restore() {
    this.#wanted = true;
    this.#update();
  }

  /** Stop restoring; what is painted stays. */
  cancel() {
    this.#wanted = false;
    this.#fetching?.abort();
    this.#fetching = null;
    this.#withdraw();
    if (this.#state === "loading" || this.#state === "restoring") this.#say("preview");
  }

  /**
   * Return the restored picture as a file.
   * @param {string} [type] of the file
   * @returns {Promise<Blob>}
   */
  async toBlob(type = "image/png") {
    if (!this.info || !this.#tiles.length || !this.#tiles.every((tile) => tile.done))
      throw new Error("the picture is not fully restored");
    const [width, height] = this.#size();
    if (width * height > MAX_SAVED_PIXELS) throw new Error("the picture is too large for the browser to write");
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    if (!context) throw new Error("the browser gives no canvas");
    for (const pane of this.#panes)
      context.drawImage(pane.canvas, pane.region.left * this.info.scale, pane.region.top * this.info.scale);
    return canvas.convertToBlob({ type });
  }

  // --- restoring -------------------------------------------------------------------------------------------------

  /** Whether it is worth restoring: what is shown has more pixels than the small picture. */
  #enlarged() {
    const shown = this.stage.clientWidth * this.#zoom * devicePixelRatio;
    return this.small.naturalWidth > 0 && shown > this.small.naturalWidth * 1.05;
  }

  /** Go on with whatever the situation asks for. */
  #update() {
    if (!this.isConnected) return;
    this.#drawSlider();
    const visible = (this.getAttribute("restore") ?? "visible") === "visible";
    const wanted = this.#wanted || (visible && this.#enlarged() && this.#state !== "failed");
    if (!this.#inView) {
      this.#withdraw();
      return;
    }
    if (!wanted || !this.src) return;
    if (!this.#picture) {
      if (!this.#fetching) void this.#load();
      return;
    }
    this.#queue();
  }

  async #load() {
    const generation = this.#generation;
    const fetching = new AbortController();
    this.#fetching = fetching;
    const late = () => generation !== this.#generation || fetching.signal.aborted;
    this.#say("loading");
    try {
      const response = await fetch(this.src, { signal: fetching.signal });
      if (!response.ok) throw new Error(`the picture cannot be fetched (${response.status})`);
      const file = new Uint8Array(await response.arrayBuffer());
      const info = readInfo(file);
      if (!info) throw new Error("the picture has no metadata that names its model");
      const pool = this.#pool();
      const address = new URL(`${info.weights}.safetensors`, new URL(this.getAttribute("models") ?? "models/", this.hasAttribute("models") ? document.baseURI : import.meta.url));
      const opening = pool.network(info.weights, address).catch(async (error) => {
        await forgetWeights(address);
        throw error;
      });
      const [picture, network] = await Promise.all([decode(file), opening]);
      if (late()) return;
      if (network.scale !== info.scale) throw new Error("the picture's metadata is damaged");
      const whole = [picture.width * info.scale, picture.height * info.scale];
      const cut = info.size.some((length, axis) => length > whole[axis] || length <= whole[axis] - info.scale);
      if (cut) info.size = /** @type {[number, number]} */ (whole); // it was cropped or resized later
      this.info = info;
      this.#picture = picture;
      this.#halo = network.halo;
      this.#tiles = split(picture.height, picture.width, TILE).map((region) => ({ region, job: null, done: false }));
      this.#first = null;
      this.#layOut();
      this.#say("restoring");
      this.#update();
    } catch (error) {
      if (!late()) this.#fail(error instanceof Error ? error : new Error(String(error)));
    } finally {
      if (this.#fetching === fetching) this.#fetching = null;
    }
  }

  #pool() {
    const device = /** @type {import("./pool.js").Device} */ (this.getAttribute("device") ?? "auto");
    let pool = pools.get(device);
    if (!pool) pools.set(device, (pool = new Pool(device)));
    return pool;
  }

  /** Width and height of what is restored. */
  #size() {
    return this.info?.size ?? [this.small.naturalWidth, this.small.naturalHeight];
  }

  /** Let the stage have the restored picture's shape; the small picture may reach beyond it by a few pixels. */
  #layOut() {
    if (!this.info || !this.#picture) return;
    const [width, height] = this.info.size;
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.small.style.width = `${(100 * this.#picture.width * this.info.scale) / width}%`;
    this.small.style.height = `${(100 * this.#picture.height * this.info.scale) / height}%`;
  }

  /** What of the small picture is in view, in its pixels. */
  #view() {
    const picture = /** @type {import("./picture.js").Picture} */ (this.#picture);
    const box = this.stage.getBoundingClientRect();
    const clip = this.frame.getBoundingClientRect();
    const [right, bottom] = [Math.min(clip.right, innerWidth), Math.min(clip.bottom, innerHeight)];
    const across = picture.width / (box.width || 1);
    const down = picture.height / (box.height || 1);
    return {
      top: (Math.max(clip.top, 0) - box.top) * down,
      bottom: (bottom - box.top) * down,
      left: (Math.max(clip.left, 0) - box.left) * across,
      right: (right - box.left) * across,
    };
  }

  /** Queue what is missing; of a huge picture, what is in view. */
  #queue() {
    const picture = /** @type {import("./picture.js").Picture} */ (this.#picture);
    const info = /** @type {import("./picture.js").Info} */ (this.info);
    const huge = picture.width * picture.height * info.scale ** 2 > KEPT_PIXELS;
    const view = this.#view();
    if (huge) this.#release(view);
    const missing = this.#tiles.filter((tile) => !tile.done && (!huge || overlaps(tile.region, view)));
    if (!missing.length) {
      if (this.#state === "restoring") this.#say("restored");
      return;
    }
    this.#say("restoring");
    if (!this.#first) {
      const [y, x] = [(view.top + view.bottom) / 2, (view.left + view.right) / 2];
      const place = (/** @type {number} */ centre, /** @type {number} */ length) =>
        Math.round(Math.max(0, Math.min(centre - FIRST_TILE / 2, length - FIRST_TILE)));
      const [top, left] = [place(y, picture.height), place(x, picture.width)];
      const region = { top, left, bottom: Math.min(top + FIRST_TILE, picture.height), right: Math.min(left + FIRST_TILE, picture.width) };
      this.#first = { region, job: null, done: false };
      this.#enqueue(this.#first, -1);
    }
    for (const tile of missing) if (!tile.job) this.#enqueue(tile, 0);
  }

  /**
   * @param {Tile} tile
   * @param {number} head is added to its rank
   */
  #enqueue(tile, head) {
    const picture = /** @type {import("./picture.js").Picture} */ (this.#picture);
    const info = /** @type {import("./picture.js").Info} */ (this.info);
    const generation = this.#generation;
    const region = tile.region;
    const rank = () => {
      const view = this.#view();
      const away = Math.hypot(
        (region.top + region.bottom - view.top - view.bottom) / 2,
        (region.left + region.right - view.left - view.right) / 2,
      );
      // what is in view comes first, whichever picture it is of
      return head * 1e9 + away + (overlaps(region, view) ? 0 : 1e6);
    };
    const window = windowOf(region, this.#halo, picture.height, picture.width);
    /** @type {Job} */
    const job = {
      network: info.weights,
      rank,
      tile: () => ({
        pixels: cropped(picture.pixels, picture.height, picture.width, window),
        height: window.bottom - window.top,
        width: window.right - window.left,
        core: moved(region, window),
        inside: moved(grown(window, 0, picture.height, picture.width), window),
        grey: info.grey,
        alpha: picture.alpha,
      }),
      done: async (restored) => {
        const stale = () => generation !== this.#generation || picture !== this.#picture;
        if (stale()) return;
        await this.#paint(region, restored);
        if (stale()) return;
        tile.job = null;
        tile.done = true;
        this.#progress();
      },
      failed: (error) => {
        if (generation === this.#generation && picture === this.#picture) this.#fail(error);
      },
    };
    tile.job = job;
    this.#pool().add(job);
  }

  #withdraw() {
    for (const tile of [...this.#tiles, ...(this.#first ? [this.#first] : [])]) {
      if (tile.job && this.#pool().remove(tile.job)) {
        tile.job = null;
        if (tile === this.#first) this.#first = null;
      }
    }
  }

  /**
   * @param {Region} region
   * @param {Uint8ClampedArray} restored
   */
  async #paint(region, restored) {
    const picture = /** @type {import("./picture.js").Picture} */ (this.#picture);
    const scale = /** @type {import("./picture.js").Info} */ (this.info).scale;
    const [width, height] = [(region.right - region.left) * scale, (region.bottom - region.top) * scale];
    const data = new ImageData(/** @type {Uint8ClampedArray<ArrayBuffer>} */ (restored), width, height);
    const bitmap = picture.profile ? await withProfile(restored, width, height, picture.profile) : null;
    if (picture !== this.#picture) return;
    for (const at of split(picture.height, picture.width, PANE)) {
      // canvases lie over one another by a pixel, or a hairline would show between them
      const pane = grown(at, 1, picture.height, picture.width);
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
   * @param {Region} region
   * @returns {Pane}
   */
  #pane(region) {
    const known = this.#panes.find((pane) => pane.region.top === region.top && pane.region.left === region.left);
    if (known) return known;
    const info = /** @type {import("./picture.js").Info} */ (this.info);
    const [width, height] = info.size;
    const canvas = document.createElement("canvas");
    canvas.width = Math.min(region.right * info.scale, width) - region.left * info.scale;
    canvas.height = Math.min(region.bottom * info.scale, height) - region.top * info.scale;
    canvas.style.left = `${(100 * region.left * info.scale) / width}%`;
    canvas.style.top = `${(100 * region.top * info.scale) / height}%`;
    canvas.style.width = `${(100 * canvas.width) / width}%`;
    canvas.style.height = `${(100 * canvas.height) / height}%`;
    const context = canvas.getContext("2d");
    if (!context) throw new Error("the browser gives no canvas");
    this.layer.append(canvas);
    const pane = { region, canvas, context };
    this.#panes.push(pane);
    return pane;
  }

  /**
   * Give back the canvases of a huge picture that are far from view.
   * @param {Region} view
   */
  #release(view) {
    const near = grown(view, PANE, Infinity, Infinity);
    const [away, kept] = [/** @type {Pane[]} */ ([]), /** @type {Pane[]} */ ([])];
    for (const pane of this.#panes) (overlaps(pane.region, near) ? kept : away).push(pane);
    for (const pane of away) {
      pane.canvas.width = 0; // frees its memory at once
      pane.canvas.remove();
      for (const tile of this.#tiles) if (overlaps(tile.region, pane.region)) tile.done = false;
    }
    this.#panes = kept;
  }

  /** Forget everything about the present source. */
  #reset() {
    this.cancel();
    this.#generation++;
    for (const pane of this.#panes) {
      pane.canvas.width = 0;
      pane.canvas.remove();
    }
    this.#panes = [];
    this.#tiles = [];
    this.#first = null;
    this.#picture = null;
    this.info = null;
    this.stage.style.aspectRatio = "";
    this.small.style.width = this.small.style.height = "";
    this.note.hidden = true;
    this.#say("preview");
  }

  // --- what is shown -----------------------------------------------------------------------------------------------

  #progress() {
    const waiting = this.#tiles.filter((tile) => tile.job).length;
    const total = this.#tiles.length;
    const done = this.#tiles.filter((tile) => tile.done).length;
    this.ring.setAttribute("stroke-dashoffset", String(100 - (100 * done) / Math.max(1, done + waiting)));
    this.dispatchEvent(new CustomEvent("car-progress", { detail: { done, total }, bubbles: true, composed: true }));
    if (!waiting && this.#state === "restoring") this.#update();
  }

  /**
   * @param {State} state
   * @param {string} [message]
   */
  #say(state, message = "") {
    if (state === this.#state && this.dataset.state) return;
    this.#state = state;
    // a constructor may not add attributes
    if (this.isConnected) this.dataset.state = state;
    const [width, height] = this.#size();
    const busy = state === "loading" || state === "restoring";
    this.button.setAttribute("aria-label", busy ? "Stop restoring" : "Restore full detail");
    this.button.title = busy ? "Stop restoring" : "Restore full detail";
    if (state !== "restoring") this.ring.setAttribute("stroke-dashoffset", busy ? "92" : "100");
    this.status.textContent =
      { preview: "", loading: "Restoring", restoring: "Restoring", restored: `Restored to ${width} by ${height} pixels`, failed: message }[state];
    this.#drawSlider();
    this.dispatchEvent(new CustomEvent("car-state", { detail: { state, message }, bubbles: true, composed: true }));
  }

  /** @param {Error} error */
  #fail(error) {
    const nothing = this.small.complete && !this.small.naturalWidth; // is shown, not even the small picture
    if (this.#state === "failed" && !nothing) return;
    this.#wanted = false;
    this.#withdraw();
    this.#picture = null; // another attempt begins anew
    this.#tiles = [];
    this.#first = null;
    const reason = error.message.replace(/^(Error: )+/, "");
    this.note.textContent = nothing ? `Cannot be shown: ${reason}` : `Not restored, only enlarged: ${reason}`;
    this.note.hidden = false;
    this.#say("failed", this.note.textContent);
  }

  #toggle() {
    if (this.#state === "loading" || this.#state === "restoring") {
      this.cancel();
      return;
    }
    this.note.hidden = true;
    if (this.#state === "failed") this.#say("preview");
    this.restore();
  }

  /** Left of the slider is what was before: the small picture, or the original. */
  #drawSlider() {
    const comparing = this.hasAttribute("compare") && (this.#state === "restored" || this.#state === "restoring");
    const original = this.hasAttribute("original") && this.originalImage.naturalWidth > 0; // there, and a picture
    this.compareButton.setAttribute("aria-pressed", String(this.hasAttribute("compare")));
    this.slider.setAttribute("aria-label", `Compare the ${original ? "original" : "small picture"} with the restored one`);
    this.labels[0].textContent = original ? "Original" : "Small";
    for (const part of [this.handle, this.slider, ...this.labels]) part.hidden = !comparing;
    this.originalImage.hidden = !(comparing && original);
    const part = Number(this.slider.value) / 100;
    // the thumb's middle stops half its width before the ends
    const thumb = 36;
    const width = this.clientWidth;
    const x = comparing ? thumb / 2 + part * (width - thumb) : 0;
    this.handle.style.left = `${x}px`;
    const cut = Math.max(0, (x - this.#shift.x) / this.#zoom);
    this.layer.style.clipPath = comparing && !original ? `inset(0 0 0 ${cut}px)` : "";
    // through what is transparent, the small picture would be seen below the restored one
    const below = this.#picture?.alpha && (comparing || this.#state === "restored");
    this.small.style.clipPath = below ? `inset(0 ${Math.max(0, this.stage.clientWidth - cut)}px 0 0)` : "";
    this.originalImage.style.clipPath = `inset(0 ${Math.max(0, this.stage.clientWidth - cut)}px 0 0)`;
  }

  // --- zoom --------------------------------------------------------------------------------------------------------

  /**
   * @param {number} zoom
   * @param {{ x: number, y: number }} [centre] in the frame, stays where it is
   */
  #setZoom(zoom, centre = { x: this.frame.clientWidth / 2, y: this.frame.clientHeight / 2 }) {
    const next = Math.max(1, Math.min(MAX_ZOOM, zoom));
    const factor = next / this.#zoom;
    this.#shift = {
      x: centre.x - (centre.x - this.#shift.x) * factor,
      y: centre.y - (centre.y - this.#shift.y) * factor,
    };
    this.#zoom = next;
    this.#move(0, 0);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  #move(x, y) {
    const within = (/** @type {number} */ shift, /** @type {number} */ length) =>
      Math.min(0, Math.max(length * (1 - this.#zoom), shift));
    this.#shift = {
      x: within(this.#shift.x + x, this.frame.clientWidth),
      y: within(this.#shift.y + y, this.frame.clientHeight),
    };
    const zoomed = this.#zoom > 1;
    this.frame.toggleAttribute("data-zoomed", zoomed);
    this.stage.style.transform = zoomed ? `translate(${this.#shift.x}px, ${this.#shift.y}px) scale(${this.#zoom})` : "";
    if (zoomed) this.#wanted ||= (this.getAttribute("restore") ?? "visible") !== "none";
    this.#update();
  }

  #listen() {
    const frame = this.frame;
    const place = (/** @type {MouseEvent} */ event) => {
      const box = frame.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    frame.addEventListener("wheel", (event) => {
      // a wheel alone scrolls the page; pinching on a touchpad comes as a wheel with ctrl
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.#setZoom(this.#zoom * 2 ** (-event.deltaY / 200), place(event));
    }, { passive: false });
    frame.addEventListener("dblclick", (event) => this.#setZoom(this.#zoom > 1 ? 1 : 4, place(event)));
    frame.addEventListener("pointerdown", (event) => {
      this.#pointers.set(event.pointerId, place(event));
      this.#moved = false;
      if (this.#zoom > 1 || this.#pointers.size > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      const before = this.#pointers.get(event.pointerId);
      if (!before) return;
      const now = place(event);
      if (Math.hypot(now.x - before.x, now.y - before.y) > 3) this.#moved = true;
      const others = [...this.#pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      this.#pointers.set(event.pointerId, now);
      if (others.length) {
        const distance = (/** @type {{ x: number, y: number }} */ at) => Math.hypot(at.x - others[0].x, at.y - others[0].y);
        this.#setZoom((this.#zoom * distance(now)) / (distance(before) || 1), { x: (now.x + others[0].x) / 2, y: (now.y + others[0].y) / 2 });
      } else if (this.#zoom > 1) this.#move(now.x - before.x, now.y - before.y);
    });
    const end = (/** @type {PointerEvent} */ event) => this.#pointers.delete(event.pointerId);
    for (const name of /** @type {const} */ (["pointerup", "pointercancel", "pointerleave"])) frame.addEventListener(name, end);
    frame.addEventListener("click", () => {
      const mode = this.getAttribute("restore") ?? "visible";
      if (!this.#moved && mode !== "none" && this.#state !== "failed") this.restore();
    });
    frame.addEventListener("keydown", (event) => {
      const step = frame.clientWidth / 8;
      /** @type {Record<string, () => void>} */
      const actions = {
        Enter: () => this.#toggle(),
        " ": () => this.#toggle(),
        "+": () => this.#setZoom(this.#zoom * 1.5),
        "=": () => this.#setZoom(this.#zoom * 1.5),
        "-": () => this.#setZoom(this.#zoom / 1.5),
        0: () => this.#setZoom(1),
        c: () => this.toggleAttribute("compare"),
      };
      // otherwise it is for what the picture lies in, such as a dialog
      if (this.#zoom > 1) actions.Escape = () => this.#setZoom(1);
      else if (this.#state === "loading" || this.#state === "restoring") actions.Escape = () => this.cancel();
      if (this.#zoom > 1) {
        actions.ArrowLeft = () => this.#move(step, 0);
        actions.ArrowRight = () => this.#move(-step, 0);
        actions.ArrowUp = () => this.#move(0, step);
        actions.ArrowDown = () => this.#move(0, -step);
      }
      const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : actions[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    });
  }
}

customElements.define("car-image", CarImage);
