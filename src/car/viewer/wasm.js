// The upscaler on the CPU: network.c, compiled to WebAssembly.

import { packed } from "./weights.js";

/** @typedef {import("./weights.js").Network} Network */
/** @typedef {import("./tiles.js").Region} Region */

const PAGE = 65536;
const MODES = { plain: 0, leakyRelu: 1, add: 2 };

/** Fetch and compile the kernels. */
export async function compileKernels() {
  const response = await fetch(new URL("./network.wasm", import.meta.url));
  if (!response.ok) throw new Error(`network.wasm: ${response.status}`);
  return WebAssembly.compile(await response.arrayBuffer());
}

export class WasmNetwork {
  /**
   * @param {WebAssembly.Module} kernels
   * @param {Network} network
   */
  constructor(kernels, network) {
    this.network = network;
    const { exports } = new WebAssembly.Instance(kernels);
    this.kernels = /** @type {Record<string, (...args: number[]) => void>} */ (exports);
    this.memory = /** @type {WebAssembly.Memory} */ (exports.memory);
    this.top = Number(/** @type {WebAssembly.Global} */ (exports.__heap_base).value);
    this.layers = network.layers.map((layer) => ({
      weight: this.#store(packed(layer, layer.inputs)),
      bias: this.#store(layer.bias),
      inputs: layer.inputs,
      outputs: layer.outputs,
    }));
  }

  /**
   * Restore the core of a tile.
   * @param {Uint8Array} pixels RGBA of the window
   * @param {number} height of the window
   * @param {number} width of the window
   * @param {Region} core within the window
   * @param {boolean} grey
   * @returns {Promise<Uint8ClampedArray>} RGBA, the core's size times the scale
   */
  async run(pixels, height, width, core, grey) {
    const { scale } = this.network;
    const places = (height + 2) * (width + 2);
    const [first, last] = [this.layers[0], this.layers[this.layers.length - 1]];
    const size = { input: places * 3 * 4, features: places * first.outputs * 4, residual: places * last.outputs * 4 };
    const restored = (core.bottom - core.top) * (core.right - core.left) * scale * scale * 4;
    const from = this.top;
    const input = from + align(pixels.length);
    const features = input + align(size.input);
    const inner = features + align(size.features);
    // the last layer's result may lie where the blocks keep what is between their convolutions
    const residual = inner;
    const to = inner + align(Math.max(size.features, size.residual));
    this.#reach(to + restored);
    const bytes = new Uint8Array(this.memory.buffer);
    bytes.fill(0, input, to);
    bytes.set(pixels, from);
    this.kernels.load(from, input, height, width);
    /** A layer's result is needed `margin` beyond the core, but not beyond the picture. */
    const conv = (/** @type {number} */ index, /** @type {number} */ a, /** @type {number} */ b, /** @type {number} */ mode) => {
      const layer = this.layers[index];
      const margin = this.layers.length - 1 - index;
      this.kernels.conv(
        a, b, layer.weight, layer.bias, layer.inputs, layer.outputs, width + 2,
        Math.max(0, core.top - margin), Math.min(height, core.bottom + margin),
        Math.max(0, core.left - margin), Math.min(width, core.right + margin), mode,
      );
    };
    conv(0, input, features, MODES.plain);
    for (let index = 1; index < this.layers.length - 1; index += 2) {
      conv(index, features, inner, MODES.leakyRelu);
      conv(index + 1, inner, features, MODES.add);
    }
    conv(this.layers.length - 1, features, residual, MODES.plain);
    this.kernels.finish(
      input, residual, to, scale, height, width, core.top, core.bottom, core.left, core.right, Number(grey),
    );
    return new Uint8ClampedArray(this.memory.buffer.slice(to, to + restored));
  }

  /** @param {Float32Array} values */
  #store(values) {
    const at = this.top;
    this.#reach(at + values.byteLength);
    new Float32Array(this.memory.buffer).set(values, at / 4);
    this.top = at + align(values.byteLength);
    return at;
  }

  /** @param {number} end */
  #reach(end) {
    const missing = end - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE));
  }
}

/** @param {number} bytes */
const align = (bytes) => (bytes + 63) & ~63;
