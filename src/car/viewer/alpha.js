// Opacity is enlarged on its own, bicubically (a = -1/2), as in car/codec/codec.py.

/**
 * @param {number} distance
 */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/**
 * For each output place of one axis, its first source place and the weights from there on.
 * @param {number} begin of the source; what continues a tiny picture does not count
 * @param {number} stop of it
 * @param {number} scale
 * @param {number} start of the wanted part, in the source
 * @param {number} end
 */
function taps(begin, stop, scale, start, end) {
  return Array.from({ length: (end - start) * scale }, (_, n) => {
    const centre = start + (n + 0.5) / scale - 0.5;
    const first = Math.max(begin, Math.ceil(centre - 2));
    const last = Math.min(stop - 1, Math.floor(centre + 2));
    const weights = Array.from({ length: last - first + 1 }, (_, tap) => cubic(first + tap - centre));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * Write the opacity of the core into what was restored of it.
 * @param {Uint8ClampedArray} restored RGBA
 * @param {Uint8Array} pixels RGBA of the window
 * @param {number} width of the window
 * @param {import("./tiles.js").Region} core
 * @param {import("./tiles.js").Region} inside what of the window is of the picture
 * @param {number} scale
 */
export function enlargeAlpha(restored, pixels, width, core, inside, scale) {
  const across = taps(inside.left, inside.right, scale, core.left, core.right);
  const down = taps(inside.top, inside.bottom, scale, core.top, core.bottom);
  const columns = across.length;
  const wide = new Float64Array(inside.bottom * columns);
  for (let y = inside.top; y < inside.bottom; y++)
    across.forEach(({ first, weights }, x) => {
      wide[y * columns + x] = weights.reduce((sum, weight, tap) => sum + weight * pixels[(y * width + first + tap) * 4 + 3], 0);
    });
  down.forEach(({ first, weights }, y) => {
    for (let x = 0; x < columns; x++)
      restored[(y * columns + x) * 4 + 3] = weights.reduce((sum, weight, tap) => sum + weight * wide[(first + tap) * columns + x], 0);
  });
}
