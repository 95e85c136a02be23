import "../viewer/car-image.js";

/** @typedef {import("../../viewer/car-image.js").CarImage} CarImage */

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const form = /** @type {HTMLFormElement} */ (byId("form"));
const input = /** @type {HTMLInputElement} */ (byId("file"));
const link = /** @type {HTMLAnchorElement} */ (byId("small"));
const save = /** @type {HTMLButtonElement} */ (byId("large"));
/** @type {string[]} */
let addresses = [];
let turn = 0; // counts photographs, so that a late answer for an earlier one is dropped
/** @type {File | undefined} */
let chosen;

/** @param {Blob} blob */
function address(blob) {
  addresses.push(URL.createObjectURL(blob));
  return addresses[addresses.length - 1];
}

/** @param {number} bytes */
function size(bytes) {
  if (bytes < 1e3) return `${bytes} bytes`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

/** @param {Array<[string, string]>} rows */
function show(rows) {
  byId("numbers").replaceChildren(
    ...rows.map(([name, value]) => {
      const [row, term, definition] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      term.textContent = name;
      definition.textContent = value;
      row.append(term, definition);
      return row;
    }),
  );
}

/**
 * @param {string} route
 * @param {Blob} body
 */
async function send(route, body) {
  const response = await fetch(route, { method: "POST", body }).catch(() => {
    throw new Error("the server cannot be reached");
  });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

/** @param {File} photograph */
async function shrink(photograph) {
  const mine = ++turn;
  const values = new FormData(form);
  const scale = values.get("scale");
  const wanted = scale ? `scale=${scale}` : `size=${values.get("size")}`;
  byId("message").textContent = `Shrinking ${photograph.name} …`;
  byId("result").hidden = true;
  for (const old of addresses) URL.revokeObjectURL(old);
  addresses = [];
  try {
    const small = await (await send(`v1/downscale?${wanted}`, photograph)).blob();
    const { width, height } = await createImageBitmap(small);
    if (mine !== turn) return;
    const picture = /** @type {CarImage} */ (document.createElement("car-image"));
    picture.setAttribute("alt", `${photograph.name}, restored`);
    picture.setAttribute("original", address(photograph));
    picture.setAttribute("compare", "");
    picture.setAttribute("restore", "now");
    picture.style.setProperty("--ratio", String(width / height));
    save.disabled = true;
    picture.addEventListener("car-state", () => {
      save.disabled = picture.state !== "restored";
    });
    picture.setAttribute("src", address(small));
    save.onclick = async () => {
      const saved = document.createElement("a");
      saved.href = address(await picture.toBlob());
      saved.download = `${photograph.name.replace(/\.\w+$/, "")}.restored.png`;
      saved.click();
    };
    byId("stage").replaceChildren(picture);
    link.href = address(small);
    link.download = `${photograph.name.replace(/\.\w+$/, "")}.${scale ? `x${scale}` : `size${values.get("size")}`}.png`;
    /** @type {Array<[string, string]>} */
    const rows = [
      ["Photograph", size(photograph.size)],
      ["Small picture", size(small.size)],
    ];
    show(rows);
    byId("result").hidden = false;
    byId("message").textContent = "";
    const measured = await (await send(`v1/compare?${wanted}`, photograph)).json();
    if (mine !== turn) return;
    const decibels = (/** @type {number | null} */ value) => (value === null ? "identical" : `${value.toFixed(2)} dB`);
    rows[0][1] += `, ${measured.width} × ${measured.height}`;
    rows[1][1] += `, ${measured.small_width} × ${measured.small_height}`;
    rows.push(["PSNR of the restored picture", decibels(measured.restored.psnr)]);
    rows.push(["PSNR of bicubic shrinking and restoring", decibels(measured.bicubic.psnr)]);
    show(rows);
  } catch (error) {
    if (mine === turn) byId("message").textContent = error instanceof Error ? error.message : String(error);
  }
}

input.addEventListener("change", () => {
  chosen = input.files?.[0];
  if (chosen) void shrink(chosen);
  input.value = ""; // the same file may be chosen again
});
form.addEventListener("change", (event) => {
  const size = /** @type {HTMLInputElement} */ (event.target);
  if (size.name === "size") {
    if (!form.reportValidity()) return;
    const choice = /** @type {HTMLInputElement} */ (form.querySelector('input[name="scale"][value=""]'));
    choice.checked = true; // who names a size wants it
  }
  if (event.target !== input && chosen) void shrink(chosen);
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
addEventListener("dragleave", () => byId("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  chosen = event.dataTransfer?.files[0];
  if (chosen) void shrink(chosen);
});

const names = /** @type {string[]} */ (await (await fetch("v1/pictures")).json());
byId("folder").hidden = !names.length;
byId("pictures").append(
  ...names.map((name) => {
    const [figure, caption] = [document.createElement("figure"), document.createElement("figcaption")];
    const picture = document.createElement("car-image");
    picture.setAttribute("src", `small/${name.split("/").map(encodeURIComponent).join("/")}`);
    picture.setAttribute("alt", name);
    picture.setAttribute("restore", "click");
    caption.textContent = name;
    figure.append(picture, caption);
    return figure;
  }),
);
