/** Workers of browsers and of Node behind one face. */

import { EdgecError } from "../errors.js";
import { builtin } from "../platform.js";

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

export function webWorker(start: () => Worker, what: string): WorkerHandle {
  let worker: Worker;
  try {
    worker = start();
  } catch (cause) {
    throw failed(what, (cause as Error).message); // another origin's script, or a policy that forbids workers
  }
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

/** `url`: a URL, or a path as Node takes it. */
export function nodeWorker(url: string, what: string): WorkerHandle {
  const { Worker: NodeWorker } = builtin<typeof import("node:worker_threads")>("worker_threads");
  const worker = new NodeWorker(/^[a-z]+:/i.test(url) ? new URL(url) : url);
  return {
    post: (message, transfer = []) =>
      worker.postMessage(message, transfer as import("node:worker_threads").TransferListItem[]),
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
