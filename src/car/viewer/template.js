// What <car-image> is made of: its style, its markup, and the parts by name.

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

/**
 * Fill a shadow root.
 * @param {ShadowRoot} root
 */
export function fill(root) {
  root.innerHTML = HTML;
  root.adoptedStyleSheets = [SHEET]; // a style element would need the page's policy to allow it
  /** @template {Element} T @param {string} selector @returns {T} */
  const part = (selector) => /** @type {any} */ (root.querySelector(selector));
  return {
    frame: /** @type {HTMLElement} */ (part(".frame")),
    stage: /** @type {HTMLElement} */ (part(".stage")),
    small: /** @type {HTMLImageElement} */ (part(".small")),
    layer: /** @type {HTMLElement} */ (part(".layer")),
    original: /** @type {HTMLImageElement} */ (part(".original")),
    handle: /** @type {HTMLElement} */ (part(".handle")),
    labels: /** @type {HTMLElement[]} */ ([part(".label.before"), part(".label.after")]),
    slider: /** @type {HTMLInputElement} */ (part(".slider")),
    button: /** @type {HTMLButtonElement} */ (part(".restore")),
    compare: /** @type {HTMLButtonElement} */ (part(".compare")),
    ring: /** @type {SVGCircleElement} */ (part(".ring")),
    note: /** @type {HTMLElement} */ (part(".note")),
    status: /** @type {HTMLElement} */ (part(".status")),
  };
}
