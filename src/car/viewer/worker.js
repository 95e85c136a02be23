// A worker restores tiles, one after the other; the page decides which comes next.

import { enlargeAlpha } from "./alpha.js";
import { fitted } from "./resample.js";
import { compileKernels, WasmNetwork } from "./wasm.js";
import { GpuNetwork, openGpu } from "./webgpu.js";
import { readNetwork } from "./weights.js";

/** @typedef {{ kind: "network", id: string, file: ArrayBuffer, gpu: boolean }} NetworkMessage */
/** @typedef {{ kind: "tile", job: number, id: string, pixels: Uint8Array, height: number, width: number, core: import("./tiles.js").Region, inside: import("./tiles.js").Region, grey: boolean, alpha: boolean, fit: import("./resample.js").Fit | null }} TileMessage */

/** @type {Map<string, Promise<WasmNetwork | GpuNetwork>>} */
const networks = new Map();
/** @type {Promise<WebAssembly.Module> | undefined} */
let kernels;

/**
 * @param {ArrayBuffer} file
 * @param {boolean} gpu
 */
async function open(file, gpu) {
  const network = await readNetwork(file);
  if (gpu) return new GpuNetwork(await openGpu(), network);
  kernels ??= compileKernels();
  return new WasmNetwork(await kernels, network);
}

self.onmessage = async (/** @type {MessageEvent<NetworkMessage | TileMessage>} */ event) => {
  const message = event.data;
  if (message.kind === "network") {
    const opened = open(message.file, message.gpu);
    networks.set(message.id, opened);
    try {
      const network = await opened;
      const { weights, scale, halo } = network.network;
      self.postMessage({ kind: "network", id: message.id, weights, scale, halo });
    } catch (error) {
      self.postMessage({ kind: "network", id: message.id, error: String(error) });
    }
    return;
  }
  try {
    const network = await networks.get(message.id);
    if (!network) throw new Error("the network is missing");
    const { pixels, height, width, core, inside, grey } = message;
    let restored = await network.run(pixels, height, width, core, grey);
    if (message.alpha) enlargeAlpha(restored, pixels, width, core, inside, network.network.scale);
    if (message.fit) restored = fitted(restored, message.fit);
    self.postMessage({ kind: "tile", job: message.job, restored }, { transfer: [restored.buffer] });
  } catch (error) {
    self.postMessage({ kind: "tile", job: message.job, error: String(error) });
  }
};
