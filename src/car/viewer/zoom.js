// Zoom of a stage within its frame, by wheel, double click, pinching and dragging.

const MAX_ZOOM = 16;

/** @typedef {{ x: number, y: number }} Point */

export class Zoom {
  factor = 1;
  /** @type {Point} */
  shift = { x: 0, y: 0 };
  /** Whether the latest press of a pointer was a drag, not a click. */
  dragged = false;
  /** @type {Map<number, Point>} */
  #pointers = new Map();

  /**
   * @param {HTMLElement} frame
   * @param {HTMLElement} stage
   * @param {() => void} changed is called after each change
   */
  constructor(frame, stage, changed) {
    this.frame = frame;
    this.stage = stage;
    this.changed = changed;
    frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    frame.addEventListener("dblclick", (event) => this.set(this.factor > 1 ? 1 : 4, this.#place(event)));
    frame.addEventListener("pointerdown", (event) => {
      this.#pointers.set(event.pointerId, this.#place(event));
      this.dragged = false;
      if (this.factor > 1 || this.#pointers.size > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => this.#drag(event));
    const end = (/** @type {PointerEvent} */ event) => this.#pointers.delete(event.pointerId);
    for (const name of /** @type {const} */ (["pointerup", "pointercancel", "pointerleave"])) frame.addEventListener(name, end);
  }

  /**
   * @param {number} factor
   * @param {Point} [centre] in the frame, stays where it is
   */
  set(factor, centre = { x: this.frame.clientWidth / 2, y: this.frame.clientHeight / 2 }) {
    const next = Math.max(1, Math.min(MAX_ZOOM, factor));
    const more = next / this.factor;
    this.shift = { x: centre.x - (centre.x - this.shift.x) * more, y: centre.y - (centre.y - this.shift.y) * more };
    this.factor = next;
    this.move(0, 0);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  move(x, y) {
    const within = (/** @type {number} */ shift, /** @type {number} */ length) =>
      Math.min(0, Math.max(length * (1 - this.factor), shift));
    this.shift = {
      x: within(this.shift.x + x, this.frame.clientWidth),
      y: within(this.shift.y + y, this.frame.clientHeight),
    };
    const zoomed = this.factor > 1;
    this.frame.toggleAttribute("data-zoomed", zoomed);
    this.stage.style.transform = zoomed ? `translate(${this.shift.x}px, ${this.shift.y}px) scale(${this.factor})` : "";
    this.changed();
  }

  /**
   * What the keys do.
   * @returns {Record<string, () => void>}
   */
  keys() {
    const step = this.frame.clientWidth / 8;
    /** @type {Record<string, () => void>} */
    const always = {
      "+": () => this.set(this.factor * 1.5),
      "=": () => this.set(this.factor * 1.5),
      "-": () => this.set(this.factor / 1.5),
      0: () => this.set(1),
    };
    if (this.factor === 1) return always;
    return {
      ...always,
      Escape: () => this.set(1),
      ArrowLeft: () => this.move(step, 0),
      ArrowRight: () => this.move(-step, 0),
      ArrowUp: () => this.move(0, step),
      ArrowDown: () => this.move(0, -step),
    };
  }

  /**
   * @param {MouseEvent} event
   * @returns {Point} in the frame
   */
  #place(event) {
    const box = this.frame.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    // a wheel alone scrolls the page; pinching on a touchpad comes as a wheel with ctrl
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.set(this.factor * 2 ** (-event.deltaY / 200), this.#place(event));
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#place(event);
    if (Math.hypot(now.x - before.x, now.y - before.y) > 3) this.dragged = true;
    const others = [...this.#pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    this.#pointers.set(event.pointerId, now);
    if (others.length) {
      const distance = (/** @type {Point} */ at) => Math.hypot(at.x - others[0].x, at.y - others[0].y);
      const centre = { x: (now.x + others[0].x) / 2, y: (now.y + others[0].y) / 2 };
      this.set((this.factor * distance(now)) / (distance(before) || 1), centre);
    } else if (this.factor > 1) this.move(now.x - before.x, now.y - before.y);
  }
}
