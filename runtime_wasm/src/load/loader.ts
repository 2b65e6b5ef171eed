/** From a source to a running engine: manifest, module, weights, threads. */

import { atDepth } from "../bundle/depths.js";
import { FINEST, MANIFEST_FILE, type Manifest, type Variant } from "../bundle/manifest.js";
import { parseManifest } from "../bundle/parse.js";
import { Engine, createMemory } from "../engine/engine.js";
import { chooseVariant, detectFeatures } from "../engine/features.js";
import { type PoolOptions, ThreadPool } from "../engine/pool.js";
import { EdgecError, throwIfAborted } from "../errors.js";
import { wallTime } from "../platform.js";
import { type TaskCode, fetchTaskCode } from "../session/tasks.js";
import { sha256 } from "../sha256.js";
import type { ChatTemplate } from "../text/chat.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type CacheKind, openCache } from "./cache.js";
import { DEFAULT_RETRY, type RetryPolicy } from "./download.js";
import { FileSet, type LoadProgress } from "./files.js";
import { BufferPool, type Bytes } from "./reader.js";
import type { Source } from "./source.js";

export interface LoaderOptions {
  /** `wallTime` when the load began, which may have been in another thread. */
  startedAt: number;
  threads?: number;
  variant?: Variant;
  /** Bits to load of the codes of a bundle that was compiled with `--nested`: 4 (the default), 3 or 2. */
  depth?: number;
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
  /** Told of the work that goes on after the load has ended, well or badly: files on their way into the cache. It never fails. */
  onBackground?: (work: Promise<void>) => void;
}

export interface Loaded {
  engine: Engine;
  variant: Variant;
  /** Bits of nested codes that were loaded, null where codes are not nested. */
  depth: number | null;
  tokenizer: Tokenizer | null;
  /** Fails where the template is not valid. */
  template: Promise<ChatTemplate> | null;
  /** What the model's task needs, null where it has none. */
  taskCode: TaskCode | null;
  cache: CacheKind;
  /** Bytes that came from the source and from the cache. */
  downloadedBytes: number;
  cachedBytes: number;
  loadSeconds: number;
}

/** A checked manifest of its bytes; `manifestSha256` is what the page expects, if it expects anything. */
export async function readManifest(bytes: Uint8Array, manifestSha256: string | undefined): Promise<Manifest> {
  if (manifestSha256 !== undefined) {
    const digest = await sha256(bytes);
    if (digest !== manifestSha256.toLowerCase()) {
      throw new EdgecError(
        "hash-mismatch",
        `the manifest has a SHA-256 that begins with ${digest.slice(0, 16)}, the page expects ${manifestSha256.slice(0, 16)}`,
        { file: MANIFEST_FILE },
      );
    }
  }
  return parseManifest(bytes);
}

/** Every file is put to use as soon as it is there and checked, so that little is left to do when the last one comes. */
export async function load(source: Source, manifestBytes: Uint8Array, options: LoaderOptions): Promise<Loaded> {
  const opening = openCache(options.cache ?? "auto");
  const features = detectFeatures();
  const whole = await readManifest(manifestBytes, options.manifestSha256);
  const manifest = atDepth(whole, options.depth);
  const depth = whole.depths.length > 0 ? (options.depth ?? FINEST) : null;
  const cache = await opening;
  throwIfAborted(options.signal);
  const { variant, threads } = chooseVariant(manifest, features, options);
  const memory = createMemory(manifest, variant.endsWith("-threads"));

  const moduleFile = manifest.modules[variant]!;
  const weightFiles = segmentsByFile(manifest);
  const tokenizerFile = manifest.tokenizer?.file;
  const wanted = [moduleFile, ...(tokenizerFile ? [tokenizerFile] : []), ...weightFiles.keys()];
  const retry = { ...DEFAULT_RETRY, ...options.retry };
  const { signal, onProgress } = options;
  const files = await FileSet.open({ source, manifest, wanted, cache, retry, signal, onProgress });
  let engine: Engine | undefined;
  try {
    const module = files.take(moduleFile, compile);
    const instance = module.then((compiled) => (engine = new Engine(manifest, memory, compiled)));
    const template = startTemplate(manifest);
    const script = fetchTaskCode(manifest.task) ?? Promise.resolve(null);
    const tokenizer = tokenizerFile ? takeTokenizer(files, tokenizerFile) : Promise.resolve(null);
    const weights = takeWeights(files, weightFiles, instance);
    const placed = Promise.all(weights).then(() => files.report("start", moduleFile));
    const pool = threads > 1 ? startPool(module, instance, threads, { ...options, signal: files.signal }) : null;
    const parts = [instance, tokenizer, script, pool ?? Promise.resolve(), placed, ...weights] as const;
    const [loaded, text, taskCode] = await files.all(parts);
    files.end();
    files.remember();
    files.report("ready", "");
    const { downloadedBytes, cachedBytes, cacheKind } = files;
    const loadSeconds = (wallTime() - options.startedAt) / 1000;
    const figures = { cache: cacheKind, downloadedBytes, cachedBytes, loadSeconds };
    return { engine: loaded, variant, depth, tokenizer: text, template, taskCode, ...figures };
  } catch (error) {
    files.stop();
    engine?.dispose();
    throw error;
  } finally {
    options.onBackground?.(files.stored());
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

async function takeTokenizer(files: FileSet, file: string): Promise<Tokenizer> {
  const script = import("../text/tokenizer.js");
  script.catch(() => undefined); // reported when the file is there
  return files.take(file, async (bytes) => new (await script).Tokenizer(bytes));
}

/** Now rather than at the first chat: the page may be offline by then. */
function startTemplate({ tokenizer }: Manifest): Promise<ChatTemplate> | null {
  const source = tokenizer?.chat_template;
  if (typeof source !== "string") return null;
  const template = import("../text/chat.js").then(({ ChatTemplate }) => new ChatTemplate(source));
  template.catch(() => undefined); // reported by the first chat
  return template;
}

/** As many files of 1 MiB as are under way at a time. */
const SPARE_BUFFERS = 3;

type SegmentLists = Manifest["weights"][number]["segments"][];

/** Each weight file once, in download order, with the segment lists of all its mentions. */
function segmentsByFile(manifest: Manifest): Map<string, SegmentLists> {
  const files = new Map<string, SegmentLists>();
  for (const { file, segments } of manifest.weights) files.set(file, [...(files.get(file) ?? []), segments]);
  return files;
}

function takeWeights(files: FileSet, wanted: Map<string, SegmentLists>, instance: Promise<Engine>): Promise<void>[] {
  const pool = new BufferPool(Math.max(0, ...[...wanted.keys()].map((file) => files.bytes(file))), SPARE_BUFFERS);
  const place = async (bytes: Bytes, lists: SegmentLists): Promise<void> => {
    const engine = await instance;
    for (const segments of lists) engine.place(bytes, segments);
  };
  return [...wanted].map(([file, lists]) => files.take(file, (bytes) => place(bytes, lists), pool));
}

async function startPool(
  module: Promise<WebAssembly.Module>,
  instance: Promise<Engine>,
  threads: number,
  options: PoolOptions,
): Promise<void> {
  const engine = await instance;
  engine.pool = await ThreadPool.start(engine.manifest, engine.memory, await module, threads, options);
}
