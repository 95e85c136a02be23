import "./viewer/car-image.js";

/** @template {HTMLElement} T @param {string} id @returns {T} */
const byId = (id) => /** @type {any} */ (document.getElementById(id));
const view = /** @type {HTMLDialogElement} */ (byId("view"));
const stage = byId("stage");
const links = /** @type {HTMLAnchorElement[]} */ ([...document.querySelectorAll(".wall a")]);
let at = -1;
let pushed = false; // the address of the wall is the one before in the history

/** The picture that is open. */
const shown = () => /** @type {import("../../viewer/car-image.js").CarImage} */ (stage.firstElementChild);

/** Where in a picture an event began, rather than the picture. @param {Event} event */
const origin = (event) => /** @type {Element} */ (event.composedPath()[0]);

/** What of an address names a picture: its file, without folder. */
const key = (/** @type {HTMLAnchorElement} */ link) => `#${link.getAttribute("href")?.replace(/^pictures\//, "")}`;

/** Show the picture that the address names; none, if it names none. */
function follow() {
  const found = links.findIndex((link) => key(link) === location.hash);
  if (found < 0) {
    pushed = false;
    if (view.open) view.close("address");
    return;
  }
  if (view.open && at === found) return; // shown already, as `move` did
  at = found;
  const link = links[at];
  const { width, height } = link.dataset;
  const picture = /** @type {import("../../viewer/car-image.js").CarImage} */ (document.createElement("car-image"));
  const image = /** @type {HTMLImageElement} */ (link.firstElementChild);
  picture.setAttribute("alt", image.alt);
  picture.setAttribute("src", link.href);
  picture.style.setProperty("--ratio", String(Number(width) / Number(height)));
  const focused = stage.contains(document.activeElement);
  stage.replaceChildren(picture);
  if (focused) picture.frame.focus(); // or it would be lost with the picture before
  byId("caption").textContent = `${image.alt} — ${width} × ${height}`;
  byId("previous").hidden = byId("next").hidden = links.length < 2;
  view.returnValue = "";
  if (!view.open) view.showModal();
}

/** @param {number} step */
function move(step) {
  // not a new entry of the history for each: Back leads to the wall
  location.replace(key(links[(at + step + links.length) % links.length]));
  follow(); // the event comes later, perhaps after the next key
}

for (const link of links)
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    pushed = true;
    location.hash = key(link);
  });
view.addEventListener("close", () => {
  if (view.open) return; // the event comes late: it is open again
  stage.replaceChildren(); // stops restoring
  // closed by Back, the address is right, or already that of what is shown next
  if (view.returnValue !== "address") {
    if (pushed) history.back();
    else history.replaceState(null, "", location.pathname + location.search);
  }
  pushed = false;
  links[at]?.focus();
});
byId("close").addEventListener("click", () => view.close());
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
// where nothing has the focus, keys come to the page alone
addEventListener("keydown", (event) => {
  const { key, ctrlKey, metaKey, altKey } = event;
  if (!view.open || event.defaultPrevented) return;
  if (key.startsWith("Arrow") && origin(event).matches("input")) return; // they move the slider
  // wherever the focus is, the picture has its keys, but for those that are for what has the focus
  const same = new KeyboardEvent("keydown", { key, ctrlKey, metaKey, altKey, cancelable: true });
  const others = ["Enter", " ", "Escape"].includes(key) || event.composedPath().includes(shown().frame);
  if (!others && !shown().frame.dispatchEvent(same)) event.preventDefault();
  // a picture that is zoomed takes the arrows for itself
  else if (key === "ArrowLeft" || key === "ArrowRight") move(key === "ArrowLeft" ? -1 : 1);
});
let touched = { x: 0, y: 0, fingers: 0 };
view.addEventListener(
  "touchstart",
  (event) => {
    const { touches } = event;
    // a finger on the slider compares
    const fingers = origin(event).matches("input") ? 0 : touches.length;
    touched = { x: touches[0].clientX, y: touches[0].clientY, fingers };
  },
  { passive: true },
);
view.addEventListener("touchend", ({ changedTouches: [touch] }) => {
  const zoomed = shown().frame.matches("[data-zoomed]");
  const [x, y] = [touch.clientX - touched.x, touch.clientY - touched.y];
  if (!zoomed && touched.fingers === 1 && Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) move(x > 0 ? -1 : 1);
});
addEventListener("hashchange", follow);
byId("plain").hidden = true;
follow();
