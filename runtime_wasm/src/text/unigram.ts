/**
 * The most probable segmentation of a text (Kudo 2018, "Subword Regularization"). The library's own breaks ties otherwise than the
 * Rust tokenizers do, and knows no bytes.
 */

export interface UnigramConfig {
  vocab: [string, number][];
  unk_id: number | null;
  byte_fallback?: boolean;
}

const UNKNOWN_PENALTY = 10; // below the least probable piece

interface Node {
  /** Pieces by the characters that follow. */
  next: Map<string, Node>;
  score?: number;
}

export class Unigram {
  private readonly root: Node = { next: new Map() };
  private readonly pieces: ReadonlySet<string>;
  private readonly unknown: number;
  private readonly unknownPiece: string | undefined;

  constructor(private readonly config: UnigramConfig) {
    let least = Infinity;
    for (const [piece, score] of config.vocab) {
      let node = this.root;
      for (const char of piece) {
        let next = node.next.get(char);
        if (!next) node.next.set(char, (next = { next: new Map() }));
        node = next;
      }
      node.score = score;
      if (score < least) least = score;
    }
    this.pieces = new Set(config.vocab.map(([piece]) => piece));
    this.unknown = least - UNKNOWN_PENALTY;
    this.unknownPiece = config.unk_id === null ? undefined : config.vocab[config.unk_id]?.[0];
  }

  /** Pieces of the vocabulary; what is not in it is itself, neighbours joined. */
  encode(text: string): string[] {
    const chars = [...text];
    const best = new Float64Array(chars.length + 1);
    const starts = new Int32Array(chars.length + 1).fill(-1);
    const known = new Uint8Array(chars.length + 1);
    for (let start = 0; start < chars.length; start++) {
      const offer = (end: number, score: number, isKnown: boolean): void => {
        if (starts[end] >= 0 && !(best[start] + score > best[end])) return;
        best[end] = best[start] + score;
        starts[end] = start;
        known[end] = isKnown ? 1 : 0;
      };
      let node: Node | undefined = this.root;
      for (let end = start + 1; end <= chars.length; end++) {
        node = node.next.get(chars[end - 1]);
        if (!node) break;
        if (node.score !== undefined) offer(end, node.score, true);
      }
      if (this.root.next.get(chars[start])?.score === undefined) offer(start + 1, this.unknown, false);
    }
    const result: string[] = [];
    let rest = "";
    const flush = (): void => {
      if (rest) result.push(...this.bytes(rest).reverse());
      rest = "";
    };
    for (let end = chars.length; end > 0; end = starts[end]) {
      const piece = chars.slice(starts[end], end).join("");
      if (known[end] && piece !== this.unknownPiece) {
        flush();
        result.push(piece);
      } else rest = piece + rest;
    }
    flush();
    return result.reverse();
  }

  /** Unknown text, as bytes where the vocabulary has them. */
  private bytes(text: string): string[] {
    if (this.config.byte_fallback !== true || this.pieces.has(text)) return [text];
    const bytes = Array.from(
      new TextEncoder().encode(text),
      (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
    );
    return bytes.every((byte) => this.pieces.has(byte)) ? bytes : [text];
  }
}
