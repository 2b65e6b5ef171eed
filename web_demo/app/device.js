/** What this browser offers. */

import { bytes, plural } from "./format.js";

/** @typedef {import("./runtime.js").Runtime} Runtime */

export const cores = navigator.hardwareConcurrency || 1;

/** Whether a worker of this page may share memory with others. */
export const canThread = self.crossOriginIsolated === true && typeof SharedArrayBuffer === "function";

/** Why there is one thread only, or what more of them would do. */
export function threadsNote() {
  if (canThread)
    return cores > 1
      ? "Changing this starts the model again. The answers stay the same, to the bit."
      : "This device has one core.";
  if (!self.isSecureContext) return "One thread: browsers share memory only on https or localhost.";
  return "One thread: more need a page that is cross-origin isolated. `edgec serve` sends the headers for that unless it is told not to.";
}

/**
 * @param {Runtime} runtime
 * @returns {Promise<[string, string][]>}
 */
export async function deviceFacts(runtime) {
  const { simd128, relaxed } = runtime.detectFeatures();
  const { deviceMemory } = /** @type {{deviceMemory?: number}} */ (navigator);
  return [
    ["WebAssembly SIMD", simd128 ? "yes" : "no, and it is needed"],
    ["Relaxed dot product", relaxed ? "yes, exact" : "no, plain SIMD instead"],
    ["Shared memory", canThread ? "yes" : "no"],
    ["Isolated page", self.crossOriginIsolated ? "yes" : "no"],
    ["Cores", String(cores)],
    ["Memory", deviceMemory ? `about ${deviceMemory} GB` : "not told"],
    ["File storage", await storageKind()],
  ];
}

async function storageKind() {
  try {
    await navigator.storage.getDirectory();
    return "private files (OPFS)";
  } catch {
    return "caches" in self ? "cache storage" : "none";
  }
}

/** @returns {Promise<[string, string][]>} */
export async function storageFacts() {
  const { usage = 0, quota = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  if (!quota) return [["In use", "not told"]];
  return [
    ["In use", bytes(usage)],
    ["Allowed", bytes(quota)],
  ];
}

/** @param {number} threads */
export function threadsName(threads) {
  return plural(threads, "thread");
}
