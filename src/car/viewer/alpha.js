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
 * @param {number} length of the source
 * @param {number} scale
 * @param {number} start of the wanted part, in the source
 * @param {number} end
 */
function taps(length, scale, start, end) {
  return Array.from({ length: (end - start) * scale }, (_, n) => {
    const centre = start + (n + 0.5) / scale - 0.5;
    const first = Math.max(0, Math.ceil(centre - 2));
    const last = Math.min(length - 1, Math.floor(centre + 2));
    const weights = Array.from({ length: last - first + 1 }, (_, tap) => cubic(first + tap - centre));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * Write the opacity of the core into what was restored of it.
 * @param {Uint8ClampedArray} restored RGBA
 * @param {Uint8Array} pixels RGBA of the window
 * @param {number} height of the window
 * @param {number} width
 * @param {import("./tiles.js").Region} core
 * @param {number} scale
 */
export function enlargeAlpha(restored, pixels, height, width, core, scale) {
  const across = taps(width, scale, core.left, core.right);
  const down = taps(height, scale, core.top, core.bottom);
  const columns = across.length;
  const wide = new Float64Array(height * columns);
  for (let y = 0; y < height; y++)
    across.forEach(({ first, weights }, x) => {
      wide[y * columns + x] = weights.reduce((sum, weight, tap) => sum + weight * pixels[(y * width + first + tap) * 4 + 3], 0);
    });
  down.forEach(({ first, weights }, y) => {
    for (let x = 0; x < columns; x++)
      restored[(y * columns + x) * 4 + 3] = weights.reduce((sum, weight, tap) => sum + weight * wide[(first + tap) * columns + x], 0);
  });
}
