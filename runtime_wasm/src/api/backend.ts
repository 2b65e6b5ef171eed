/** How a `Model` reaches its `Session`: in a worker, or in the same thread. */

import { EdgecError, fromWire, throwIfAborted, toWire } from "../errors.js";
import type { LoadProgress } from "../load/files.js";
import { type BundleSource, type FileContent, type Source, readCustom } from "../load/source.js";
import { within } from "../patience.js";
import { isNode } from "../platform.js";
import type { ModelInfo, Session, SessionOptions } from "../session/session.js";
import type { WorkerHandle } from "../workers/handle.js";
import { spawnModelWorker } from "../workers/spawn_model.js";
import { spawnThread } from "../workers/spawn_thread.js";
import { type FromWorker, type Method, type ToWorker, type WireOptions, dispatch, moving } from "./protocol.js";

export interface CallOptions {
  signal?: AbortSignal;
  onEvent?: (event: unknown) => void;
}

export interface Backend {
  readonly info: ModelInfo;
  call(method: Method, args: unknown[], options?: CallOptions): Promise<unknown>;
  /** Ends everything; resolves when nothing is on its way into the cache any more. */
  dispose(): Promise<void>;
}

/** Milliseconds that a worker gets to bring its files into the cache. */
const DISPOSE_PATIENCE = 10_000;

const disposed = (): EdgecError => new EdgecError("disposed", "the model has been disposed of");

export class InlineBackend implements Backend {
  private constructor(
    private session: Session | null,
    private readonly background: Promise<void>,
  ) {}

  static async load(source: Source, manifest: Promise<Uint8Array>, options: SessionOptions): Promise<InlineBackend> {
    const { Session } = await import("../session/session.js");
    let background = Promise.resolve();
    const session = await Session.load(source, await manifest, { ...options, onBackground: (work) => (background = work) });
    return new InlineBackend(session, background);
  }

  get info(): ModelInfo {
    if (!this.session) throw disposed();
    return this.session.info;
  }

  async call(method: Method, args: unknown[], { signal, onEvent }: CallOptions = {}): Promise<unknown> {
    if (!this.session) throw disposed();
    return dispatch(this.session, method, args, {
      signal: signal ?? new AbortController().signal,
      emit: onEvent ?? (() => undefined),
    });
  }

  dispose(): Promise<void> {
    this.session?.dispose();
    this.session = null;
    return this.background;
  }
}

interface Pending extends CallOptions {
  resolve: (value: unknown) => void;
  reject: (error: EdgecError) => void;
  release: () => void;
}

export interface WorkerLoadOptions extends WireOptions {
  workerUrl?: string;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

export class WorkerBackend implements Backend {
  info!: ModelInfo;
  private readonly worker: WorkerHandle;
  private readonly alarm: BroadcastChannel;
  private readonly pending = new Map<number, Pending>();
  private readonly reads = new Map<number, AbortController>();
  private readonly threads = new Map<number, WorkerHandle>();
  private readonly source: BundleSource | null;
  private stored = Promise.resolve();
  private storesHaveEnded = (): void => undefined;
  private nextId = 1;
  private dead: EdgecError | null = null;

  private constructor(source: BundleSource | null, workerUrl: string | undefined, alarm: string) {
    this.source = source;
    this.worker = spawnModelWorker(workerUrl);
    this.worker.onMessage((message) => this.receive(message as FromWorker));
    this.worker.onError((error) => this.end(error));
    this.alarm = new BroadcastChannel(alarm);
    this.alarm.onmessage = (event: MessageEvent) =>
      this.end(new EdgecError("trap", `the model's code stopped in a pool thread: ${event.data}`));
    if (isNode) {
      this.worker.unref();
      (this.alarm as unknown as { unref(): void }).unref();
    }
  }

  /** The worker starts while the manifest is on its way. */
  static async load(
    where: URL | BundleSource,
    manifest: Promise<Uint8Array>,
    options: WorkerLoadOptions,
  ): Promise<WorkerBackend> {
    const { signal, onProgress, workerUrl, ...rest } = options;
    const alarm = `edgec-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
    const custom = where instanceof URL ? null : where;
    const backend = new WorkerBackend(custom, workerUrl, alarm);
    const location = where instanceof URL ? where.href : null;
    try {
      const message = { type: "load" as const, location, manifest: await manifest, options: { ...rest, alarm } };
      backend.info = (await backend.request(message, {
        signal,
        onEvent: onProgress as CallOptions["onEvent"],
      })) as ModelInfo;
      return backend;
    } catch (error) {
      void backend.dispose();
      throw error;
    }
  }

  call(method: Method, args: unknown[], options: CallOptions = {}): Promise<unknown> {
    return this.request({ type: "call", method, args }, options);
  }

  private async request(
    message:
      | { type: "load"; location: string | null; manifest: Uint8Array; options: WireOptions }
      | { type: "call"; method: Method; args: unknown[] },
    options: CallOptions,
  ): Promise<unknown> {
    if (this.dead) throw this.dead;
    const { signal } = options;
    throwIfAborted(signal);
    const id = this.nextId++;
    const abort = (): void => this.post({ type: "abort", id });
    signal?.addEventListener("abort", abort, { once: true });
    this.worker.ref();
    try {
      return await new Promise<unknown>((resolve, reject) => {
        const release = (): void => signal?.removeEventListener("abort", abort);
        this.pending.set(id, { ...options, resolve, reject, release });
        try {
          this.post(...moving({ ...message, id }));
        } catch (cause) {
          reject(
            new EdgecError(
              "invalid-argument",
              `an argument cannot be sent to the worker: ${(cause as Error).message}`,
              { cause },
            ),
          );
        }
      });
    } finally {
      this.pending.get(id)?.release();
      this.pending.delete(id);
      if (this.pending.size === 0) this.worker.unref();
    }
  }

  private post(message: ToWorker, transfer: Transferable[] = []): void {
    if (message.type === "load") this.stored = new Promise((resolve) => (this.storesHaveEnded = resolve));
    this.worker.post(message, transfer);
  }

  private receive(message: FromWorker): void {
    if (message.type === "stored") this.storesHaveEnded();
    if (this.dead) return; // said before it heard of that
    switch (message.type) {
      case "done":
        this.pending.get(message.id)?.resolve(message.value);
        break;
      case "failed":
        this.pending.get(message.id)?.reject(fromWire(message.error));
        break;
      case "event":
        this.pending.get(message.id)?.onEvent?.(message.event);
        break;
      case "read":
        void this.read(message.id, message.file);
        break;
      case "read-abort":
        this.reads.get(message.id)?.abort();
        break;
      case "thread-post":
        this.postToThread(message);
        break;
      case "thread-stop":
        this.threads.get(message.thread)?.terminate();
        break;
    }
  }

  /** Hands on what the worker says to a pool thread, which the page has to start for it (see worker.ts). */
  private postToThread({ thread, url, message }: Extract<FromWorker, { type: "thread-post" }>): void {
    const failed = (error: unknown): void => this.post({ type: "thread-failed", thread, error: toWire(error) });
    try {
      let worker = this.threads.get(thread);
      if (!worker) {
        worker = spawnThread(url);
        worker.onError(failed);
        worker.onMessage((reply) => this.post({ type: "thread-message", thread, message: reply }));
        this.threads.set(thread, worker);
      }
      worker.post(message);
    } catch (error) {
      failed(error);
    }
  }

  /** Reads a file for the worker with the caller's own source. */
  private async read(id: number, file: string): Promise<void> {
    const controller = new AbortController();
    this.reads.set(id, controller);
    try {
      const bytes = await toBytes(await readCustom(this.source!, file, controller.signal));
      this.post({ type: "content", id, content: bytes.buffer }, [bytes.buffer]);
    } catch (error) {
      this.post({ type: "content-failed", id, error: toWire(error) });
    } finally {
      this.reads.delete(id);
    }
  }

  /** Fails everything that is under way, now and from now on. */
  private fail(error: EdgecError): void {
    this.dead = error;
    for (const controller of this.reads.values()) controller.abort();
    for (const { reject } of this.pending.values()) reject(error);
  }

  private end(error: EdgecError): void {
    if (!this.dead) this.fail(error);
    this.alarm.close();
    this.worker.terminate();
    for (const thread of this.threads.values()) thread.terminate();
    this.storesHaveEnded();
  }

  /** What the worker computes is of no use any more, but files on their way into the cache are: it lives on for these. */
  async dispose(): Promise<void> {
    if (!this.dead) {
      for (const id of this.pending.keys()) this.post({ type: "abort", id });
      this.fail(disposed());
    }
    await within(DISPOSE_PATIENCE, this.stored, undefined);
    this.end(disposed());
  }
}

/** A copy of its own, so that it can be handed to the worker. */
async function toBytes(content: FileContent): Promise<Uint8Array<ArrayBuffer>> {
  if (content instanceof Uint8Array) return new Uint8Array(content); // a Buffer's `slice` would not copy
  if (content instanceof ArrayBuffer) return new Uint8Array(content.slice(0));
  return new Uint8Array(await content.arrayBuffer());
}
