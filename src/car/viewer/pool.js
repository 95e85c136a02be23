// Workers, shared by all pictures of a page, and the order of their work.

/** @typedef {import("./tiles.js").Region} Region */

/**
 * @typedef {object} Job
 * @property {string} network
 * @property {() => number} rank the lowest goes first; asked again each time a worker is free
 * @property {() => { pixels: Uint8Array, height: number, width: number, core: Region, inside: Region, grey: boolean, alpha: boolean, fit: import("./resample.js").Fit | null }} tile
 * @property {(restored: Uint8ClampedArray) => void} done
 * @property {(error: Error) => void} failed
 */

/** @typedef {"auto" | "cpu" | "gpu"} Device */

/**
 * @typedef {object} Hand a worker and what it is at
 * @property {Worker} worker
 * @property {boolean} gpu
 * @property {Job | null} job
 */

const CACHE = "content-adaptive-resampler-1";
const MAX_WORKERS = 8;

/**
 * Where weights are, by their hash, if not in the folder models/ beside this file.
 * @type {Map<string, URL>}
 */
export const addresses = new Map();

/**
 * @param {string} weights hash
 * @param {string | null} folder address of a folder of weights, relative to the page
 */
export function addressOf(weights, folder) {
  if (folder !== null) return new URL(`${weights}.safetensors`, new URL(folder, document.baseURI));
  const models = "models/"; // a variable, so that bundlers leave this address alone
  return addresses.get(weights) ?? new URL(`${models}${weights}.safetensors`, import.meta.url);
}

export class Pool {
  /** @param {Device} device */
  constructor(device) {
    this.device = device;
    /** @type {Set<Job>} */
    this.jobs = new Set();
    /** @type {Promise<Hand[]> | undefined} */
    this.hands = undefined;
    /** @type {Promise<boolean> | undefined} */
    this.gpu = undefined;
    this.onGpu = false;
    /** @type {Map<string, Promise<{ scale: number, halo: number }>>} */
    this.networks = new Map();
    /** @type {Map<string, (answer: any) => void>} */
    this.openings = new Map();
  }

  /**
   * Make a network ready in all workers.
   * @param {string} weights hash
   * @param {URL} address
   * @returns {Promise<{ scale: number, halo: number }>}
   */
  network(weights, address) {
    const known = this.networks.get(weights);
    if (known) return known;
    const opening = this.#open(weights, address);
    this.networks.set(weights, opening);
    opening.catch(() => this.networks.delete(weights)); // a next attempt may find the server again
    return opening;
  }

  /** @param {Job} job */
  add(job) {
    this.jobs.add(job);
    void this.#assign();
  }

  /**
   * Take a job back; false where a worker has it already.
   * @param {Job} job
   */
  remove(job) {
    return this.jobs.delete(job);
  }

  /**
   * @param {string} weights
   * @param {URL} address
   */
  async #open(weights, address) {
    const [file, gpu] = await Promise.all([fetchWeights(address), this.#usesGpu()]);
    try {
      return await this.#send(weights, file, await (this.hands ??= this.#hire(gpu)));
    } catch (error) {
      if (!this.#leaveGpu() || !this.hands) throw error;
      return this.#send(weights, file, await this.hands);
    }
  }

  /** Turn to the CPU where a GPU was chosen that does not work; false where that is no way out. */
  #leaveGpu() {
    if (this.device !== "auto" || !this.onGpu) return false;
    this.onGpu = false;
    this.gpu = Promise.resolve(false);
    this.hands = this.#hire(false);
    this.networks.clear();
    return true;
  }

  #usesGpu() {
    return (this.gpu ??= this.device === "auto" ? hasGpu() : Promise.resolve(this.device === "gpu"));
  }

  /**
   * @param {string} weights
   * @param {ArrayBuffer} file
   * @param {Hand[]} hands
   */
  async #send(weights, file, hands) {
    const answers = await Promise.all(
      hands.map(({ worker, gpu }, number) => {
        const answer = new Promise((resolve) => this.openings.set(`${number} ${weights}`, resolve));
        worker.postMessage({ kind: "network", id: weights, file, gpu });
        return answer;
      }),
    );
    for (const answer of answers) {
      if (answer.error) throw new Error(answer.error);
      if (answer.weights !== weights) throw new Error("the weights on the server are not those that made the picture");
    }
    return answers[0];
  }

  /**
   * @param {boolean} gpu
   * @returns {Promise<Hand[]>}
   */
  async #hire(gpu) {
    this.onGpu = gpu;
    const count = gpu ? 1 : Math.max(1, Math.min(navigator.hardwareConcurrency || 2, MAX_WORKERS));
    return Array.from({ length: count }, (_, number) => {
      // in this form, bundlers find the worker
      const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
      const hand = { worker, gpu, job: /** @type {Job | null} */ (null) };
      const fail = (/** @type {string} */ error) => {
        for (const [key, answer] of this.openings) if (key.startsWith(`${number} `)) answer({ error });
        hand.job?.failed(new Error(error));
        hand.job = null;
      };
      hand.worker.onmessage = ({ data }) => {
        if (data.kind === "network") return this.openings.get(`${number} ${data.id}`)?.(data);
        const job = hand.job;
        hand.job = null;
        if (data.error) {
          this.#leaveGpu(); // the next attempt will not meet it
          job?.failed(new Error(data.error));
        } else job?.done(data.restored);
        return this.#assign();
      };
      hand.worker.onerror = (event) => fail(event.message || "the worker could not be loaded");
      return hand;
    });
  }

  async #assign() {
    for (const hand of (await this.hands) ?? []) {
      if (hand.job || !this.jobs.size) continue;
      let [job] = this.jobs;
      let best = job.rank();
      for (const other of this.jobs) {
        const rank = other.rank();
        if (rank < best) [job, best] = [other, rank];
      }
      this.jobs.delete(job);
      hand.job = job;
      const tile = job.tile();
      hand.worker.postMessage({ kind: "tile", id: job.network, ...tile }, [tile.pixels.buffer]);
    }
  }
}

async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // a GPU that is emulated on the CPU is slower than the CPU itself
  return Boolean(adapter && !adapter.info?.isFallbackAdapter);
}

/**
 * The weights at an address that has their hash in its name, kept for the next visit.
 * @param {URL} address
 * @returns {Promise<ArrayBuffer>}
 */
async function fetchWeights(address) {
  // only on pages that are served over https or from this computer
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  const kept = await cache?.match(address);
  if (kept) return kept.arrayBuffer();
  const response = await fetch(address).catch(() => {
    throw new Error("the server with the weights cannot be reached");
  });
  if (!response.ok) throw new Error(`the server does not have the weights of this picture (${response.status})`);
  const file = await response.arrayBuffer();
  await cache?.put(address, new Response(file.slice(0))).catch(() => undefined); // storage may be full or forbidden
  return file;
}

/** Forget weights that turned out to be damaged, so that the next attempt fetches them anew. */
export async function forgetWeights(/** @type {URL} */ address) {
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  await cache?.delete(address);
}
