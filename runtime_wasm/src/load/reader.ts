/** Reading a file into memory that is already there, so that a download of many megabytes leaves no garbage. */

import type { FileHandle } from "node:fs/promises";

export type Bytes = Uint8Array<ArrayBuffer>;

/**
 * `read` fills the beginning of `target`, which is not empty, and returns that part; an empty one at the end. The part may lie in
 * another buffer: the stream takes `target`'s buffer over, with all that is in it, and gives it back under a new identity.
 */
export interface ByteReader {
  read(target: Bytes): Promise<Bytes>;
  cancel(): void;
}

/** For bodies of answers. Not for files: of those, Chromium 156 now and then leaves a BYOB read waiting for ever. */
export function bodyReader(stream: ReadableStream<Uint8Array>): ByteReader {
  let reader: ReadableStreamBYOBReader;
  try {
    reader = stream.getReader({ mode: "byob" });
  } catch {
    return chunkReader(stream);
  }
  return {
    async read(target) {
      const { value } = await reader.read(target);
      if (!value) throw new TypeError("the stream was cancelled");
      return value as Bytes;
    },
    cancel: () => void reader.cancel().catch(() => undefined),
  };
}

/** For streams that hand out chunks of their own. */
export function chunkReader(stream: ReadableStream<Uint8Array>): ByteReader {
  const reader = stream.getReader();
  let rest = new Uint8Array();
  return {
    async read(target) {
      while (rest.length === 0) {
        const { value, done } = await reader.read();
        if (done) return target.subarray(0, 0);
        rest = value as Bytes;
      }
      const count = Math.min(rest.length, target.length);
      target.set(rest.subarray(0, count));
      rest = rest.subarray(count);
      return target.subarray(0, count);
    },
    cancel: () => void reader.cancel().catch(() => undefined),
  };
}

/** Content that is in memory already. */
export function bytesReader(content: Uint8Array): ByteReader {
  let at = 0;
  return {
    async read(target) {
      const part = content.subarray(at, at + target.length);
      target.set(part);
      at += part.length;
      return target.subarray(0, part.length);
    },
    cancel: () => undefined,
  };
}

/** A file of Node; it is closed at its end, by an error, or by `cancel`. */
export function handleReader(handle: FileHandle): ByteReader {
  let open = true;
  const close = async (): Promise<void> => {
    if (!open) return;
    open = false;
    await handle.close().catch(() => undefined);
  };
  return {
    async read(target) {
      if (!open) return target.subarray(0, 0);
      try {
        const { bytesRead } = await handle.read(target, 0, target.length);
        if (bytesRead === 0) await close();
        return target.subarray(0, bytesRead);
      } catch (error) {
        await close();
        throw error;
      }
    },
    cancel: () => void close(),
  };
}

/** Fills `target` exactly; null if the content is shorter, longer or cannot be read. The result may lie in another buffer. */
export async function fill(reader: ByteReader, target: Bytes): Promise<Bytes | null> {
  const length = target.length;
  let bytes = target;
  try {
    for (let at = 0; at < length;) {
      const part = await reader.read(bytes.subarray(at));
      if (part.length === 0) return null;
      at += part.length;
      bytes = new Uint8Array(part.buffer, 0, length);
    }
    return (await reader.read(new Uint8Array(1))).length === 0 ? bytes : null;
  } catch {
    return null;
  } finally {
    reader.cancel();
  }
}

/** Keeps up to `count` buffers of `size` bytes from one file to the next. */
export class BufferPool {
  private readonly spare: ArrayBuffer[] = [];

  constructor(
    private readonly size: number,
    private readonly count: number,
  ) {}

  take(length: number): Bytes {
    const buffer = length <= this.size ? this.spare.pop() : undefined;
    return new Uint8Array(buffer ?? new ArrayBuffer(length <= this.size ? this.size : length), 0, length);
  }

  give(bytes: Bytes): void {
    if (bytes.buffer.byteLength === this.size && this.spare.length < this.count) this.spare.push(bytes.buffer);
  }
}
