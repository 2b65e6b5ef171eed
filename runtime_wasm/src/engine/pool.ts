/** The pool threads of a model: started once, asleep on the doorbell between calls. */

import type { Manifest } from "../bundle/manifest.js";
import { EdgecError, abortError } from "../errors.js";
import type { WorkerHandle } from "../workers/handle.js";
import { spawnThread } from "../workers/spawn_thread.js";
import { type ThreadStart, readDoorbell, ringLeave } from "./engine.js";

/** What a pool thread reports. */
export type ThreadReport = { type: "ready" } | { type: "failed"; message: string };

export interface PoolOptions {
  /** Where thread.js is, instead of beside this file. */
  threadUrl?: string;
  /** Name of a BroadcastChannel on which a thread cries out when it traps: whoever waits for it is blocked. */
  alarm?: string;
  /** How a thread is started, instead of by a worker of this one. */
  spawn?: (url?: string) => WorkerHandle;
  /** Ends a start that is under way. */
  signal?: AbortSignal;
}

export class ThreadPool {
  private constructor(
    readonly threads: number,
    private readonly workers: WorkerHandle[],
    private readonly control: number,
  ) {}

  /** Starts threads 1 ... threads - 1 and waits until each has instantiated the module; if one fails, none is left. */
  static async start(
    manifest: Manifest,
    memory: WebAssembly.Memory,
    module: WebAssembly.Module,
    threads: number,
    options: PoolOptions,
  ): Promise<ThreadPool> {
    const entries = Object.keys(manifest.entry_points)
      .sort()
      .map((name) => ({ name, parameters: manifest.entry_points[name].length }));
    const doorbell = readDoorbell(memory, manifest.memory.control.offset);
    const workers: WorkerHandle[] = [];
    const ready: Promise<void>[] = [];
    for (let tid = 1; tid < threads; tid++) {
      const worker = (options.spawn ?? spawnThread)(options.threadUrl);
      workers.push(worker);
      ready.push(
        new Promise<void>((resolve, reject) => {
          worker.onError((error) => reject(error));
          worker.onMessage((message) => {
            const report = message as ThreadReport;
            if (report.type === "ready") resolve();
            else reject(new EdgecError("worker-failed", `a pool thread could not start: ${report.message}`));
          });
        }),
      );
      const start: ThreadStart = { module, memory, layout: manifest.memory, tid, threads, entries, doorbell };
      worker.post({ start, alarm: options.alarm });
    }
    let abort!: () => void;
    const aborted = new Promise<never>((_, reject) => (abort = () => reject(abortError())));
    if (options.signal?.aborted) abort();
    options.signal?.addEventListener("abort", abort);
    try {
      await Promise.race([Promise.all(ready), aborted]);
    } catch (error) {
      for (const worker of workers) worker.terminate();
      throw error;
    } finally {
      options.signal?.removeEventListener("abort", abort);
    }
    for (const worker of workers) worker.unref();
    return new ThreadPool(threads, workers, manifest.memory.control.offset);
  }

  dispose(memory: WebAssembly.Memory): void {
    ringLeave(memory, this.control);
    for (const worker of this.workers) worker.terminate();
  }
}
