/** An answer in the making. */

import { EdgecError } from "../errors.js";
import type { Generation, PieceData } from "../session/generation.js";

/** Some text of an answer, and the tokens that it came from. As a string it is its text: `answer += piece` works. */
export class Piece {
  readonly text: string;
  /** The ids since the last piece. */
  readonly tokenIds: readonly number[];

  constructor({ text, tokenIds }: PieceData) {
    this.text = text;
    this.tokenIds = tokenIds;
  }

  toString(): string {
    return this.text;
  }
}

export type Start<Result> = (onPiece: (piece: PieceData) => void, signal: AbortSignal) => Promise<Result>;

/**
 * Starts at once. Iterate over it for the pieces (once), await `result` for the whole, or both. Leaving the loop early stops
 * the model.
 */
export class GenerationStream<Result extends { text: string } = Generation> implements AsyncIterable<Piece> {
  /** Settles when the answer is complete. */
  readonly result: Promise<Result>;
  private readonly controller = new AbortController();
  private readonly pieces: Piece[] = [];
  private ended = false;
  private wake: () => void = () => undefined;
  private taken = false;

  /** @internal */
  constructor(start: Start<Result>, signal?: AbortSignal) {
    const abort = (): void => this.controller.abort();
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    const onPiece = (piece: PieceData): void => {
      this.pieces.push(new Piece(piece));
      this.wake();
    };
    this.result = start(onPiece, this.controller.signal).finally(() => {
      signal?.removeEventListener("abort", abort);
      this.ended = true;
      this.wake();
    });
    this.result.catch(() => undefined); // whoever iterates sees it; nobody has to look at `result` too
  }

  /** The whole text. */
  async text(): Promise<string> {
    return (await this.result).text;
  }

  /** Stops the model; the iteration and `result` fail with the code `aborted`. */
  abort(): void {
    this.controller.abort();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    if (this.taken) throw new EdgecError("invalid-argument", "an answer can be iterated over once");
    this.taken = true;
    try {
      for (;;) {
        while (this.pieces.length > 0) yield this.pieces.shift()!;
        if (this.ended) break;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
      await this.result;
    } finally {
      if (!this.ended) this.controller.abort();
    }
  }
}
