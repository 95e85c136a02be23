// Weights of an upscaler: a safetensors file of float16 tensors with the network's description in its metadata.

/**
 * @typedef {object} Layer a 3x3 convolution
 * @property {Float32Array} weight [out][in][3][3]
 * @property {Float32Array} bias [out]
 * @property {number} inputs
 * @property {number} outputs
 */

/**
 * @typedef {object} Network conv, residual blocks (two convolutions each), conv; see car/models/compact.py
 * @property {string} weights hash that small pictures name
 * @property {number} scale
 * @property {number} halo pixels of the small picture around a pixel that its restoration depends on
 * @property {Layer[]} layers
 */

/** Output channels that are computed together, by network.c and by the shaders. */
export const GROUP = 12;
const MAX_HEADER_BYTES = 1 << 20;

/**
 * Read what `car.viewer.web_model` wrote.
 * @param {ArrayBuffer} file
 * @returns {Promise<Network>}
 */
export async function readNetwork(file) {
  const length = file.byteLength < 8 ? Infinity : Number(new DataView(file).getBigUint64(0, true));
  if (length > Math.min(MAX_HEADER_BYTES, file.byteLength - 8)) throw new Error("the weights are damaged");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
  const about = header.__metadata__ ?? {};
  const data = file.slice(8 + length);
  // pages that are not served over https or from this computer have no digests
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== about.digest) throw new Error("the weights are damaged");
  }
  const blocks = Number(about.blocks);
  const names = ["trunk.0"];
  for (let block = 1; block <= blocks; block++) names.push(`trunk.${block}.conv1`, `trunk.${block}.conv2`);
  names.push(`trunk.${blocks + 1}`);
  /** @param {string} name */
  const tensor = (name) => {
    const entry = header[name];
    if (entry?.dtype !== "F16") throw new Error("these weights are not for the viewer");
    const [start, end] = entry.data_offsets;
    return { shape: /** @type {number[]} */ (entry.shape), values: floats(new Uint16Array(data.slice(start, end))) };
  };
  const scale = Number(about.scale);
  if (header[`${names[names.length - 1]}.bias`]?.shape?.[0] !== 3 * scale * scale)
    throw new Error("these weights are not for the viewer");
  const layers = names.map((name) => {
    const given = tensor(`${name}.weight`);
    const [channels, inputs] = given.shape;
    // at scales that are odd, the last layer has fewer outputs than are computed together: the rest are zero
    const outputs = Math.ceil(channels / GROUP) * GROUP;
    const [weight, bias] = [new Float32Array(outputs * inputs * 9), new Float32Array(outputs)];
    weight.set(given.values);
    bias.set(tensor(`${name}.bias`).values);
    return { weight, bias, outputs, inputs };
  });
  return { weights: String(about.weights), scale, halo: Number(about.halo), layers };
}

/**
 * @param {Uint16Array} halves IEEE 754 binary16
 * @returns {Float32Array}
 */
function floats(halves) {
  return Float32Array.from(halves, (half) => {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return half & 0x8000 ? -size : size;
  });
}

/**
 * [out][in][3][3] to [out / 12][3][3][inputs][12], missing input channels being zero.
 * @param {import("./weights.js").Layer} layer
 * @param {number} inputs
 */
export function packed(layer, inputs) {
  const result = new Float32Array(layer.outputs * 9 * inputs);
  let at = 0;
  for (let group = 0; group < layer.outputs; group += GROUP)
    for (let tap = 0; tap < 9; tap++)
      for (let input = 0; input < inputs; input++)
        for (let output = group; output < group + GROUP; output++, at++)
          if (input < layer.inputs) result[at] = layer.weight[(output * layer.inputs + input) * 9 + tap];
  return result;
}
