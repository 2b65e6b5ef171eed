/**
 * Files that survive the page: OPFS, or the Cache API where there is none. Keys are SHA-256 hashes, so
 * bundles share equal files. Whatever goes wrong here costs a download, never the load.
 */

import { within } from "../patience.js";
import { isNode } from "../platform.js";
import { type Bytes, bodyReader, chunkReader, fill } from "./reader.js";

export type CacheKind = "opfs" | "cache-api" | "none";

export interface FileCache {
  readonly kind: CacheKind;
  /** Fills `target` with a file of that length, not yet checked, or returns null. The result may lie in another buffer. */
  read(key: string, target: Bytes): Promise<Bytes | null>;
  /** A whole file of any length, or null. */
  text(key: string): Promise<string | null>;
  /** Throws `FileInUse` where another tab has the file open. */
  put(key: string, bytes: Uint8Array): Promise<void>;
  delete(key: string): Promise<void>;
  keys(): Promise<string[]>;
}

const DIRECTORY = "edgec";
const INDEX = "index.json"; // which files each bundle was seen to have

/** Milliseconds after which storage that does not answer counts as empty. */
export const CACHE_PATIENCE = 5_000;

/** Another tab reads or writes the file. */
export class FileInUse extends Error {}

/** Notes the files of the bundle at `location`, and deletes those that only its last version had. */
export async function remember(cache: FileCache, location: string, keys: readonly string[]): Promise<void> {
  const index = parseIndex(await cache.text(INDEX));
  const before = Array.isArray(index[location]) ? index[location] : [];
  if (JSON.stringify(before) === JSON.stringify(keys)) return;
  index[location] = [...keys];
  const wanted = new Set(Object.values(index).flat());
  for (const key of before) if (!wanted.has(key)) await cache.delete(key);
  await cache.put(INDEX, new TextEncoder().encode(JSON.stringify(index)));
}

/** Location -> keys. Where it is damaged, what it knew is lost, and those files stay until `clearCache`. */
function parseIndex(text: string | null): Record<string, string[]> {
  try {
    const index = JSON.parse(text ?? "{}") as unknown;
    return typeof index === "object" && index !== null ? (index as Record<string, string[]>) : {};
  } catch {
    return {};
  }
}

/** The best store that works here, or null. `mode` restricts the choice. */
export async function openCache(mode: "auto" | CacheKind): Promise<FileCache | null> {
  if (mode === "none" || (mode === "auto" && isNode)) return null;
  return within(CACHE_PATIENCE, findCache(mode), null);
}

async function findCache(mode: "auto" | CacheKind): Promise<FileCache | null> {
  if (mode !== "cache-api") {
    try {
      const root = await navigator.storage.getDirectory();
      return new OpfsCache(await root.getDirectoryHandle(DIRECTORY, { create: true }));
    } catch {
      // Missing, forbidden in this frame, or a private window: try the next one.
    }
  }
  if (mode !== "opfs") {
    try {
      return new ApiCache(await caches.open(DIRECTORY));
    } catch {
      // The same reasons; the load goes on without a cache.
    }
  }
  return null;
}

interface SyncAccessHandle {
  getSize(): number;
  read(target: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  write(data: Uint8Array, options: { at: number }): number;
  close(): void;
}

/** Workers have access handles, newer browsers have `createWritable`; TypeScript knows of neither's options. */
type FileHandle = Omit<FileSystemFileHandle, "createWritable"> & {
  createSyncAccessHandle?(options?: { mode: "read-only" | "readwrite" }): Promise<SyncAccessHandle>;
  createWritable?(): Promise<FileSystemWritableFileStream>;
};

class OpfsCache implements FileCache {
  readonly kind = "opfs";

  /** Whether a handle cannot be shared, as in Firefox; known once one has been opened. */
  private handlesLock = false;

  constructor(private readonly directory: FileSystemDirectoryHandle) {}

  async read(key: string, target: Bytes): Promise<Bytes | null> {
    try {
      const handle = (await this.directory.getFileHandle(key)) as FileHandle;
      const access = await this.openToRead(handle);
      if (!access) {
        const stream = (await handle.getFile()).stream();
        return await fill(this.handlesLock ? bodyReader(stream) : chunkReader(stream), target);
      }
      try {
        return access.getSize() === target.length && access.read(target, { at: 0 }) === target.length ? target : null;
      } finally {
        access.close();
      }
    } catch {
      return null;
    }
  }

  /**
   * Several times as fast as a stream, but only in workers (else null), and only where the browser knows the mode. Firefox takes 20 ms to
   * open and close one, and no other tab reads the file meanwhile; its streams read into memory that is there, as Chromium's do not.
   */
  private async openToRead(handle: FileHandle): Promise<SyncAccessHandle | null> {
    if (this.handlesLock) return null;
    let knowsMode = false;
    const opening = handle.createSyncAccessHandle?.({
      get mode() {
        knowsMode = true;
        return "read-only" as const;
      },
    });
    this.handlesLock = opening !== undefined && !knowsMode;
    return (await opening?.catch(() => null)) ?? null;
  }

  async text(key: string): Promise<string | null> {
    try {
      return await (await (await this.directory.getFileHandle(key)).getFile()).text();
    } catch {
      return null;
    }
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    const handle = (await this.directory.getFileHandle(key, { create: true })) as FileHandle;
    try {
      if (handle.createWritable) await replaceContent(await handle.createWritable(), bytes);
      else overwrite(await handle.createSyncAccessHandle!(), bytes);
    } catch (error) {
      await this.deleteUnlessWhole(key, handle, bytes.length);
      throw (error as DOMException | undefined)?.name === "NoModificationAllowedError" ? new FileInUse() : error;
    }
  }

  /** After a failure: what was begun is of no use, but another tab may have stored the same file meanwhile. */
  private async deleteUnlessWhole(key: string, handle: FileHandle, length: number): Promise<void> {
    const found = await handle.getFile().catch(() => null);
    if (found && found.size !== length) await this.delete(key);
  }

  async delete(key: string): Promise<void> {
    await this.directory.removeEntry(key).catch(() => undefined);
  }

  async keys(): Promise<string[]> {
    const names: string[] = [];
    for await (const name of (this.directory as unknown as { keys(): AsyncIterable<string> }).keys()) names.push(name);
    return names;
  }
}

/** Written to the side; takes the file's place on close. */
async function replaceContent(file: FileSystemWritableFileStream, bytes: Uint8Array): Promise<void> {
  await file.write(bytes as Bytes);
  await file.close();
}

/** In place: what is cut short has the wrong hash and is found out by it. */
function overwrite(file: SyncAccessHandle, bytes: Uint8Array): void {
  try {
    file.truncate(0);
    if (file.write(bytes, { at: 0 }) !== bytes.length) throw new Error("the file was not written in full");
  } finally {
    file.close();
  }
}

class ApiCache implements FileCache {
  readonly kind = "cache-api";

  constructor(private readonly cache: Cache) {}

  private url(key: string): string {
    return `/${DIRECTORY}-cache/${key}`;
  }

  async read(key: string, target: Bytes): Promise<Bytes | null> {
    try {
      const body = (await this.cache.match(this.url(key)))?.body;
      return body ? await fill(chunkReader(body), target) : null;
    } catch {
      return null;
    }
  }

  async text(key: string): Promise<string | null> {
    return (await this.cache.match(this.url(key)))?.text() ?? null;
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    await this.cache.put(this.url(key), new Response(bytes as Uint8Array<ArrayBuffer>));
  }

  async delete(key: string): Promise<void> {
    await this.cache.delete(this.url(key));
  }

  async keys(): Promise<string[]> {
    return (await this.cache.keys()).map((request) => request.url.slice(request.url.lastIndexOf("/") + 1));
  }
}
