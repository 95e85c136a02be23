// <car-image src="photo.x4.png" alt="..."></car-image>: a small picture that restores its detail where it is viewed.
// docs/viewer.md describes attributes, properties and events.

import { Panes } from "./panes.js";
import { decode, readInfo } from "./picture.js";
import { addressOf, forgetWeights, Pool } from "./pool.js";
import { fullSize, marginOf, smallSize } from "./resample.js";
import { fill } from "./template.js";
import { cropped, grown, moved, overlaps, split, windowOf } from "./tiles.js";
import { Zoom } from "./zoom.js";

export { addresses } from "./pool.js";

/** @typedef {import("./tiles.js").Region} Region */
/** @typedef {import("./pool.js").Job} Job */
/** @typedef {"preview" | "loading" | "restoring" | "restored" | "failed"} State */
/** @typedef {{ region: Region, job: Job | null, done: boolean }} Tile */

const FIRST_TILE = 32; // pixels of the small picture; seen soon, but half of the work on it is for its surroundings
const TILE = 128;
const KEPT_PIXELS = 48_000_000; // restored pixels held at once; of larger pictures only what is in view
const MAX_SAVED_PIXELS = 100_000_000;

/** @type {Map<string, Pool>} */
const pools = new Map();

export class CarImage extends HTMLElement {
  static observedAttributes = ["src", "alt", "original", "restore", "compare"];

  /** @type {import("./picture.js").Info | null} */
  info = null;
  /** @type {State} */
  #state = "preview";
  #wanted = false; // the user, or the attribute, asked for restoring
  #inView = false;
  #generation = 0; // counts sources, so that what belongs to an earlier one is dropped
  /** @type {import("./picture.js").Picture | null} */
  #picture = null;
  #halo = 0;
  /** @type {Tile[]} */
  #tiles = [];
  /** @type {Tile | null} */
  #first = null;
  /** @type {Panes | null} */
  #panes = null;
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
    const parts = fill(root);
    this.frame = parts.frame;
    this.stage = parts.stage;
    this.small = parts.small;
    this.layer = parts.layer;
    this.originalImage = parts.original;
    this.handle = parts.handle;
    this.labels = parts.labels;
    this.slider = parts.slider;
    this.button = parts.button;
    this.compareButton = parts.compare;
    this.ring = parts.ring;
    this.note = parts.note;
    this.status = parts.status;
    this.zoom = new Zoom(this.frame, this.stage, () => {
      if (this.zoom.factor > 1) this.#wanted ||= (this.getAttribute("restore") ?? "visible") !== "none";
      this.#update();
    });
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
      this.zoom.set(1);
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
    this.#panes?.copy(context);
    return canvas.convertToBlob({ type });
  }

  // --- restoring -------------------------------------------------------------------------------------------------

  /** Whether it is worth restoring: what is shown has more pixels than the small picture. */
  #enlarged() {
    const shown = this.stage.clientWidth * this.zoom.factor * devicePixelRatio;
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
      const address = addressOf(info.weights, this.getAttribute("models"));
      const opening = pool.network(info.weights, address).catch(async (error) => {
        await forgetWeights(address);
        throw error;
      });
      const [picture, network] = await Promise.all([decode(file), opening]);
      if (late()) return;
      const small = smallSize(info.size, info.scale);
      if (small[0] !== picture.width || small[1] !== picture.height) // it was cropped or resized later
        info.size = fullSize([picture.width, picture.height], info.scale);
      this.info = info;
      this.#picture = picture;
      this.#panes?.clear(); // an earlier attempt failed
      this.#panes = new Panes(this.layer, picture, info, network.scale);
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
    const { right, bottom } = /** @type {Panes} */ (this.#panes).part({ top: 0, left: 0, right: this.#picture.width, bottom: this.#picture.height });
    this.small.style.width = `${(100 * right) / width}%`;
    this.small.style.height = `${(100 * bottom) / height}%`;
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
    const lost = huge ? this.#panes?.release(view) ?? [] : [];
    for (const tile of this.#tiles) if (lost.some((region) => overlaps(tile.region, region))) tile.done = false;
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
    const panes = /** @type {Panes} */ (this.#panes);
    const native = panes.native;
    const same = native === info.scale;
    const core = same ? region : grown(region, marginOf(native, info.scale), picture.height, picture.width);
    const fit = same ? null : { native, core, size: info.size, small: /** @type {[number, number]} */ ([picture.width, picture.height]), part: panes.part(region) };
    const window = windowOf(core, this.#halo, picture.height, picture.width);
    /** @type {Job} */
    const job = {
      network: info.weights,
      rank,
      tile: () => ({
        pixels: cropped(picture.pixels, picture.height, picture.width, window),
        height: window.bottom - window.top,
        width: window.right - window.left,
        core: moved(core, window),
        inside: moved(grown(window, 0, picture.height, picture.width), window),
        grey: info.grey,
        alpha: picture.alpha,
        fit,
      }),
      done: async (restored) => {
        const stale = () => generation !== this.#generation || picture !== this.#picture;
        if (stale()) return;
        await this.#panes?.paint(region, restored, stale);
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

  /** Forget everything about the present source. */
  #reset() {
    this.cancel();
    this.#generation++;
    this.#panes?.clear();
    this.#panes = null;
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
    const cut = Math.max(0, (x - this.zoom.shift.x) / this.zoom.factor);
    this.layer.style.clipPath = comparing && !original ? `inset(0 0 0 ${cut}px)` : "";
    // through what is transparent, the small picture would be seen below the restored one
    const below = this.#picture?.alpha && (comparing || this.#state === "restored");
    this.small.style.clipPath = below ? `inset(0 ${Math.max(0, this.stage.clientWidth - cut)}px 0 0)` : "";
    this.originalImage.style.clipPath = `inset(0 ${Math.max(0, this.stage.clientWidth - cut)}px 0 0)`;
  }

  #listen() {
    this.frame.addEventListener("click", () => {
      const mode = this.getAttribute("restore") ?? "visible";
      if (!this.zoom.dragged && mode !== "none" && this.#state !== "failed") this.restore();
    });
    this.frame.addEventListener("keydown", (event) => {
      /** @type {Record<string, () => void>} */
      const actions = {
        Enter: () => this.#toggle(),
        " ": () => this.#toggle(),
        c: () => this.toggleAttribute("compare"),
        // otherwise it is for what the picture lies in, such as a dialog
        ...(this.#state === "loading" || this.#state === "restoring" ? { Escape: () => this.cancel() } : {}),
        ...this.zoom.keys(),
      };
      const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : actions[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    });
  }
}

customElements.define("car-image", CarImage);
