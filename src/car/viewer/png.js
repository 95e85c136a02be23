// Pixels with a colour profile, as something that the browser converts to the colours of the screen.

const SIGNATURE = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);

/** @type {Uint32Array | undefined} */
let table;

/** @param {Uint8Array} bytes */
function crc(bytes) {
  table ??= Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  let sum = ~0;
  for (const byte of bytes) sum = table[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}

/**
 * @param {string} kind
 * @param {...Uint8Array} parts
 */
function chunk(kind, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const result = new Uint8Array(12 + length);
  const view = new DataView(result.buffer);
  view.setUint32(0, length);
  result.set(new TextEncoder().encode(kind), 4);
  let at = 8;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  view.setUint32(at, crc(result.subarray(4, at)));
  return result;
}

/** @param {Uint8Array} bytes */
async function deflated(bytes) {
  const source = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)]).stream();
  return new Uint8Array(await new Response(source.pipeThrough(new CompressionStream("deflate"))).arrayBuffer());
}

/**
 * @param {Uint8ClampedArray} pixels opaque RGBA
 * @param {number} width
 * @param {number} height
 * @param {Uint8Array} profile ICC
 * @returns {Promise<ImageBitmap>} of the same colours on the screen as a file with this profile
 */
export async function withProfile(pixels, width, height, profile) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 6], 8);
  const rows = new Uint8Array((width * 4 + 1) * height);
  for (let y = 0; y < height; y++)
    rows.set(pixels.subarray(y * width * 4, (y + 1) * width * 4), y * (width * 4 + 1) + 1);
  const name = Uint8Array.of(112, 0, 0); // a name of one letter, its end, compression by deflate
  const parts = [
    SIGNATURE,
    chunk("IHDR", header),
    chunk("iCCP", name, await deflated(profile)),
    chunk("IDAT", await deflated(rows)),
    chunk("IEND"),
  ];
  return createImageBitmap(new Blob(/** @type {Uint8Array<ArrayBuffer>[]} */ (parts)));
}
