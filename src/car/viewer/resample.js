// Pictures at a scale that is not that of their model: the restored tile becomes a part of the picture at its own
// size, as in car/pictures/rows.py, but from 8-bit values.

/** @typedef {import("./tiles.js").Region} Region */
/** @typedef {{ native: number, small: [number, number], size: [number, number], core: Region, part: Region }} Fit */
/** @typedef {{ first: number, start: number, weights: Float64Array[] }} Band what a group of places from `start` needs */

const LOBES = 6;
const GROUP = 32;
const NEARBY = 16;
const DAMPING = 0.01;
const PARTS = 1e6; // a scale has six decimals

/**
 * The size of the small picture of an original, or the largest original of a small picture.
 * @param {number[]} size
 * @param {number} scale
 * @returns {[number, number]}
 */
export function smallSize([width, height], scale) {
  const parts = Math.round(scale * PARTS);
  return [Math.ceil((width * PARTS) / parts), Math.ceil((height * PARTS) / parts)];
}

/**
 * @param {number[]} size
 * @param {number} scale
 * @returns {[number, number]}
 */
export function fullSize([width, height], scale) {
  const parts = Math.round(scale * PARTS);
  return [Math.floor((width * parts) / PARTS), Math.floor((height * parts) / PARTS)];
}

/**
 * How many small pixels beyond a tile its part of the picture depends on.
 * @param {number} native scale of the model
 * @param {number} scale of the picture
 */
export function marginOf(native, scale) {
  return 1 + Math.ceil(native > scale ? NEARBY / scale : LOBES / native);
}

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/**
 * The weights of `length` places for place `at` of an axis that becomes `target` long; the axis is mirrored at its ends.
 * @param {number} length
 * @param {number} target
 * @param {number} at
 * @param {(place: number, weight: number) => void} use
 */
function taps(length, target, at, use) {
  const step = length / target;
  const spread = Math.max(1, step);
  const centre = (at + 0.5) * step - 0.5;
  const reach = Math.ceil(LOBES * spread);
  const first = Math.floor(centre) + 1 - reach;
  const weights = Array.from({ length: 2 * reach }, (_, tap) => {
    const away = (first + tap - centre) / spread;
    return Math.abs(away) < LOBES ? sinc(away) * sinc(away / LOBES) : 0;
  });
  const sum = weights.reduce((a, b) => a + b, 0);
  weights.forEach((weight, tap) => {
    const place = (((first + tap) % (2 * length)) + 2 * length) % (2 * length);
    use(Math.min(place, 2 * length - 1 - place), weight / sum);
  });
}

/**
 * @param {number} length
 * @param {number} target
 * @param {number} start
 * @param {number} stop
 * @returns {Band}
 */
function band(length, target, start, stop) {
  /** @type {Map<number, number>[]} */
  const rows = [];
  let [first, last] = [Infinity, 0];
  for (let at = start; at < stop; at++) {
    const row = new Map();
    taps(length, target, at, (place, weight) => row.set(place, (row.get(place) ?? 0) + weight));
    for (const place of row.keys()) [first, last] = [Math.min(first, place), Math.max(last, place)];
    rows.push(row);
  }
  const weights = rows.map((row) => Float64Array.from({ length: last + 1 - first }, (_, n) => row.get(first + n) ?? 0));
  return { first, start, weights };
}

/**
 * The band of an axis of `target` places that was enlarged to `length`: least squares, nearby.
 * @param {number} length
 * @param {number} target
 * @param {number} start
 * @param {number} stop
 * @returns {Band}
 */
function inverseBand(length, target, start, stop) {
  const [near, until] = [Math.max(0, start - NEARBY), Math.min(target, stop + NEARBY)];
  const [first, last] = [Math.floor((near * length) / target), Math.ceil((until * length) / target)];
  const enlarged = band(target, length, first, last);
  const [unknown, known] = [until - near, last - first];
  const matrix = enlarged.weights.map((row) => Float64Array.from({ length: unknown }, (_, n) => row[near + n - enlarged.first] ?? 0));
  // [square | transposed], solved by elimination; the square is symmetric and positive
  const rows = Array.from({ length: unknown }, (_, a) => {
    const row = new Float64Array(unknown + known);
    for (let b = 0; b < unknown; b++) row[b] = matrix.reduce((sum, line) => sum + line[a] * line[b], a === b ? DAMPING : 0);
    matrix.forEach((line, n) => (row[unknown + n] = line[a]));
    return row;
  });
  for (let pivot = 0; pivot < unknown; pivot++)
    for (let other = 0; other < unknown; other++) {
      const factor = rows[other][pivot] / rows[pivot][pivot];
      if (other === pivot || !factor) continue;
      for (let n = pivot; n < unknown + known; n++) rows[other][n] -= factor * rows[pivot][n];
    }
  const weights = rows.slice(start - near, stop - near).map((row, n) => {
    const line = row.slice(unknown).map((value) => value / row[start - near + n]);
    const sum = line.reduce((a, b) => a + b, 0);
    return line.map((value) => value / sum);
  });
  return { first, start, weights };
}

/**
 * @param {number} length
 * @param {number} target
 * @param {number} from
 * @param {number} to
 */
function bands(length, target, from, to) {
  const make = target < length ? inverseBand : band;
  return Array.from({ length: Math.ceil((to - from) / GROUP) }, (_, n) =>
    make(length, target, from + n * GROUP, Math.min(to, from + (n + 1) * GROUP)),
  );
}

/**
 * Return a part of the picture from the restored tile around it.
 * @param {Uint8ClampedArray} restored RGBA of the tile at the scale of the model
 * @param {Fit} fit
 * @returns {Uint8ClampedArray} RGBA
 */
export function fitted(restored, { native, small, size, core, part }) {
  const [left, top] = [core.left * native, core.top * native];
  const [columns, rows] = [(core.right - core.left) * native, (core.bottom - core.top) * native];
  const [width, height] = [part.right - part.left, part.bottom - part.top];
  const wide = new Float32Array(width * rows * 4);
  for (const { first, start, weights } of bands(small[0] * native, size[0], part.left, part.right))
    weights.forEach((line, n) => {
      for (let y = 0; y < rows; y++) {
        const from = (y * columns + first - left) * 4;
        let [r, g, b, a] = [0, 0, 0, 0];
        for (let tap = 0; tap < line.length; tap++) {
          const [weight, at] = [line[tap], from + tap * 4];
          r += weight * restored[at];
          g += weight * restored[at + 1];
          b += weight * restored[at + 2];
          a += weight * restored[at + 3];
        }
        wide.set([r, g, b, a], (y * width + start - part.left + n) * 4);
      }
    });
  const result = new Uint8ClampedArray(width * height * 4);
  const sum = new Float64Array(width * 4);
  for (const { first, start, weights } of bands(small[1] * native, size[1], part.top, part.bottom))
    weights.forEach((line, n) => {
      sum.fill(0);
      for (let tap = 0; tap < line.length; tap++) {
        const from = (first - top + tap) * width * 4;
        for (let x = 0; x < sum.length; x++) sum[x] += line[tap] * wide[from + x];
      }
      result.set(sum, (start - part.top + n) * width * 4);
    });
  return result;
}
