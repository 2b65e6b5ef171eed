/**
 * Files that survive the page: OPFS, or the Cache API where there is none. Keys are SHA-256 hashes, so
 * bundles share equal files. Whatever goes wrong here costs a download, never the load.
 */

import { isNode } from "../platform.js";

export type CacheKind = "opfs" | "cache-api" | "none";

export interface FileCache {
  readonly kind: CacheKind;
  /** The stored bytes, not yet checked, or null. */
  get(key: string): Promise<ReadableStream<Uint8Array> | null>;
  put(key: string, bytes: Uint8Array): Promise<void>;
  delete(key: string): Promise<void>;
  keys(): Promise<string[]>;
}

const DIRECTORY = "edgec";
const INDEX = "index.json"; // which files each bundle was seen to have

/** Notes the files of the bundle at `location`, and deletes those that only its last version had. */
export async function remember(cache: FileCache, location: string, keys: readonly string[]): Promise<void> {
  const stored = await cache.get(INDEX);
  let index: Record<string, string[]> = {};
  try {
    if (stored) index = (await new Response(stored).json()) as typeof index;
  } catch {
    // Damaged: what it knew is lost, and those files stay until `clearCache`.
  }
  const before = Array.isArray(index[location]) ? index[location] : [];
  if (JSON.stringify(before) === JSON.stringify(keys)) return;
  index[location] = [...keys];
  const wanted = new Set(Object.values(index).flat());
  for (const key of before) if (!wanted.has(key)) await cache.delete(key);
  await cache.put(INDEX, new TextEncoder().encode(JSON.stringify(index)));
}

/** The best store that works here, or null. `mode` restricts the choice. */
export async function openCache(mode: "auto" | CacheKind): Promise<FileCache | null> {
  if (mode === "none" || (mode === "auto" && isNode)) return null;
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
  truncate(size: number): void;
  write(data: Uint8Array, options: { at: number }): number;
  flush(): void;
  close(): void;
}

class OpfsCache implements FileCache {
  readonly kind = "opfs";

  constructor(private readonly directory: FileSystemDirectoryHandle) {}

  async get(key: string): Promise<ReadableStream<Uint8Array> | null> {
    try {
      return (await (await this.directory.getFileHandle(key)).getFile()).stream();
    } catch {
      return null;
    }
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    const handle = (await this.directory.getFileHandle(key, { create: true })) as FileSystemFileHandle & {
      createSyncAccessHandle?(): Promise<SyncAccessHandle>;
    };
    try {
      if (typeof handle.createWritable === "function") {
        const stream = await handle.createWritable(); // written to the side, takes its place on close
        await stream.write(bytes as Uint8Array<ArrayBuffer>);
        await stream.close();
      } else {
        const access = await handle.createSyncAccessHandle!();
        try {
          access.truncate(0);
          if (access.write(bytes, { at: 0 }) !== bytes.length) throw new Error("the file was not written in full");
          access.flush();
        } finally {
          access.close();
        }
      }
    } catch (error) {
      await this.delete(key);
      throw error;
    }
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

class ApiCache implements FileCache {
  readonly kind = "cache-api";

  constructor(private readonly cache: Cache) {}

  private url(key: string): string {
    return `/${DIRECTORY}-cache/${key}`;
  }

  async get(key: string): Promise<ReadableStream<Uint8Array> | null> {
    return (await this.cache.match(this.url(key)))?.body ?? null;
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
