/** How many files are under way at a time. */

import { throwIfAborted } from "../errors.js";

/** Whole files in memory at the same time: the compiler writes weights in files of 1 MiB, readers take up to 16. */
const HELD_BYTES = 3 * 2 ** 20;
const FETCHED_FILES = 4;
/**
 * The next download begins when no more than this is still to come of those before it: early enough to hide the time until an answer
 * begins, and late enough that files end one after another. Behind the last byte there is then the work of one file, not of two.
 */
const AHEAD_BYTES = 2 * 2 ** 20;

interface Waiting {
  bytes: number;
  fromNetwork: boolean;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/**
 * Lets files in, in the order in which they came; one alone may exceed the limits. Each that was let in has to say `fetched` when it has
 * been put to use, or has failed, and `freed` when its memory is free.
 */
export class Gate {
  private heldBytes = 0;
  private files = 0;
  private comingBytes = 0;
  private readonly queue: Waiting[] = [];

  constructor(private readonly signal: AbortSignal) {
    signal.addEventListener("abort", () => this.advance(), { once: true });
  }

  /** Resolves when the file may be fetched into memory. */
  enter(bytes: number, fromNetwork: boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.queue.push({ bytes, fromNetwork, resolve, reject });
      this.advance();
    });
  }

  fetched(): void {
    this.files--;
    this.advance();
  }

  freed(bytes: number): void {
    this.heldBytes -= bytes;
    this.advance();
  }

  /** So many bytes more, or fewer, are now to come from the network. */
  expect(bytes: number): void {
    this.comingBytes += bytes;
    this.advance();
  }

  private advance(): void {
    for (let next = this.queue[0]; next && (this.signal.aborted || this.admits(next)); next = this.queue[0]) {
      this.queue.shift();
      try {
        throwIfAborted(this.signal);
        this.files++;
        this.heldBytes += next.bytes;
        if (next.fromNetwork) this.comingBytes += next.bytes;
        next.resolve();
      } catch (error) {
        next.reject(error);
      }
    }
  }

  private admits({ bytes }: Waiting): boolean {
    if (this.heldBytes === 0) return true;
    const room = this.files < FETCHED_FILES && this.heldBytes + bytes <= HELD_BYTES;
    return room && this.comingBytes <= AHEAD_BYTES;
  }
}
