/** One file of a bundle: fetched, counted, checked against the manifest, tried again where that can help. */

import { EdgecError, abortError, throwIfAborted } from "../errors.js";
import { type FileInfo, MANIFEST_FILE, MAX_MANIFEST_BYTES } from "../bundle/manifest.js";
import { within } from "../patience.js";
import { sha256 } from "../sha256.js";
import type { BufferPool, ByteReader, Bytes } from "./reader.js";
import { type OpenOptions, type Source, htmlError } from "./source.js";

export interface RetryPolicy {
  /** Tries in all. */
  attempts: number;
  /** Wait before the second try, doubled each time, milliseconds. */
  delay: number;
  /** A transfer without a byte for so long counts as broken, milliseconds. */
  stall: number;
}

export const DEFAULT_RETRY: RetryPolicy = { attempts: 4, delay: 400, stall: 30_000 };

export interface DownloadOptions {
  signal?: AbortSignal;
  retry?: RetryPolicy;
  /** Called with the bytes that have come in since the last call; negative when a try is given up. */
  onBytes?: (delta: number) => void;
  /** Whether the caller stores the file, so that the browser's HTTP cache need not. */
  storedElsewhere?: boolean;
  /** Where the buffer comes from; the caller gives it back. */
  pool?: BufferPool;
}

/** The file's bytes, of the right length and hash, in a buffer of `pool` if there is one. */
export async function download(source: Source, file: string, info: FileInfo, options: DownloadOptions): Promise<Bytes> {
  return withRetry(source, options, async (reload, signal) => {
    const target = options.pool?.take(info.bytes) ?? new Uint8Array(info.bytes);
    const { storedElsewhere } = options;
    const reader = await open(source, file, { signal, reload, storedElsewhere }, options);
    const bytes = await readExactly(reader, file, target, options);
    const digest = await sha256(bytes);
    if (digest !== info.sha256) {
      options.onBytes?.(-bytes.length);
      options.pool?.give(bytes);
      throw new EdgecError(
        "hash-mismatch",
        `\`${file}\` has a SHA-256 that begins with ${digest.slice(0, 16)}, the manifest says ${info.sha256.slice(0, 16)}`,
        { file },
      );
    }
    return bytes;
  });
}

/** The manifest, whose length nothing tells in advance. */
export const downloadManifest = (source: Source, options: DownloadOptions): Promise<Bytes> =>
  downloadUnknown(source, MANIFEST_FILE, MAX_MANIFEST_BYTES, "the manifest", options);

/** A file of at most `limit` bytes; `what` names it in messages. */
export async function downloadUnknown(
  source: Source,
  file: string,
  limit: number,
  what: string,
  options: DownloadOptions,
): Promise<Bytes> {
  return withRetry(source, options, async (reload, signal) => {
    let bytes = new Uint8Array(65536);
    let length = 0;
    const watch = new Watch(await open(source, file, { signal, reload }, options), file, options);
    try {
      for (;;) {
        const part = await watch.read(bytes.subarray(length));
        bytes = new Uint8Array(part.buffer);
        length += part.length;
        if (part.length === 0) break;
        if (length > limit)
          throw new EdgecError("manifest-invalid", `${what} is invalid: it has more than ${limit} bytes`, { file });
        if (length === bytes.length) {
          bytes = new Uint8Array(2 * length);
          bytes.set(new Uint8Array(part.buffer));
        }
      }
    } finally {
      watch.close();
    }
    const content = bytes.subarray(0, length);
    if (looksLikeHtml(content)) throw htmlError(file);
    return content;
  });
}

/** Servers have to begin to answer in time, too; the caller's own source may take as long as it likes. */
async function open(source: Source, file: string, how: OpenOptions, options: DownloadOptions): Promise<ByteReader> {
  const { stall } = options.retry ?? DEFAULT_RETRY;
  const opening = source.open(file, how);
  if (!source.remote) return opening;
  const reader = await within(stall, opening, null);
  if (reader) return reader;
  opening.then(
    (late) => late.cancel(),
    () => undefined,
  );
  throw stalled(file, stall);
}

function stalled(file: string, stall: number): EdgecError {
  const message = `the download of \`${file}\` has stalled for ${Math.round(stall / 1000)} seconds`;
  return new EdgecError("network", message, { file });
}

/** Fills `target` and sees that the file ends there. The result may lie in another buffer, see `ByteReader`. */
async function readExactly(reader: ByteReader, file: string, target: Bytes, options: DownloadOptions): Promise<Bytes> {
  const length = target.length;
  const watch = new Watch(reader, file, options);
  let bytes = target;
  let at = 0;
  try {
    while (at < length) {
      const part = await watch.read(bytes.subarray(at));
      bytes = new Uint8Array(part.buffer, 0, length);
      if (part.length === 0) break;
      at += part.length;
      options.onBytes?.(part.length);
    }
    const more = at === length && (await watch.read(new Uint8Array(1))).length > 0;
    if (at === length && !more) return bytes;
    throw looksLikeHtml(bytes.subarray(0, at))
      ? htmlError(file)
      : lengthError(file, more ? `more than ${length} bytes` : `${at} bytes`, length);
  } catch (error) {
    options.onBytes?.(-at);
    throw error;
  } finally {
    watch.close();
  }
}

function lengthError(file: string, found: string, expected: number): EdgecError {
  return new EdgecError("length-mismatch", `\`${file}\` has ${found}, the manifest says ${expected}`, { file });
}

function looksLikeHtml(bytes: Uint8Array): boolean {
  const start = new TextDecoder().decode(bytes.subarray(0, 64)).trimStart().toLowerCase();
  return start.startsWith("<!doctype html") || start.startsWith("<html");
}

/** A transfer that ends when it stalls or the caller aborts. */
class Watch {
  private readonly stall: number;
  private readonly signal: AbortSignal | undefined;
  private fail!: (error: EdgecError) => void;
  private readonly failure: Promise<never>;
  private readonly abort = (): void => this.fail(abortError());

  constructor(
    private readonly reader: ByteReader,
    private readonly file: string,
    { retry = DEFAULT_RETRY, signal }: DownloadOptions,
  ) {
    this.stall = retry.stall;
    this.signal = signal;
    this.failure = new Promise<never>((_, reject) => (this.fail = reject));
    this.failure.catch(() => undefined);
    signal?.addEventListener("abort", this.abort, { once: true });
  }

  async read(target: Bytes): Promise<Bytes> {
    throwIfAborted(this.signal);
    const timer = setTimeout(() => this.fail(stalled(this.file, this.stall)), this.stall);
    try {
      return await Promise.race([this.reader.read(target), this.failure]);
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    this.signal?.removeEventListener("abort", this.abort);
    this.reader.cancel();
  }
}

/** Whether the same request may succeed a moment later. A bad hash gets one more try past all HTTP caches. */
function isTransient(error: unknown, attempt: number): boolean {
  if (!(error instanceof EdgecError)) return false;
  if (error.code === "network") return true;
  if (error.code === "http")
    return error.status !== undefined && (error.status >= 500 || error.status === 408 || error.status === 429);
  return (error.code === "length-mismatch" || error.code === "hash-mismatch") && attempt === 1;
}

async function withRetry<T>(
  source: Source,
  options: DownloadOptions,
  run: (reload: boolean, signal?: AbortSignal) => Promise<T>,
): Promise<T> {
  const { retry = DEFAULT_RETRY, signal } = options;
  for (let attempt = 1, reload = false; ; attempt++) {
    try {
      return await run(reload, signal);
    } catch (error) {
      throwIfAborted(signal);
      if (!source.remote || attempt >= retry.attempts || !isTransient(error, attempt)) throw error;
      reload = true;
    }
    await pause(retry.delay * 2 ** (attempt - 1), signal);
  }
}

function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(abortError());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", abort, { once: true });
  });
}
