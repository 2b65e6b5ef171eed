/** Workers of browsers and of Node behind one face. */

import { EdgecError } from "./errors.js";
import { builtin, isNode } from "./platform.js";

export interface WorkerHandle {
  post(message: unknown, transfer?: Transferable[]): void;
  onMessage(listener: (message: unknown) => void): void;
  onError(listener: (error: EdgecError) => void): void;
  terminate(): void;
  /** Node only: whether the worker keeps the process alive. */
  ref(): void;
  unref(): void;
}

const failed = (what: string, detail: string): EdgecError =>
  new EdgecError("worker-failed", `the ${what} failed: ${detail || "its script could not be loaded"}`, {
    hint: "serve worker.js and thread.js beside edgec.js, or pass `workerUrl` and `threadUrl`; `worker: false` does without",
  });

/** `url` overrides the file beside this one. The literal `new URL(...)` is what bundlers look for. */
export function spawnModelWorker(url?: string): WorkerHandle {
  if (isNode) return nodeWorker(url ?? new URL("./worker.js", import.meta.url), "model worker");
  if (url !== undefined) return webWorker(new Worker(url, { type: "module" }), "model worker");
  return webWorker(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }), "model worker");
}

export function spawnThread(url?: string): WorkerHandle {
  if (isNode) return nodeWorker(url ?? new URL("./thread.js", import.meta.url), "pool thread");
  if (url !== undefined) return webWorker(new Worker(url, { type: "module" }), "pool thread");
  return webWorker(new Worker(new URL("./thread.js", import.meta.url), { type: "module" }), "pool thread");
}

function webWorker(worker: Worker, what: string): WorkerHandle {
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    onMessage: (listener) => worker.addEventListener("message", (event) => listener(event.data)),
    onError: (listener) => {
      worker.addEventListener("error", (event) => listener(failed(what, event.message)));
      worker.addEventListener("messageerror", () => listener(failed(what, "a message could not be read")));
    },
    terminate: () => worker.terminate(),
    ref: () => undefined,
    unref: () => undefined,
  };
}

function nodeWorker(url: string | URL, what: string): WorkerHandle {
  const { Worker: NodeWorker } = builtin<typeof import("node:worker_threads")>("worker_threads");
  const worker = new NodeWorker(typeof url === "string" && /^[a-z]+:/i.test(url) ? new URL(url) : url);
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer as import("node:worker_threads").TransferListItem[]),
    onMessage: (listener) => worker.on("message", listener),
    onError: (listener) => {
      worker.on("error", (error) => listener(failed(what, error.message)));
      worker.on("exit", (code) => code !== 0 && listener(failed(what, `it ended with code ${code}`)));
    },
    terminate: () => void worker.terminate(),
    ref: () => worker.ref(),
    unref: () => worker.unref(),
  };
}

/** The other end, inside a worker. */
export interface WorkerScope {
  post(message: unknown, transfer?: Transferable[]): void;
  onMessage(listener: (message: unknown) => void): void;
}

export function workerScope(): WorkerScope {
  if (isNode) {
    const port = builtin<typeof import("node:worker_threads")>("worker_threads").parentPort!;
    return {
      post: (message, transfer = []) => port.postMessage(message, transfer as import("node:worker_threads").TransferListItem[]),
      onMessage: (listener) => port.on("message", listener),
    };
  }
  const scope = globalThis as unknown as {
    postMessage(message: unknown, transfer: Transferable[]): void;
    addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
  };
  return {
    post: (message, transfer = []) => scope.postMessage(message, transfer),
    onMessage: (listener) => scope.addEventListener("message", (event) => listener(event.data)),
  };
}
