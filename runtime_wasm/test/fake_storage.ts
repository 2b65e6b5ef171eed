/** In-memory stand-ins for OPFS and the Cache API. */

type Mode = "read-only" | "readwrite" | "writable";

export interface FakeFeatures {
  /** `createWritable`: not in Safari before 26. */
  writables?: boolean;
  /** `createSyncAccessHandle`: in workers alone. */
  accessHandles?: boolean;
  /** They know no mode, and BYOB reads of files work: Firefox. */
  handlesLock?: boolean;
}

/** A folder of OPFS with the locks of the specification. Several tabs are several loads on one of these. */
export class FakeDirectory {
  readonly files = new Map<string, Uint8Array>();
  writes = 0;
  /** Bytes after which writing fails, as a full disk does. */
  quota = Infinity;
  /** Called, and waited for, before content is written; what it throws is what writing fails with. */
  beforeWrite: (name: string) => Promise<void> | void = () => undefined;
  /** Called when a file has been opened to be read. */
  onRead: (name: string) => void = () => undefined;
  private readonly locks = new Map<string, Mode[]>();

  constructor(private readonly features: FakeFeatures = { writables: true }) {}

  async getDirectoryHandle(): Promise<this> {
    return this;
  }

  async getFileHandle(name: string, { create = false } = {}): Promise<object> {
    if (!this.files.has(name)) {
      if (!create) throw new DOMException("not found", "NotFoundError");
      this.files.set(name, new Uint8Array());
    }
    const getFile = async (): Promise<object> => {
      const content = this.files.get(name);
      if (!content) throw new DOMException("not found", "NotFoundError");
      const bytes = content.slice();
      return {
        size: bytes.length,
        text: async () => new TextDecoder().decode(bytes),
        stream: () => {
          this.onRead(name);
          return handlesLock ? new Blob([bytes]).stream() : fileStream(bytes);
        },
      };
    };
    const { writables, accessHandles, handlesLock } = this.features;
    return {
      getFile,
      ...(writables ? { createWritable: async () => this.writable(name) } : {}),
      ...(accessHandles
        ? {
            createSyncAccessHandle: async (options: { mode?: Mode } = {}) =>
              this.accessHandle(name, handlesLock ? "readwrite" : (options.mode ?? "readwrite")),
          }
        : {}),
    };
  }

  /** Several may write to the side, or read; anything else excludes all others. */
  private lock(name: string, mode: Mode): () => void {
    const held = this.locks.get(name) ?? [];
    if (held.length > 0 && (mode === "readwrite" || held.some((other) => other !== mode)))
      throw new DOMException("in use", "NoModificationAllowedError");
    this.locks.set(name, [...held, mode]);
    return () => this.locks.set(name, this.locks.get(name)!.slice(1));
  }

  private writable(name: string): object {
    const release = this.lock(name, "writable");
    let pending = new Uint8Array();
    return {
      write: async (data: Uint8Array) => {
        try {
          await this.beforeWrite(name);
          if (this.used() + data.length > this.quota) throw new DOMException("full", "QuotaExceededError");
          pending = data.slice();
        } catch (error) {
          release();
          throw error;
        }
      },
      close: async () => {
        this.store(name, pending);
        release();
      },
    };
  }

  private async accessHandle(name: string, mode: Mode): Promise<object> {
    const release = this.lock(name, mode);
    if (mode === "readwrite" && !this.features.handlesLock) await this.beforeWrite(name);
    else this.onRead(name);
    return {
      getSize: () => this.files.get(name)!.length,
      read: (target: Uint8Array) => {
        target.set(this.files.get(name)!.subarray(0, target.length));
        return Math.min(target.length, this.files.get(name)!.length);
      },
      truncate: () => this.files.set(name, new Uint8Array()),
      write: (data: Uint8Array) => {
        const room = Math.max(0, Math.min(data.length, this.quota - this.used()));
        this.store(name, data.slice(0, room));
        return room;
      },
      close: release,
    };
  }

  private store(name: string, data: Uint8Array): void {
    this.files.set(name, data);
    this.writes++;
  }

  private used(): number {
    return [...this.files.values()].reduce((sum, file) => sum + file.length, 0);
  }

  async removeEntry(name: string): Promise<void> {
    if (this.locks.get(name)?.length) throw new DOMException("in use", "NoModificationAllowedError");
    this.files.delete(name);
  }

  async *keys(): AsyncGenerator<string> {
    yield* [...this.files.keys()];
  }
}

/** As Chromium's streams of files may do, it leaves a BYOB read waiting for ever. */
function fileStream(content: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array> {
  const stream = new Blob([content]).stream();
  const reader = stream.getReader.bind(stream);
  const stuck = { read: () => new Promise(() => undefined), cancel: async () => undefined };
  const getReader = (options?: ReadableStreamGetReaderOptions): object => (options?.mode === "byob" ? stuck : reader());
  return Object.assign(stream, { getReader }) as ReadableStream<Uint8Array>;
}

export class FakeCaches {
  readonly files = new Map<string, Uint8Array>();

  async open(): Promise<this> {
    return this;
  }

  async match(url: string): Promise<Response | undefined> {
    const bytes = this.files.get(url);
    return bytes && new Response(bytes.slice());
  }

  async put(url: string, response: Response): Promise<void> {
    this.files.set(url, new Uint8Array(await response.arrayBuffer()));
  }

  async delete(url: string): Promise<boolean> {
    return this.files.delete(url);
  }

  async keys(): Promise<{ url: string }[]> {
    return [...this.files.keys()].map((url) => ({ url }));
  }
}

/** Installs globals for the length of `body`. */
export async function withGlobals<T>(globals: Record<string, unknown>, body: () => Promise<T>): Promise<T> {
  const before = Object.keys(globals).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)] as const);
  for (const [name, value] of Object.entries(globals))
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  try {
    return await body();
  } finally {
    for (const [name, descriptor] of before) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else Reflect.deleteProperty(globalThis, name);
    }
  }
}

export const withOpfs = <T>(directory: FakeDirectory, body: () => Promise<T>): Promise<T> =>
  withGlobals({ navigator: { storage: { getDirectory: async () => directory } } }, body);
