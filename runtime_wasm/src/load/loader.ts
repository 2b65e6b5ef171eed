/** From a source to a running engine: manifest, module, weights, threads. */

import type { Manifest, Variant } from "../bundle/manifest.js";
import { parseManifest } from "../bundle/parse.js";
import { Engine, createMemory } from "../engine/engine.js";
import { chooseVariant, detectFeatures } from "../engine/features.js";
import { type PoolOptions, ThreadPool } from "../engine/pool.js";
import { EdgecError, throwIfAborted } from "../errors.js";
import { sha256 } from "../sha256.js";
import { type CacheKind, type FileCache, openCache, remember } from "./cache.js";
import { DEFAULT_RETRY, type RetryPolicy, download, downloadManifest } from "./download.js";
import { BufferPool, type Bytes, chunkReader, fill } from "./reader.js";
import type { Source } from "./source.js";

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

export interface LoaderOptions {
  threads?: number;
  variant?: Variant;
  cache?: "auto" | CacheKind;
  manifestSha256?: string;
  retry?: Partial<RetryPolicy>;
  threadUrl?: string;
  /** Where pool threads report a trap, see `PoolOptions`. */
  alarm?: string;
  /** See `PoolOptions`. */
  spawn?: PoolOptions["spawn"];
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

export interface Loaded {
  engine: Engine;
  variant: Variant;
  tokenizerJson: Uint8Array | null;
  cache: CacheKind;
  /** Bytes that came from the source and from the cache. */
  downloadedBytes: number;
  cachedBytes: number;
  loadSeconds: number;
}

/** Whole files in memory at the same time: two of the largest, or more small ones. */
const IN_FLIGHT_BYTES = 32 * 2 ** 20;
const IN_FLIGHT_FILES = 4;

export async function loadManifest(
  source: Source,
  options: Pick<LoaderOptions, "manifestSha256" | "signal" | "retry">,
): Promise<Manifest> {
  const bytes = await downloadManifest(source, {
    signal: options.signal,
    retry: { ...DEFAULT_RETRY, ...options.retry },
  });
  if (options.manifestSha256 !== undefined) {
    const digest = await sha256(bytes);
    if (digest !== options.manifestSha256.toLowerCase()) {
      throw new EdgecError(
        "hash-mismatch",
        `the manifest has a SHA-256 that begins with ${digest.slice(0, 16)}, the page expects ${options.manifestSha256.slice(0, 16)}`,
        {
          file: "manifest.json",
        },
      );
    }
  }
  return parseManifest(bytes);
}

export async function load(source: Source, options: LoaderOptions): Promise<Loaded> {
  const started = performance.now();
  throwIfAborted(options.signal);
  options.onProgress?.({ phase: "manifest", loadedBytes: 0, totalBytes: 0, file: "manifest.json" });
  const features = detectFeatures();
  const manifest = await loadManifest(source, options);
  const { variant, threads } = chooseVariant(manifest, features, options);
  const memory = createMemory(manifest, variant.endsWith("-threads"));

  const cache = await openCache(options.cache ?? "auto");
  const files = new FileSet(source, manifest, variant, cache, options);
  let engine: Engine | undefined;
  try {
    const module = files.get(manifest.modules[variant]!).then(compile);
    const instance = module.then((compiled) => (engine = new Engine(manifest, memory, compiled)));
    const tokenizer = manifest.tokenizer ? files.get(manifest.tokenizer.file) : Promise.resolve(null);
    const weights = files.forEachWeight(async (bytes, segments) => (await instance).place(bytes, segments));
    const [compiled, tokenizerJson] = await files.all([module, tokenizer, instance, weights] as const);
    files.report("start", manifest.modules[variant]!);
    throwIfAborted(options.signal);
    if (threads > 1) engine!.pool = await ThreadPool.start(manifest, memory, compiled, threads, options);
    throwIfAborted(options.signal);
    await files.remember();
    files.report("ready", "");
    const { downloadedBytes, cachedBytes } = files;
    const loadSeconds = (performance.now() - started) / 1000;
    return {
      engine: engine!,
      variant,
      tokenizerJson,
      cache: cache?.kind ?? "none",
      downloadedBytes,
      cachedBytes,
      loadSeconds,
    };
  } catch (error) {
    files.stop();
    engine?.dispose();
    throw error;
  }
}

async function compile(bytes: Uint8Array): Promise<WebAssembly.Module> {
  try {
    return await WebAssembly.compile(bytes as Uint8Array<ArrayBuffer>);
  } catch (cause) {
    const forbidden = /Content.Security.Policy|unsafe-eval|blocked by CSP/i.test((cause as Error).message);
    throw new EdgecError("unsupported-browser", `the module cannot be compiled here: ${(cause as Error).message}`, {
      cause,
      hint: forbidden
        ? "add 'wasm-unsafe-eval' to script-src of the page's content security policy"
        : "update the browser",
    });
  }
}

/** The files of one load: taken from the cache or the source, within the memory budget, all stopped when one fails. */
class FileSet {
  downloadedBytes = 0;
  cachedBytes = 0;
  private loadedBytes = 0;
  private failure: unknown;
  private readonly totalBytes: number;
  private readonly stopper = new AbortController();
  private readonly budget = new Budget(IN_FLIGHT_BYTES, IN_FLIGHT_FILES);
  private readonly needed: Set<string>;
  private readonly retry: RetryPolicy;

  constructor(
    private readonly source: Source,
    private readonly manifest: Manifest,
    variant: Variant,
    private cache: FileCache | null,
    private readonly options: LoaderOptions,
  ) {
    this.retry = { ...DEFAULT_RETRY, ...options.retry };
    this.needed = new Set([manifest.modules[variant]!, ...manifest.weights.map(({ file }) => file)]);
    if (manifest.tokenizer) this.needed.add(manifest.tokenizer.file);
    this.totalBytes = [...this.needed].reduce((sum, file) => sum + manifest.files[file].bytes, 0);
    options.signal?.addEventListener("abort", this.stop, { once: true });
  }

  readonly stop = (): void => {
    this.options.signal?.removeEventListener("abort", this.stop);
    this.stopper.abort();
  };

  private readonly fail = (error: unknown): void => {
    if (!this.stopper.signal.aborted) this.failure = error;
    this.stop();
  };

  /** Waits for all; when one fails, the others are stopped and have ended before this throws the first failure. */
  async all<T extends readonly Promise<unknown>[]>(promises: T): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
    try {
      return await Promise.all(promises);
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

  /** Checked bytes of a file. */
  async get(file: string, pool?: BufferPool): Promise<Bytes> {
    const cached = await this.fromCache(file, pool);
    if (cached) return cached;
    const info = this.manifest.files[file];
    const onBytes = (delta: number): void => this.advance(delta, file);
    const bytes = await download(this.source, file, info, {
      signal: this.stopper.signal,
      retry: this.retry,
      onBytes,
      pool,
      storedElsewhere: this.cache !== null,
    });
    this.downloadedBytes += bytes.length;
    await this.store(info.sha256, bytes);
    return bytes;
  }

  private advance(delta: number, file: string): void {
    this.loadedBytes += delta;
    this.report("download", file);
  }

  private async fromCache(file: string, pool?: BufferPool): Promise<Bytes | null> {
    const { bytes: length, sha256: key } = this.manifest.files[file];
    const stored = await this.cache?.get(key);
    throwIfAborted(this.stopper.signal);
    if (!stored) return null;
    const bytes = await fill(chunkReader(stored), pool?.take(length) ?? new Uint8Array(length));
    throwIfAborted(this.stopper.signal);
    if (!bytes || (await sha256(bytes)) !== key) {
      await this.cache!.delete(key);
      return null;
    }
    this.cachedBytes += length;
    this.advance(length, file);
    return bytes;
  }

  private async store(key: string, bytes: Uint8Array): Promise<void> {
    try {
      await this.cache?.put(key, bytes);
    } catch {
      this.cache = null; // no room, most likely: the rest is not worth trying
    }
  }

  /** Lets the cache drop what an older version of this bundle left. */
  async remember(): Promise<void> {
    const keys = Object.values(this.manifest.files).map(({ sha256: key }) => key);
    if (this.cache) await remember(this.cache, this.source.location, [...new Set(keys)].sort()).catch(() => undefined);
  }

  /** Files in download order, as many at once as the budget allows. */
  async forEachWeight(
    use: (bytes: Uint8Array, segments: Manifest["weights"][number]["segments"]) => Promise<void>,
  ): Promise<void> {
    const running: Promise<void>[] = [];
    const sizes = this.manifest.weights.map(({ file }) => this.manifest.files[file].bytes);
    const pool = new BufferPool(Math.max(0, ...sizes), 2);
    try {
      for (const [file, lists] of this.weightFiles()) {
        const length = this.manifest.files[file].bytes;
        await this.budget.take(length, this.stopper.signal);
        const one = this.get(file, pool).then(async (bytes) => {
          for (const segments of lists) await use(bytes, segments);
          pool.give(bytes);
        });
        running.push(one.catch(this.fail).finally(() => this.budget.give(length)));
      }
    } finally {
      await Promise.all(running);
    }
    throwIfAborted(this.stopper.signal);
  }

  /** Each file once, with the segment lists of all its mentions. */
  private weightFiles(): Map<string, Manifest["weights"][number]["segments"][]> {
    const files = new Map<string, Manifest["weights"][number]["segments"][]>();
    for (const { file, segments } of this.manifest.weights) files.set(file, [...(files.get(file) ?? []), segments]);
    return files;
  }
}

/** At most `bytes` and `count` taken at a time; a single taker may exceed `bytes`. */
class Budget {
  private bytesTaken = 0;
  private taken = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(
    private readonly bytes: number,
    private readonly count: number,
  ) {}

  async take(bytes: number, signal: AbortSignal): Promise<void> {
    while (this.taken > 0 && (this.taken >= this.count || this.bytesTaken + bytes > this.bytes)) {
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
    throwIfAborted(signal);
    this.taken++;
    this.bytesTaken += bytes;
  }

  give(bytes: number): void {
    this.taken--;
    this.bytesTaken -= bytes;
    for (const wake of this.waiting.splice(0)) wake();
  }
}
