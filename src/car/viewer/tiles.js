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
 * Copy a region of RGBA pixels.
 * @param {Uint8Array | Uint8ClampedArray} pixels
 * @param {number} width of the picture
 * @param {Region} region
 * @returns {Uint8Array}
 */
export function cropped(pixels, width, region) {
  const row = (region.right - region.left) * 4;
  const result = new Uint8Array((region.bottom - region.top) * row);
  for (let y = region.top; y < region.bottom; y++) {
    const from = (y * width + region.left) * 4;
    result.set(pixels.subarray(from, from + row), (y - region.top) * row);
  }
  return result;
}
