/** Where in a text its tokens lie, see docs/tasks.md, "Places of tokens". Twin of `edgec/run/tasks/places.py`. */

import type { Tokenizer } from "./tokenizer.js";

const IDEOGRAPH =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b820}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/u;
const DROPPED = /[\p{M}\p{Z}\p{Cc}\p{Cf}\u2581]/gu;
const BLANK = /[\p{Z}\t-\r\x85]/u;
const MARK = /\p{M}/u;
/** What BERT takes for a word by itself. */
const ALONE = /[\p{Z}\t-\r\x85\p{P}$+<=>^`|~]/u;

/** A vocabulary entry; `letters` is null where it does not tell them. */
interface Surface {
  letters: string | null;
  /** It begins a word. */
  begins?: boolean;
  /** Of a character that the vocabulary lacks. */
  byte?: number;
}

/** Indices into the text; of a token without letters the next letter's place, twice. */
export interface Place {
  start: number;
  end: number;
}

/** The place of each of the ids that `text` was encoded as. */
export function placesOf(text: string, ids: readonly number[], tokenizer: Tokenizer): Place[] {
  const letters = surfaces(tokenizer);
  const search = new Search(text, tokenizer.parts.bytes);
  const joined: [Surface, number][] = []; // with how many tokens each stands for
  let run: number[] = [];
  for (const id of [...ids, -1]) {
    const surface: Surface = id < 0 ? { letters: null } : letters(id);
    if (surface.byte !== undefined) {
      run.push(surface.byte);
      continue;
    }
    if (run.length > 0) joined.push(...characters(run));
    run = [];
    if (id >= 0) joined.push([surface, 1]);
  }
  const found = search.run(joined.map(([surface]) => surface));
  return found.flatMap((place, i) => Array.from({ length: joined[i][1] }, () => place));
}

function fold(text: string): string {
  let result = "";
  for (const char of text.normalize("NFKD").replace(DROPPED, "")) result += char.toLowerCase();
  return result;
}

const asBytes = (text: string): string => String.fromCharCode(...new TextEncoder().encode(text));

/** Bytes that follow each other as characters, with the number of bytes of each. */
function characters(run: number[]): [Surface, number][] {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(run));
    return Array.from(text, (char) => [{ letters: fold(char) }, asBytes(char).length]);
  } catch {
    return [[{ letters: null }, run.length]];
  }
}

function surfaces(tokenizer: Tokenizer): (id: number) => Surface {
  const { bytes, unknown, continues, ends } = tokenizer.parts;
  const letters = bytes ? byteLetters() : null;
  return (id) => {
    const token = tokenizer.token(id) ?? "";
    if (letters) {
      const known = Array.from(token, (char) => letters.get(char));
      return { letters: known.includes(undefined) ? asBytes(token) : known.join("") };
    }
    if (token === unknown) return { letters: null };
    if (tokenizer.mayChange(id)) return { letters: null, byte: Number.parseInt(token.slice(3, 5), 16) };
    if (continues !== null) {
      const inner = token.startsWith(continues);
      return { letters: fold(inner ? token.slice(continues.length) : token), begins: !inner };
    }
    const whole = ends && token.endsWith(ends) ? token.slice(0, -ends.length) : token;
    return { letters: fold(whole), begins: token.startsWith("\u2581") };
  };
}

/** Of the characters that byte-level vocabularies are written in, the character with the byte's number. */
function byteLetters(): Map<string, string> {
  const result = new Map<string, string>();
  let other = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const plain = (byte >= 0x21 && byte < 0x7f) || (byte >= 0xa1 && byte < 0xad) || byte >= 0xae;
    result.set(String.fromCharCode(plain ? byte : other++), String.fromCharCode(byte));
  }
  return result;
}

class Search {
  private readonly chars: string[];
  /** Where in the text each character begins, and the text's length. */
  private readonly starts: number[] = [];
  private readonly letters: string;
  /** The character that each letter comes from. */
  private readonly from: number[] = [];
  private at = 0;

  constructor(
    text: string,
    private readonly exact: boolean,
  ) {
    this.chars = Array.from(text);
    let start = 0;
    const parts = this.chars.map((char, index) => {
      this.starts.push(start);
      start += char.length;
      const part = exact ? asBytes(char) : fold(char);
      for (let i = 0; i < part.length; i++) this.from.push(index);
      return part;
    });
    this.starts.push(start);
    this.letters = parts.join("");
  }

  run(surfaces: Surface[]): Place[] {
    const found: Place[] = [];
    let unknown = 0;
    for (const { letters, begins } of surfaces) {
      const start = letters === null ? -1 : this.find(letters, begins ?? false, unknown);
      if (start < 0) {
        unknown++;
        continue;
      }
      found.push(...this.share(this.at, start, unknown));
      unknown = 0;
      this.at = start + letters!.length;
      found.push(this.place(start, this.at));
    }
    return [...found, ...this.share(this.at, this.letters.length, unknown)];
  }

  /** The first letter of a token; what is unknown before it has at least one. */
  private find(given: string, begins: boolean, unknown: number): number {
    let letters = given;
    if (this.exact && letters.startsWith(" ") && !this.letters.startsWith(letters, this.at)) letters = letters.slice(1);
    if (unknown === 0 && this.letters.startsWith(letters, this.at)) return this.at;
    let start = letters ? this.letters.indexOf(letters, this.at + Math.min(unknown, 1)) : -1;
    while (start >= 0 && begins && !this.begins(this.from[start])) start = this.letters.indexOf(letters, start + 1);
    return start;
  }

  private place(first: number, last: number): Place {
    let [start, end] = [first, last];
    if (this.exact) {
      while (start < end && BLANK.test(this.chars[this.from[start]])) start++;
      while (end > start && BLANK.test(this.chars[this.from[end - 1]])) end--;
    }
    if (start === end) {
      const here = this.starts[start < this.from.length ? this.from[start] : this.chars.length];
      return { start: here, end: here };
    }
    let after = this.from[end - 1] + 1;
    while (after < this.chars.length && MARK.test(this.chars[after])) after++; // an accent of its own
    return { start: this.starts[this.from[start]], end: this.starts[after] };
  }

  /** Tokens that are unknown: a word for each if there are as many, else all of it for all. */
  private share(start: number, end: number, tokens: number): Place[] {
    if (tokens === 0) return [];
    const whole = (from: number, to: number): Place[] => Array.from({ length: tokens }, () => this.place(from, to));
    if (start >= end) return whole(start, start);
    const words: number[] = [];
    for (let at = start; at < end; at++)
      if (at === start || (this.from[at] !== this.from[at - 1] && this.begins(this.from[at]))) words.push(at);
    if (words.length !== tokens) return whole(start, end);
    return words.map((word, i) => this.place(word, words[i + 1] ?? end));
  }

  /** Whether a word begins at a character. */
  private begins(index: number): boolean {
    return index === 0 || !joined(this.chars[index - 1]) || !joined(this.chars[index]);
  }
}

const joined = (char: string): boolean => !ALONE.test(char) && !IDEOGRAPH.test(char);
