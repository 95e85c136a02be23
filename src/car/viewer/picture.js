// Small picture files: what they say about themselves (car/pictures/metadata.py), and their pixels, unchanged.

/**
 * @typedef {object} Info what a small picture says about itself
 * @property {string} model
 * @property {string} weights first digits of the hash of its weights
 * @property {number} scale
 * @property {[number, number]} size width and height of the original
 * @property {boolean} grey
 */

/**
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array | Uint8ClampedArray} pixels RGBA, not premultiplied
 * @property {boolean} alpha whether a pixel is not opaque
 * @property {Uint8Array | null} profile ICC, where there is one
 */

const PNG_SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const MAX_METADATA_BYTES = 65536;
const MAX_PIXELS = 50_000_000; // of the small picture

/**
 * The text lies in the file as it is, whatever the format.
 * @param {Uint8Array} file
 * @returns {Info | null} null where the file says nothing
 * @throws if a value in the metadata is impossible
 */
export function readInfo(file) {
  const at = find(file, 'car:["', 0);
  const end = at < 0 ? -1 : find(file, "]", at);
  if (end < 0 || end - at > MAX_METADATA_BYTES) return null;
  const [model, weights, scale, width, height, grey = false] = JSON.parse(latin1(file.subarray(at + 4, end + 1)));
  return checked({ model, weights, scale, size: [width, height], grey });
}

/**
 * @param {any} info
 * @returns {Info}
 */
function checked(info) {
  const whole = (/** @type {unknown} */ n) => Number.isInteger(n) && Number(n) > 0;
  const good =
    /^[\w.-]{1,64}$/.test(info.model) &&
    /^[0-9a-f]{8,64}$/.test(info.weights) &&
    Number.isFinite(info.scale) && info.scale >= 1 && info.scale <= 64 &&
    info.size?.length === 2 &&
    info.size.every(whole);
  if (!good) throw new Error("the picture's metadata is damaged");
  return { model: info.model, weights: info.weights, scale: info.scale, size: info.size, grey: info.grey === true };
}

/**
 * Decode a picture without colour management: the network wants the numbers that were written.
 * @param {Uint8Array} file
 * @returns {Promise<Picture>}
 */
export async function decode(file) {
  return (await decodePng(file)) ?? decodeByBrowser(file);
}

/** @param {Uint8Array} file */
async function decodeByBrowser(file) {
  const blob = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (file)]);
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  check(width, height);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("the browser gives no canvas");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, pixels, alpha: transparent(pixels), profile: webpProfile(file) };
}

/**
 * Decode a PNG of 8 or 16 bits a channel in colour, as `car` writes it; null for all others. A canvas would apply
 * profiles and gamma, and multiply colours by their opacity.
 * @param {Uint8Array} file
 * @returns {Promise<Picture | null>}
 */
async function decodePng(file) {
  let [width, height, depth, channels] = [0, 0, 0, 0];
  /** @type {Uint8Array[]} */
  const parts = [];
  /** @type {Uint8Array | null} */
  let profile = null;
  for (const { kind, data } of chunks(file)) {
    if (kind === "IHDR") {
      const view = new DataView(data.buffer, data.byteOffset, 13);
      [width, height, depth] = [view.getUint32(0), view.getUint32(4), view.getUint8(8)];
      channels = { 2: 3, 6: 4 }[view.getUint8(9)] ?? 0;
      if (!channels || depth < 8 || view.getUint8(12)) return null;
      check(width, height);
    }
    if (kind === "tRNS") return null;
    if (kind === "iCCP") profile = await inflated([data.subarray(data.indexOf(0) + 2)], 1 << 24);
    if (kind === "IDAT") parts.push(data);
  }
  if (!width || !parts.length) return null;
  const bytes = depth / 8;
  const step = channels * bytes;
  const row = width * step;
  const raw = await inflated(parts, (row + 1) * height);
  if (raw.length !== (row + 1) * height) throw new Error("the picture is damaged");
  const pixels = new Uint8Array(width * height * 4).fill(255);
  let above = new Uint8Array(row);
  for (let y = 0; y < height; y++) {
    const line = raw.subarray(y * (row + 1) + 1, (y + 1) * (row + 1));
    unfilter(raw[y * (row + 1)], line, above, step);
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) {
        const at = x * step + c * bytes;
        // 65535 / 255 = 257
        pixels[(y * width + x) * 4 + c] = bytes === 1 ? line[at] : Math.round((line[at] * 256 + line[at + 1]) / 257);
      }
    above = line;
  }
  return { width, height, pixels, alpha: transparent(pixels), profile };
}

/** @param {Uint8Array | Uint8ClampedArray} pixels */
function transparent(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] < 255) return true;
  return false;
}

/**
 * Undo a PNG filter in place (PNG specification, section 9).
 * @param {number} filter
 * @param {Uint8Array} line
 * @param {Uint8Array} above
 * @param {number} step bytes of a pixel
 */
function unfilter(filter, line, above, step) {
  if (filter > 4) throw new Error("the picture is damaged");
  for (let i = 0; filter && i < line.length; i++) {
    const a = i < step ? 0 : line[i - step];
    const b = above[i];
    if (filter === 1) line[i] += a;
    else if (filter === 2) line[i] += b;
    else if (filter === 3) line[i] += (a + b) >> 1;
    else {
      const c = i < step ? 0 : above[i - step];
      const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      line[i] += pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
    }
  }
}

/**
 * @param {Uint8Array[]} parts of a zlib stream
 * @param {number} limit of bytes, beyond which it is refused
 */
async function inflated(parts, limit) {
  const source = new Blob(/** @type {Uint8Array<ArrayBuffer>[]} */ (parts)).stream();
  const reader = source.pipeThrough(new DecompressionStream("deflate")).getReader();
  const result = new Uint8Array(limit);
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return result.subarray(0, length);
    if (length + value.length > limit) throw new Error("the picture is damaged");
    result.set(value, length);
    length += value.length;
  }
}

/**
 * The chunks of a PNG; none of another file.
 * @param {Uint8Array} file
 */
function* chunks(file) {
  if (PNG_SIGNATURE.some((byte, at) => file[at] !== byte)) return;
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = 8; at + 12 <= file.length; ) {
    const length = view.getUint32(at);
    if (at + 12 + length > file.length) throw new Error("the end of the file is missing");
    yield { kind: latin1(file.subarray(at + 4, at + 8)), data: file.subarray(at + 8, at + 8 + length) };
    at += 12 + length;
  }
}

/** @param {Uint8Array} file */
function webpProfile(file) {
  if (latin1(file.subarray(0, 4)) !== "RIFF" || latin1(file.subarray(8, 12)) !== "WEBP") return null;
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = 12; at + 8 <= file.length; ) {
    const length = view.getUint32(at + 4, true);
    if (latin1(file.subarray(at, at + 4)) === "ICCP") return file.slice(at + 8, at + 8 + length);
    at += 8 + length + (length & 1);
  }
  return null;
}

/**
 * @param {number} width
 * @param {number} height
 */
function check(width, height) {
  if (!(width && height)) throw new Error("the picture is damaged");
  if (width * height > MAX_PIXELS) throw new Error(`${width} x ${height} pixels are too many for a small picture`);
}

/** @param {Uint8Array} bytes */
const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);

/**
 * @param {Uint8Array} file
 * @param {string} text
 * @param {number} from
 */
function find(file, text, from) {
  const first = text.charCodeAt(0);
  for (let at = file.indexOf(first, from); at >= 0; at = file.indexOf(first, at + 1))
    if (latin1(file.subarray(at, at + text.length)) === text) return at;
  return -1;
}
