/** Where a bundle's files come from: a URL, a directory on this machine (Node), or the caller's own reader. */

import { EdgecError, throwIfAborted } from "../errors.js";
import { builtin, isNode } from "../platform.js";
import { type ByteReader, bodyReader, bytesReader, chunkReader, handleReader } from "./reader.js";

/** The caller's own source. `read` gets names such as `manifest.json` and `weights/<sha256>.bin`. */
export interface BundleSource {
  read(file: string, options: { signal?: AbortSignal }): Promise<FileContent>;
}

export interface OpenOptions {
  signal?: AbortSignal;
  /** Ask the server again instead of using a copy of the browser's HTTP cache. */
  reload?: boolean;
  /** Keep it out of the HTTP cache: it will be stored elsewhere. */
  storedElsewhere?: boolean;
}

export interface Source {
  /** For messages. */
  readonly location: string;
  /** Whether a failed transfer may succeed when tried again. */
  readonly remote: boolean;
  open(file: string, options: OpenOptions): Promise<ByteReader>;
  /** Every file with its length, or null for what is no plain file; only local directories can tell. */
  list?(): Promise<Map<string, number | null>>;
}

/** A string or URL as an absolute URL; in Node, a path becomes a `file:` URL. */
export function resolveLocation(location: string | URL): URL {
  if (location instanceof URL) return location;
  if (isNode && !/^[a-z][a-z0-9+.-]+:/i.test(location))
    return builtin<typeof import("node:url")>("url").pathToFileURL(location);
  try {
    return new URL(location, (globalThis as { document?: Document }).document?.baseURI ?? globalThis.location?.href);
  } catch (cause) {
    throw new EdgecError("invalid-argument", `\`${location}\` is not a URL`, { cause });
  }
}

export function openSource(location: URL): Source {
  return location.protocol === "file:" && isNode ? new DirectorySource(location) : new HttpSource(location);
}

export type FileContent = Response | Blob | ArrayBuffer | Uint8Array;

/** Asks the caller's source; what it throws becomes an `EdgecError`. */
export async function readCustom(source: BundleSource, file: string, signal?: AbortSignal): Promise<FileContent> {
  let content: FileContent;
  try {
    content = await source.read(file, { signal });
  } catch (cause) {
    throwIfAborted(signal);
    if (cause instanceof EdgecError) throw cause;
    throw new EdgecError(
      "source",
      `the given source could not read \`${file}\`: ${(cause as Error)?.message ?? cause}`,
      { cause, file },
    );
  }
  if (content instanceof Response) checkResponse(content, file);
  return content;
}

async function readerOf(content: FileContent): Promise<ByteReader> {
  if (content instanceof Uint8Array) return bytesReader(content);
  if (content instanceof ArrayBuffer) return bytesReader(new Uint8Array(content));
  if (content instanceof Blob) return chunkReader(content.stream());
  return content.body ? bodyReader(content.body) : bytesReader(new Uint8Array());
}

export class CustomSource implements Source {
  readonly location = "the given source";
  readonly remote = false;

  constructor(private readonly source: BundleSource) {}

  async open(file: string, { signal }: OpenOptions): Promise<ByteReader> {
    throwIfAborted(signal);
    return readerOf(await readCustom(this.source, file, signal));
  }
}

class HttpSource implements Source {
  readonly remote = true;
  readonly location: string;
  private readonly base: URL;

  constructor(location: URL) {
    this.base = new URL(location);
    this.base.hash = "";
    this.base.pathname = this.base.pathname.replace(/\/manifest\.json$/, "/").replace(/([^/])$/, "$1/");
    this.location = this.base.href;
  }

  async open(file: string, { signal, reload, storedElsewhere }: OpenOptions): Promise<ByteReader> {
    const url = new URL(file, this.base);
    url.search = this.base.search;
    const stop = new AbortController();
    const abort = (): void => stop.abort();
    signal?.addEventListener("abort", abort, { once: true });
    let response: Response;
    try {
      throwIfAborted(signal);
      response = await fetch(url, { signal: stop.signal, cache: storedElsewhere ? "no-store" : reload ? "reload" : "default" });
    } catch (cause) {
      signal?.removeEventListener("abort", abort);
      throwIfAborted(signal);
      throw networkError(file, this.location, cause);
    }
    try {
      checkResponse(response, file);
    } catch (error) {
      abort();
      throw error;
    }
    if (!response.body) return bytesReader(new Uint8Array());
    const reader = bodyReader(response.body);
    return {
      read: (target) =>
        reader.read(target).catch((cause) => {
          throwIfAborted(signal);
          throw networkError(file, this.location, cause);
        }),
      cancel: () => {
        signal?.removeEventListener("abort", abort);
        reader.cancel();
        abort();
      },
    };
  }
}

function networkError(file: string, location: string, cause: unknown): EdgecError {
  return new EdgecError("network", `\`${file}\` could not be downloaded from ${location}`, {
    cause,
    file,
    hint: "check the connection, and that the server allows this page to read the file (CORS)",
  });
}

function checkResponse(response: Response, file: string): void {
  if (response.status === 404 || response.status === 410) {
    throw new EdgecError("file-missing", `\`${file}\` is missing on the server (status ${response.status})`, {
      file,
      status: response.status,
    });
  }
  if (!response.ok) {
    throw new EdgecError("http", `the server answered \`${file}\` with status ${response.status}`, {
      file,
      status: response.status,
    });
  }
  if (!file.endsWith(".html") && /\btext\/html\b/i.test(response.headers.get("content-type") ?? ""))
    throw htmlError(file);
}

/** Servers of single-page applications, and log-in pages of networks, answer everything with HTML. */
export function htmlError(file: string): EdgecError {
  return new EdgecError("http", `the server answered \`${file}\` with an HTML page`, {
    file,
    hint: "check the bundle's URL, and that the server does not answer unknown paths with a page",
  });
}

class DirectorySource implements Source {
  readonly remote = false;
  readonly location: string;
  private readonly fs = builtin<typeof import("node:fs/promises")>("fs/promises");
  private readonly path = builtin<typeof import("node:path")>("path");

  constructor(location: URL) {
    this.location = builtin<typeof import("node:url")>("url")
      .fileURLToPath(location)
      .replace(/[/\\]manifest\.json$/, "");
  }

  async open(file: string, { signal }: OpenOptions): Promise<ByteReader> {
    throwIfAborted(signal);
    const path = this.path.join(this.location, file);
    try {
      const status = await this.fs.lstat(path);
      if (!status.isFile()) throw new EdgecError("file-unexpected", `\`${file}\` is not a plain file`, { file });
      return handleReader(await this.fs.open(path));
    } catch (cause) {
      throwIfAborted(signal);
      if (cause instanceof EdgecError) throw cause;
      if ((cause as NodeJS.ErrnoException).code === "ENOENT" || (cause as NodeJS.ErrnoException).code === "ENOTDIR") {
        throw new EdgecError("file-missing", `\`${file}\` is missing in ${this.location}`, { file, cause });
      }
      throw new EdgecError("source", `\`${path}\` cannot be read (${(cause as NodeJS.ErrnoException).code})`, {
        file,
        cause,
      });
    }
  }

  async list(): Promise<Map<string, number | null>> {
    const found = new Map<string, number | null>();
    const pending = [""];
    for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
      for (const entry of await this.fs.readdir(this.path.join(this.location, folder), { withFileTypes: true })) {
        const name = folder ? `${folder}/${entry.name}` : entry.name;
        if (entry.isDirectory() && name === "weights") pending.push(name);
        else found.set(name, entry.isFile() ? (await this.fs.lstat(this.path.join(this.location, name))).size : null);
      }
    }
    return found;
  }
}
