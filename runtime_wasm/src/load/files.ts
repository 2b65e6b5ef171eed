/** The files of one load: from the cache or the source, in order, within limits, all stopped when one fails. */

import type { Manifest } from "../bundle/manifest.js";
import { throwIfAborted } from "../errors.js";
import { within } from "../patience.js";
import { sha256 } from "../sha256.js";
import { CACHE_PATIENCE, type CacheKind, type FileCache } from "./cache.js";
import { type RetryPolicy, download } from "./download.js";
import { Gate } from "./gate.js";
import type { BufferPool, Bytes } from "./reader.js";
import type { Source } from "./source.js";
import { Stores } from "./stores.js";

export type LoadPhase = "manifest" | "download" | "start" | "ready";

export interface LoadProgress {
  phase: LoadPhase;
  /** Bytes of the bundle that are here, from the cache or the network. */
  loadedBytes: number;
  /** Bytes that the chosen variant needs in all; 0 until the manifest is here. */
  totalBytes: number;
  /** The file that has just moved on. */
  file: string;
}

export interface FileSetOptions {
  source: Source;
  manifest: Manifest;
  /** Those that will be taken. */
  wanted: Iterable<string>;
  cache: FileCache | null;
  retry: RetryPolicy;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

export class FileSet {
  downloadedBytes = 0;
  cachedBytes = 0;
  private loadedBytes = 0;
  private failure: unknown;
  private readonly totalBytes: number;
  private readonly stopper = new AbortController();
  private readonly gate = new Gate(this.stopper.signal);
  private readonly stores: Stores;

  private constructor(
    private readonly options: FileSetOptions,
    /** Keys of what the cache has; empty where it has turned out not to answer. */
    private readonly cached: Set<string>,
  ) {
    const { cache, signal } = options;
    this.stores = new Stores(cache);
    this.totalBytes = [...new Set(options.wanted)].reduce((sum, file) => sum + this.bytes(file), 0);
    signal?.addEventListener("abort", this.stop, { once: true });
    if (signal?.aborted) this.stop();
  }

  static async open(options: FileSetOptions): Promise<FileSet> {
    const keys = options.cache?.keys().catch(() => []) ?? Promise.resolve([]);
    return new FileSet(options, new Set(await within(CACHE_PATIENCE, keys, [])));
  }

  /** Aborted when the caller aborts or a file fails. */
  get signal(): AbortSignal {
    return this.stopper.signal;
  }

  get cacheKind(): CacheKind {
    return this.options.cache?.kind ?? "none";
  }

  readonly stop = (): void => {
    this.end();
    this.stopper.abort();
  };

  /** From now on the caller's signal means nothing. */
  end(): void {
    this.options.signal?.removeEventListener("abort", this.stop);
  }

  private readonly fail = (error: unknown): void => {
    if (!this.stopper.signal.aborted) this.failure = error;
    this.stop();
  };

  /** Waits for all; when one fails, the others are stopped and have ended before this throws the first failure. */
  async all<T extends readonly Promise<unknown>[]>(promises: T): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
    try {
      const results = await Promise.all(promises);
      throwIfAborted(this.options.signal);
      return results;
    } catch (error) {
      this.fail(error);
      await Promise.allSettled(promises);
      throwIfAborted(this.options.signal);
      throw this.failure ?? error;
    }
  }

  report(phase: LoadPhase, file: string): void {
    this.options.onProgress?.({ phase, loadedBytes: this.loadedBytes, totalBytes: this.totalBytes, file });
  }

  bytes(file: string): number {
    return this.options.manifest.files[file].bytes;
  }

  /** Hands the checked bytes of a file to `use`; stores them when it is done with them. Files come in the order of the calls. */
  async take<T>(file: string, use: (bytes: Bytes) => T | Promise<T>, pool?: BufferPool): Promise<T> {
    const { bytes: length, sha256: key } = this.options.manifest.files[file];
    const isCached = this.cached.has(key);
    await this.gate.enter(length, !isCached);
    let freed = Promise.resolve(false);
    let bytes: Bytes | null = null;
    try {
      if (isCached) bytes = await this.fromCache(file, pool);
      const isNew = bytes === null;
      bytes ??= await this.fromSource(file, pool);
      const result = await use(bytes);
      freed = isNew ? this.stores.put(key, bytes) : Promise.resolve(true);
      return result;
    } catch (error) {
      this.fail(error);
      throw error;
    } finally {
      this.gate.fetched();
      void freed.then((free) => {
        if (free) pool?.give(bytes!);
        this.gate.freed(length);
      });
    }
  }

  private async fromSource(file: string, pool?: BufferPool): Promise<Bytes> {
    const { source, manifest, retry, cache } = this.options;
    const onBytes = (delta: number): void => {
      this.gate.expect(-delta);
      this.advance(delta, file);
    };
    const options = { signal: this.signal, retry, onBytes, pool, storedElsewhere: cache !== null };
    const bytes = await download(source, file, manifest.files[file], options);
    this.downloadedBytes += bytes.length;
    return bytes;
  }

  private async fromCache(file: string, pool?: BufferPool): Promise<Bytes | null> {
    const { bytes: length, sha256: key } = this.options.manifest.files[file];
    const cache = this.options.cache!;
    const absent = (): null => {
      this.gate.expect(length);
      return null;
    };
    if (!this.cached.has(key)) return absent();
    const target = pool?.take(length) ?? new Uint8Array(length);
    const bytes = await within(CACHE_PATIENCE, cache.read(key, target), undefined);
    throwIfAborted(this.signal);
    if (bytes === undefined) {
      this.cached.clear(); // and `target` is left to the read, which may still be going on
      return absent();
    }
    if (!bytes || (await sha256(bytes)) !== key) {
      pool?.give(target);
      await within(CACHE_PATIENCE, cache.delete(key), undefined);
      return absent();
    }
    this.cachedBytes += length;
    this.advance(length, file);
    return bytes;
  }

  private advance(delta: number, file: string): void {
    this.loadedBytes += delta;
    this.report("download", file);
  }

  /** Lets the cache drop what an older version of this bundle left. */
  remember(): void {
    const keys = Object.values(this.options.manifest.files).map(({ sha256: key }) => key);
    this.stores.remember(this.options.source.location, [...new Set(keys)].sort());
  }

  /** Resolves when nothing is on its way into the cache any more. */
  stored(): Promise<void> {
    return this.stores.settled();
  }
}
