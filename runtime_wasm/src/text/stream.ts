/** Ids to text as they come, and stop strings. Twin of `edgec/run/tokenizer.py`. */

const CONTEXT_IDS = 5; // ids before a piece that it is decoded with

export interface Decoding {
  decode(ids: readonly number[]): string;
  /** Whether the text of ids that end with `id` may change when more come. */
  mayChange(id: number): boolean;
}

/**
 * What may still change is held back: an unfinished character, and a run of byte tokens, which decoders spoil as a whole when it is
 * no UTF-8. The pieces together are `decode` of all ids. Only the last few ids are decoded again each time: enough that a decoder
 * which drops a space at the very start does not drop one between pieces, and from where a character begins.
 */
export class TextStream {
  private ids: number[] = [];
  private boundaries = [0]; // counts of ids whose text is certain
  private shown = 0; // of the text of `ids`

  constructor(private readonly tokenizer: Decoding) {}

  /** The text that is certain now, possibly empty. */
  push(id: number): string {
    this.ids.push(id);
    return this.take(false);
  }

  /** The rest. */
  finish(): string {
    return this.take(true);
  }

  private take(final: boolean): string {
    const last = this.ids.at(-1);
    if (last === undefined || (!final && this.tokenizer.mayChange(last))) return "";
    const text = this.tokenizer.decode(this.ids);
    const certain = text.length - (text.endsWith("\ufffd") && !final ? 1 : 0); // an unfinished character is one U+FFFD
    const piece = text.slice(this.shown, certain);
    this.shown = Math.max(this.shown, certain);
    if (certain < text.length) return piece;
    this.boundaries.push(this.ids.length);
    const limit = Math.max(0, this.ids.length - CONTEXT_IDS);
    const start = Math.max(...this.boundaries.filter((boundary) => boundary <= limit));
    const shown = this.tokenizer.decode(this.ids.slice(start)).length;
    if (shown > 0) {
      // else the next text would be taken for the first one
      this.boundaries = this.boundaries.filter((boundary) => boundary >= start).map((boundary) => boundary - start);
      this.ids = this.ids.slice(start);
      this.shown = shown;
    }
    return piece;
  }
}

/** Cuts text at the first stop string, holding back what may yet become one. */
export class StopStrings {
  hit = false;
  private readonly stops: string[];
  private held = "";

  constructor(stops: readonly string[]) {
    this.stops = stops.filter(Boolean);
  }

  /** The text that may be shown; after `hit` nothing more comes. */
  push(piece: string): string {
    this.held += piece;
    const found = this.stops.map((stop) => this.held.indexOf(stop)).filter((at) => at >= 0);
    this.hit = found.length > 0;
    const cut = this.hit
      ? Math.min(...found)
      : this.held.length - Math.max(0, ...this.stops.map((stop) => this.overlap(stop)));
    const shown = this.held.slice(0, cut);
    this.held = this.hit ? "" : this.held.slice(cut);
    return shown;
  }

  finish(): string {
    const shown = this.held;
    this.held = "";
    return shown;
  }

  /** Length of the longest end of the held text that begins `stop`. */
  private overlap(stop: string): number {
    for (let length = Math.min(stop.length - 1, this.held.length); length > 0; length--) {
      if (this.held.endsWith(stop.slice(0, length))) return length;
    }
    return 0;
  }
}
