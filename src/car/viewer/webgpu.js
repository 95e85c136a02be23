// The upscaler on a GPU. The same maps, regions and order of weights as network.c, except that the input has a
// fourth channel of zeros.

import { GROUP, packed } from "./weights.js";

/** @typedef {import("./weights.js").Network} Network */
/** @typedef {import("./tiles.js").Region} Region */

const SIDE = 8; // of a workgroup, in pixels
const MODES = { plain: 0, leakyRelu: 1, add: 2 };

const CONV = /* wgsl */ `
struct Shape {
  columns: u32, inputs: u32, outputs: u32, mode: u32,
  top: u32, bottom: u32, left: u32, right: u32,
}
@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> source: array<vec4f>;
@group(0) @binding(2) var<storage, read> weights: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> result: array<vec4f>;

fn activate(x: vec4f) -> vec4f { return max(x, 0.2 * x); }

@compute @workgroup_size(${SIDE}, ${SIDE})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let x = id.x + shape.left;
  let y = id.y + shape.top;
  if (x >= shape.right || y >= shape.bottom) { return; }
  let quads = shape.inputs / 4u;
  var a = bias[id.z * 3u];
  var b = bias[id.z * 3u + 1u];
  var c = bias[id.z * 3u + 2u];
  var w = id.z * 9u * shape.inputs * 3u;
  for (var ky = 0u; ky < 3u; ky++) {
    for (var kx = 0u; kx < 3u; kx++) {
      let place = ((y + ky) * shape.columns + x + kx) * quads;
      for (var quad = 0u; quad < quads; quad++) {
        let v = source[place + quad];
        a += v.x * weights[w] + v.y * weights[w + 3u] + v.z * weights[w + 6u] + v.w * weights[w + 9u];
        b += v.x * weights[w + 1u] + v.y * weights[w + 4u] + v.z * weights[w + 7u] + v.w * weights[w + 10u];
        c += v.x * weights[w + 2u] + v.y * weights[w + 5u] + v.z * weights[w + 8u] + v.w * weights[w + 11u];
        w += 12u;
      }
    }
  }
  let to = ((y + 1u) * shape.columns + x + 1u) * (shape.outputs / 4u) + id.z * 3u;
  if (shape.mode == ${MODES.leakyRelu}u) { a = activate(a); b = activate(b); c = activate(c); }
  if (shape.mode == ${MODES.add}u) { a += result[to]; b += result[to + 1u]; c += result[to + 2u]; }
  result[to] = a;
  result[to + 1u] = b;
  result[to + 2u] = c;
}`;

const FINISH = /* wgsl */ `
struct Shape {
  scale: u32, height: u32, width: u32, grey: u32,
  top: u32, bottom: u32, left: u32, right: u32,
  stride: u32,
}
@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> source: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(3) var<storage, read_write> pixels: array<u32>;

fn base(y: u32, x: u32) -> vec3f { return source[(y + 1u) * (shape.width + 2u) + x + 1u].xyz; }

@compute @workgroup_size(${SIDE}, ${SIDE})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let s = shape.scale;
  let x = id.x + shape.left * s;
  let y = id.y + shape.top * s;
  if (x >= shape.right * s || y >= shape.bottom * s) { return; }
  let v = max((f32(y) + 0.5) / f32(s) - 0.5, 0.0);
  let u = max((f32(x) + 0.5) / f32(s) - 0.5, 0.0);
  let y0 = u32(v);
  let x0 = u32(u);
  let y1 = min(y0 + 1u, shape.height - 1u);
  let x1 = min(x0 + 1u, shape.width - 1u);
  let enlarged = mix(mix(base(y0, x0), base(y0, x1), u - f32(x0)), mix(base(y1, x0), base(y1, x1), u - f32(x0)), v - f32(y0));
  let cell = ((y / s + 1u) * (shape.width + 2u) + x / s + 1u) * shape.stride + y % s * s + x % s;
  let learned = vec3f(residual[cell], residual[cell + s * s], residual[cell + 2u * s * s]);
  var level = vec3u(round(clamp(enlarged + 0.5 + learned, vec3f(0), vec3f(1)) * 255.0));
  if (shape.grey == 1u) { level = vec3u((19595u * level.x + 38470u * level.y + 7471u * level.z + 32768u) >> 16u); }
  let at = (y - shape.top * s) * (shape.right - shape.left) * s + x - shape.left * s;
  pixels[at] = level.x | (level.y << 8u) | (level.z << 16u) | (255u << 24u);
}`;

/** Ask for a device; fails if there is none. */
export async function openGpu() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("there is no GPU");
  const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits;
  return adapter.requestDevice({ requiredLimits: { maxStorageBufferBindingSize, maxBufferSize } });
}

export class GpuNetwork {
  /**
   * @param {GPUDevice} device
   * @param {Network} network
   */
  constructor(device, network) {
    this.device = device;
    this.network = network;
    /** @type {Map<string, GPUBuffer>} */
    this.buffers = new Map();
    this.conv = this.#pipeline(CONV);
    this.finish = this.#pipeline(FINISH);
    this.layers = network.layers.map((layer, index) => {
      const inputs = Math.ceil(layer.inputs / 4) * 4;
      return {
        inputs,
        outputs: layer.outputs,
        weight: this.#filled(packed(layer, inputs), GPUBufferUsage.STORAGE),
        bias: this.#filled(layer.bias, GPUBufferUsage.STORAGE),
        mode: index === 0 || index === network.layers.length - 1 ? MODES.plain : index % 2 ? MODES.leakyRelu : MODES.add,
      };
    });
  }

  /**
   * Restore the core of a tile; see `WasmNetwork.run`.
   * @param {Uint8Array} pixels
   * @param {number} height
   * @param {number} width
   * @param {Region} core
   * @param {boolean} grey
   * @returns {Promise<Uint8ClampedArray>}
   */
  async run(pixels, height, width, core, grey) {
    const { scale } = this.network;
    const places = (height + 2) * (width + 2);
    const last = this.layers.length - 1;
    const input = this.#scratch("input", places * 16);
    const features = this.#scratch("features", places * this.layers[0].outputs * 4);
    const inner = this.#scratch("inner", places * this.layers[0].outputs * 4);
    const residual = this.#scratch("residual", places * this.layers[last].outputs * 4);
    const size = (core.bottom - core.top) * (core.right - core.left) * scale * scale * 4;
    const result = this.#scratch("result", size);
    const readable = this.#scratch("readable", size, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    /** @type {GPUBuffer[]} */
    const passing = [];
    const uniform = (/** @type {number[]} */ values) => {
      const buffer = this.#filled(Uint32Array.from(values), GPUBufferUsage.UNIFORM);
      passing.push(buffer);
      return buffer;
    };
    const encoder = this.device.createCommandEncoder();
    encoder.clearBuffer(features);
    encoder.clearBuffer(inner);
    this.device.queue.writeBuffer(input, 0, mapOf(pixels, height, width));
    this.layers.forEach((layer, index) => {
      const margin = last - index;
      const [top, bottom] = [Math.max(0, core.top - margin), Math.min(height, core.bottom + margin)];
      const [left, right] = [Math.max(0, core.left - margin), Math.min(width, core.right + margin)];
      const from = index === 0 ? input : layer.mode === MODES.add ? inner : features;
      const to = index === last ? residual : layer.mode === MODES.leakyRelu ? inner : features;
      const shape = uniform([width + 2, layer.inputs, layer.outputs, layer.mode, top, bottom, left, right]);
      this.#dispatch(encoder, this.conv, [shape, from, layer.weight, layer.bias, to], right - left, bottom - top, layer.outputs / GROUP);
    });
    const shape = uniform([
      scale, height, width, Number(grey), core.top, core.bottom, core.left, core.right, this.layers[last].outputs,
    ]);
    const [columns, rows] = [(core.right - core.left) * scale, (core.bottom - core.top) * scale];
    this.#dispatch(encoder, this.finish, [shape, input, residual, result], columns, rows, 1);
    encoder.copyBufferToBuffer(result, 0, readable, 0, size);
    this.device.queue.submit([encoder.finish()]);
    await readable.mapAsync(GPUMapMode.READ, 0, size);
    const restored = new Uint8ClampedArray(readable.getMappedRange(0, size).slice(0));
    readable.unmap();
    for (const buffer of passing) buffer.destroy();
    return restored;
  }

  /** @param {string} code */
  #pipeline(code) {
    const module = this.device.createShaderModule({ code });
    return this.device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  }

  /**
   * @param {GPUCommandEncoder} encoder
   * @param {GPUComputePipeline} pipeline
   * @param {GPUBuffer[]} buffers
   * @param {number} columns
   * @param {number} rows
   * @param {number} groups
   */
  #dispatch(encoder, pipeline, buffers, columns, rows, groups) {
    const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(Math.ceil(columns / SIDE), Math.ceil(rows / SIDE), groups);
    pass.end();
  }

  /**
   * A buffer that is kept from tile to tile and grows as needed.
   * @param {string} name
   * @param {number} size
   * @param {number} usage
   */
  #scratch(name, size, usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC) {
    const kept = this.buffers.get(name);
    if (kept && kept.size >= size) return kept;
    kept?.destroy();
    const buffer = this.device.createBuffer({ size, usage });
    this.buffers.set(name, buffer);
    return buffer;
  }

  /**
   * @param {Float32Array | Uint32Array} values
   * @param {number} usage
   */
  #filled(values, usage) {
    const buffer = this.device.createBuffer({ size: values.byteLength, usage: usage | GPUBufferUsage.COPY_DST });
    this.device.queue.writeBuffer(buffer, 0, /** @type {Float32Array<ArrayBuffer>} */ (values));
    return buffer;
  }
}

/**
 * RGBA bytes to the network's input with its ring, four channels of which the last is zero.
 * @param {Uint8Array} pixels
 * @param {number} height
 * @param {number} width
 * @returns {Float32Array<ArrayBuffer>}
 */
function mapOf(pixels, height, width) {
  const map = new Float32Array((height + 2) * (width + 2) * 4);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++)
        map[((y + 1) * (width + 2) + x + 1) * 4 + c] = pixels[(y * width + x) * 4 + c] / 255 - 0.5;
  return map;
}
