/** In-memory stand-ins for OPFS and the Cache API. */

export class FakeDirectory {
  readonly files = new Map<string, Uint8Array>();
  writes = 0;
  /** Bytes after which writing fails, as a full disk does. */
  quota = Infinity;

  constructor(private readonly syncHandlesOnly = false) {}

  async getDirectoryHandle(): Promise<this> {
    return this;
  }

  async getFileHandle(name: string, { create = false } = {}): Promise<object> {
    if (!this.files.has(name)) {
      if (!create) throw new DOMException("not found", "NotFoundError");
      this.files.set(name, new Uint8Array());
    }
    const getFile = async (): Promise<object> => ({ stream: () => fileStream(this.files.get(name)!.slice()) });
    return this.syncHandlesOnly
      ? { getFile, createSyncAccessHandle: async () => this.accessHandle(name) }
      : { getFile, createWritable: async () => this.writable(name) };
  }

  private writable(name: string): object {
    let pending = new Uint8Array();
    return {
      write: async (data: Uint8Array) => {
        if (this.used() + data.length > this.quota) throw new DOMException("full", "QuotaExceededError");
        pending = data.slice();
      },
      close: async () => this.store(name, pending),
    };
  }

  private accessHandle(name: string): object {
    return {
      truncate: () => this.files.set(name, new Uint8Array()),
      write: (data: Uint8Array) => {
        const room = Math.max(0, Math.min(data.length, this.quota - this.used()));
        this.store(name, data.slice(0, room));
        return room;
      },
      flush: () => undefined,
      close: () => undefined,
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
