/** The inside of a worker, in browsers and Node. */

import { builtin, isNode } from "../platform.js";

export interface WorkerScope {
  post(message: unknown, transfer?: Transferable[]): void;
  onMessage(listener: (message: unknown) => void): void;
}

export function workerScope(): WorkerScope {
  if (isNode) {
    const port = builtin<typeof import("node:worker_threads")>("worker_threads").parentPort!;
    return {
      post: (message, transfer = []) =>
        port.postMessage(message, transfer as import("node:worker_threads").TransferListItem[]),
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
