/** One file of a bundle: fetched, counted, checked against the manifest, tried again where that can help. */

import { EdgecError, abortError, throwIfAborted } from "../errors.js";
import { type FileInfo, MANIFEST_FILE, MAX_MANIFEST_BYTES } from "../bundle/manifest.js";
import { sha256 } from "../sha256.js";
import { type OpenOptions, type OpenedFile, type Source, htmlError } from "./source.js";

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
}

/** The file's bytes, of the right length and hash. */
export async function download(source: Source, file: string, info: FileInfo, options: DownloadOptions): Promise<Uint8Array> {
  return withRetry(source, options, async (reload, signal) => {
    const bytes = await readExactly(source, file, info.bytes, { signal, reload }, options);
    const digest = await sha256(bytes);
    if (digest !== info.sha256) {
      options.onBytes?.(-bytes.length);
      throw new EdgecError("hash-mismatch", `\`${file}\` has a SHA-256 that begins with ${digest.slice(0, 16)}, the manifest says ${info.sha256.slice(0, 16)}`, { file });
    }
    return bytes;
  });
}

/** The manifest, whose length nothing tells in advance. */
export async function downloadManifest(source: Source, options: DownloadOptions): Promise<Uint8Array> {
  return withRetry(source, options, async (reload, signal) => {
    const parts: Uint8Array[] = [];
    let total = 0;
    for await (const chunk of watched(await source.open(MANIFEST_FILE, { signal, reload }), MANIFEST_FILE, options)) {
      parts.push(chunk);
      total += chunk.length;
      if (total > MAX_MANIFEST_BYTES) {
        throw new EdgecError("manifest-invalid", `the manifest is invalid: it has more than ${MAX_MANIFEST_BYTES} bytes`, { file: MANIFEST_FILE });
      }
    }
    const bytes = new Uint8Array(total);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    if (looksLikeHtml(bytes)) throw htmlError(MANIFEST_FILE);
    return bytes;
  });
}

async function readExactly(source: Source, file: string, length: number, open: OpenOptions, options: DownloadOptions): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let at = 0;
  try {
    for await (const chunk of watched(await source.open(file, open), file, options)) {
      if (at + chunk.length > length) throw looksLikeHtml(at ? bytes : chunk) ? htmlError(file) : lengthError(file, `more than ${length} bytes`, length);
      bytes.set(chunk, at);
      at += chunk.length;
      options.onBytes?.(chunk.length);
    }
    if (at !== length) throw looksLikeHtml(bytes) ? htmlError(file) : lengthError(file, `${at} bytes`, length);
    return bytes;
  } catch (error) {
    options.onBytes?.(-at);
    throw error;
  }
}

function lengthError(file: string, found: string, expected: number): EdgecError {
  return new EdgecError("length-mismatch", `\`${file}\` has ${found}, the manifest says ${expected}`, { file });
}

function looksLikeHtml(bytes: Uint8Array): boolean {
  const start = new TextDecoder().decode(bytes.subarray(0, 64)).trimStart().toLowerCase();
  return start.startsWith("<!doctype html") || start.startsWith("<html");
}

/** The chunks of a transfer; gives up when it stalls. */
async function* watched(opened: OpenedFile, file: string, { retry = DEFAULT_RETRY, signal }: DownloadOptions): AsyncIterable<Uint8Array> {
  const iterator = opened.chunks[Symbol.asyncIterator]();
  let fail!: (error: EdgecError) => void;
  const failure = new Promise<never>((_, reject) => (fail = reject));
  failure.catch(() => undefined);
  const abort = (): void => fail(abortError());
  signal?.addEventListener("abort", abort, { once: true });
  try {
    for (;;) {
      throwIfAborted(signal);
      const seconds = Math.round(retry.stall / 1000);
      const message = `the download of \`${file}\` has stalled for ${seconds} seconds`;
      const timer = setTimeout(() => fail(new EdgecError("network", message, { file })), retry.stall);
      const part = await Promise.race([iterator.next(), failure]).finally(() => clearTimeout(timer));
      if (part.done) return;
      yield part.value;
    }
  } finally {
    signal?.removeEventListener("abort", abort);
    opened.cancel();
  }
}

/** Whether the same request may succeed a moment later. A bad hash gets one more try past all HTTP caches. */
function isTransient(error: unknown, attempt: number): boolean {
  if (!(error instanceof EdgecError)) return false;
  if (error.code === "network") return true;
  if (error.code === "http") return error.status !== undefined && (error.status >= 500 || error.status === 408 || error.status === 429);
  return (error.code === "length-mismatch" || error.code === "hash-mismatch") && attempt === 1;
}

async function withRetry<T>(source: Source, options: DownloadOptions, run: (reload: boolean, signal?: AbortSignal) => Promise<T>): Promise<T> {
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
