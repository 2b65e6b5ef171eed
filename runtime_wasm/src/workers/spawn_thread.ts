/**
 * Starts thread.js. Alone in its file, so that no worker's code mentions a worker that leads back to it: bundlers follow the
 * literal `new URL(...)`, and Vite takes no circles.
 */

import { isNode } from "../platform.js";
import { type WorkerHandle, nodeWorker, webWorker } from "./handle.js";

/** `url` overrides the file beside this one. */
export function spawnThread(url?: string): WorkerHandle {
  if (isNode) return nodeWorker(url ?? import.meta.url.replace(/[^/]*$/, "thread.js"), "pool thread");
  if (url !== undefined) return webWorker(() => new Worker(url, { type: "module" }), "pool thread");
  return webWorker(() => new Worker(new URL("./thread.js", import.meta.url), { type: "module" }), "pool thread");
}
