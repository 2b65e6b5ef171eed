/** Entry file of the model worker: holds one `Session` and answers the page. */

import { type FromWorker, type ToWorker, buffersOf, dispatch } from "./api/protocol.js";
import { EdgecError, abortError, fromWire, toWire } from "./errors.js";
import { type BundleSource, CustomSource, type Source, openSource } from "./load/source.js";
import { isNode } from "./platform.js";
import { Session } from "./session/session.js";
import type { WorkerHandle } from "./workers/handle.js";
import { workerScope } from "./workers/scope.js";

const scope = workerScope();
const running = new Map<number, AbortController>();
const reads = new Map<number, { resolve: (content: ArrayBuffer) => void; reject: (error: unknown) => void }>();
let session: Session | undefined;
const threads: { onMessage: (message: unknown) => void; onError: (error: EdgecError) => void }[] = [];
let nextRead = 1;

const post = (message: FromWorker, transfer: Transferable[] = []): void => scope.post(message, transfer);

/** A source whose files the page reads. */
const pageSource: BundleSource = {
  read(file, { signal }) {
    const id = nextRead++;
    post({ type: "read", id, file });
    return new Promise<ArrayBuffer>((resolve, reject) => {
      const abort = (): void => {
        post({ type: "read-abort", id });
        reads.delete(id);
        reject(abortError());
      };
      signal?.addEventListener("abort", abort, { once: true });
      reads.set(id, { resolve, reject });
    });
  },
};

/**
 * A pool thread that the page starts for this worker. Firefox blocks for ever about one in a hundred workers that start another
 * worker themselves.
 */
function pageThread(url?: string): WorkerHandle {
  const thread = threads.length;
  const listeners = { onMessage: (_: unknown): void => undefined, onError: (_: EdgecError): void => undefined };
  threads.push(listeners);
  return {
    post: (message) => post({ type: "thread-post", thread, url, message }),
    onMessage: (listener) => void (listeners.onMessage = listener),
    onError: (listener) => void (listeners.onError = listener),
    terminate: () => post({ type: "thread-stop", thread }),
    ref: () => undefined,
    unref: () => undefined,
  };
}

async function load(
  { id, location, manifest, options }: Extract<ToWorker, { type: "load" }>,
  signal: AbortSignal,
): Promise<unknown> {
  const source: Source = location === null ? new CustomSource(pageSource) : openSource(new URL(location));
  let background = Promise.resolve();
  try {
    session = await Session.load(source, manifest, {
      ...options,
      signal,
      spawn: isNode ? undefined : pageThread,
      onProgress: (event) => post({ type: "event", id, event }),
      onBackground: (work) => (background = work),
    });
    return session.info;
  } finally {
    void background.then(() => post({ type: "stored" }));
  }
}

async function answer(message: Extract<ToWorker, { type: "load" | "call" }>): Promise<void> {
  const { id } = message;
  const controller = new AbortController();
  running.set(id, controller);
  const { signal } = controller;
  try {
    let value: unknown;
    let moved: Transferable[] = [];
    if (message.type === "load") value = await load(message, signal);
    else if (session) {
      value = await dispatch(session, message.method, message.args, {
        signal,
        emit: (event) => post({ type: "event", id, event }),
      });
      moved = buffersOf(message.method, value);
    } else throw new EdgecError("internal", "the model has not been loaded");
    post({ type: "done", id, value }, moved);
  } catch (error) {
    post({ type: "failed", id, error: toWire(error) });
  } finally {
    running.delete(id);
  }
}

scope.onMessage((data) => {
  const message = data as ToWorker;
  switch (message.type) {
    case "load":
    case "call":
      void answer(message);
      break;
    case "abort":
      running.get(message.id)?.abort();
      break;
    case "content":
      reads.get(message.id)?.resolve(message.content);
      reads.delete(message.id);
      break;
    case "content-failed":
      reads.get(message.id)?.reject(fromWire(message.error));
      reads.delete(message.id);
      break;
    case "thread-message":
      threads[message.thread].onMessage(message.message);
      break;
    case "thread-failed":
      threads[message.thread].onError(fromWire(message.error));
      break;
  }
});
