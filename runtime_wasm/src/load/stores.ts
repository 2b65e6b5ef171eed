/** Puts files into the cache behind the back of the load, which waits for nothing but their memory. */

import { within } from "../patience.js";
import { type FileCache, FileInUse, remember } from "./cache.js";

/** Milliseconds. A store that takes longer is given up, and all after it: the load may wait for its memory, `dispose` for its end. */
const PATIENCE = 10_000;

export class Stores {
  private last: Promise<unknown> = Promise.resolve();
  /** No room, most likely: the rest is not worth trying. */
  private failed = false;
  /** One may never end, so nothing can follow it. */
  private hangs = false;

  constructor(
    private readonly cache: FileCache | null,
    private readonly patience = PATIENCE,
  ) {}

  /** Stores a file after those before it. Resolves when that has ended, well or badly, to whether `bytes` may be used again. */
  put(key: string, bytes: Uint8Array): Promise<boolean> {
    return this.next((cache) => (this.failed ? Promise.resolve() : cache.put(key, bytes)));
  }

  /** Lets the cache drop what an older version of this bundle left; where storing has failed, that makes room for the next time. */
  remember(location: string, keys: readonly string[]): void {
    void this.next((cache) => remember(cache, location, keys));
  }

  /** Resolves when all have ended. */
  async settled(): Promise<void> {
    await this.last;
  }

  private next(write: (cache: FileCache) => Promise<void>): Promise<boolean> {
    const { cache } = this;
    if (!cache) return Promise.resolve(true);
    const result = this.last.then(() => this.hangs || this.ends(write(cache)));
    this.last = result;
    return result;
  }

  private async ends(writing: Promise<void>): Promise<boolean> {
    const written = writing.then(
      () => true,
      (error) => {
        if (!(error instanceof FileInUse)) this.failed = true;
        return true;
      },
    );
    const ended = await within(this.patience, written, false);
    this.hangs = !ended;
    return ended;
  }
}
