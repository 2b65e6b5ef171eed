/**
 * Starts worker.js. Alone in its file, so that no worker's code mentions a worker that leads back to it: bundlers follow the
 * literal `new URL(...)`, and Vite takes no circles.
 */

import { isNode } from "../platform.js";
import { type WorkerHandle, nodeWorker, webWorker } from "./handle.js";

/** `url` overrides the file beside this one. */
export function spawnModelWorker(url?: string): WorkerHandle {
  if (isNode) return nodeWorker(url ?? import.meta.url.replace(/[^/]*$/, "worker.js"), "model worker");
  if (url !== undefined) return webWorker(() => new Worker(url, { type: "module" }), "model worker");
  return webWorker(() => new Worker(new URL("./worker.js", import.meta.url), { type: "module" }), "model worker");
}
