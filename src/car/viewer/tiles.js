// Geometry of tiles, as in car/codec/tiling.py: all in pixels of the small picture.

/**
 * @typedef {object} Region [top, bottom) x [left, right)
 * @property {number} top
 * @property {number} bottom
 * @property {number} left
 * @property {number} right
 */

/**
 * Cut a picture into squares of at most `side`, the edges being spread evenly.
 * @param {number} height
 * @param {number} width
 * @param {number} side
 * @returns {Region[]}
 */
export function split(height, width, side) {
  const regions = [];
  const [down, across] = [Math.ceil(height / side), Math.ceil(width / side)];
  const cut = (/** @type {number} */ length, /** @type {number} */ parts, /** @type {number} */ n) => Math.round((length * n) / parts);
  for (let y = 0; y < down; y++)
    for (let x = 0; x < across; x++)
      regions.push({
        top: cut(height, down, y),
        bottom: cut(height, down, y + 1),
        left: cut(width, across, x),
        right: cut(width, across, x + 1),
      });
  return regions;
}

const TINY = 5;
const CONTINUED = 24;

/**
 * How far an axis of a tiny picture is continued before and beyond it, as by `Axis` in car/codec/tiling.py.
 * @param {number} length
 * @returns {[number, number]} its first place, at most 0, and its end
 */
export function continued(length) {
  if (length >= TINY) return [0, length];
  const before = Math.floor((CONTINUED - length) / 2);
  return [-before, CONTINUED - before];
}

/**
 * Grow a region on all sides, but not beyond the picture.
 * @param {Region} region
 * @param {number} margin
 * @param {number} height
 * @param {number} width
 * @returns {Region}
 */
export function grown(region, margin, height, width) {
  return {
    top: Math.max(0, region.top - margin),
    bottom: Math.min(height, region.bottom + margin),
    left: Math.max(0, region.left - margin),
    right: Math.min(width, region.right + margin),
  };
}

/**
 * Whether two regions share a pixel.
 * @param {Region} a
 * @param {Region} b
 */
export function overlaps(a, b) {
  return a.top < b.bottom && b.top < a.bottom && a.left < b.right && b.left < a.right;
}

/**
 * Grow a region on all sides, but not beyond the picture, or what continues a tiny one.
 * @param {Region} region
 * @param {number} margin
 * @param {number} height
 * @param {number} width
 * @returns {Region}
 */
export function windowOf(region, margin, height, width) {
  const [[top, bottom], [left, right]] = [continued(height), continued(width)];
  return {
    top: Math.max(top, region.top - margin),
    bottom: Math.min(bottom, region.bottom + margin),
    left: Math.max(left, region.left - margin),
    right: Math.min(right, region.right + margin),
  };
}

/**
 * Where a region lies within another.
 * @param {Region} region
 * @param {Region} within
 * @returns {Region}
 */
export function moved(region, within) {
  return {
    top: region.top - within.top,
    bottom: region.bottom - within.top,
    left: region.left - within.left,
    right: region.right - within.left,
  };
}

/**
 * Copy a region of RGBA pixels; beyond the picture, its edge is repeated.
 * @param {Uint8Array | Uint8ClampedArray} pixels
 * @param {number} height of the picture
 * @param {number} width
 * @param {Region} region
 * @returns {Uint8Array}
 */
export function cropped(pixels, height, width, region) {
  const row = (region.right - region.left) * 4;
  const result = new Uint8Array((region.bottom - region.top) * row);
  const [left, right] = [Math.max(region.left, 0), Math.min(region.right, width)];
  for (let y = region.top; y < region.bottom; y++) {
    const line = Math.max(0, Math.min(y, height - 1)) * width;
    const to = (y - region.top) * row;
    result.set(pixels.subarray((line + left) * 4, (line + right) * 4), to + (left - region.left) * 4);
    for (let x = region.left; x < left; x++) result.set(pixels.subarray(line * 4, line * 4 + 4), to + (x - region.left) * 4);
    for (let x = right; x < region.right; x++)
      result.set(pixels.subarray((line + width - 1) * 4, (line + width) * 4), to + (x - region.left) * 4);
  }
  return result;
}
