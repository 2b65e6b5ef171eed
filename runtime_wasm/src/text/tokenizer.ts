/** The bundle's tokenizer, by `@huggingface/tokenizers`, with control over which text may become a special token. */

import { Tokenizer as Library } from "@huggingface/tokenizers";
import { EdgecError } from "../errors.js";

/** Put into special tokens that come from a message; a noncharacter, never in real text. */
export const GUARD = "\ufdd0";

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
  lstrip: boolean;
  rstrip: boolean;
}

export class Tokenizer {
  private readonly library: Library;
  /** Special added tokens: content -> id. */
  readonly controlTokens: ReadonlyMap<string, number>;
  private readonly added = new Map<string, AddedToken>();
  private readonly special: RegExp;
  private readonly plain: Splitters;
  private readonly all: Splitters;

  constructor(json: Uint8Array) {
    try {
      const parsed = JSON.parse(new TextDecoder().decode(json)) as { added_tokens?: AddedToken[] };
      this.library = new Library(
        { added_tokens: [], post_processor: null, decoder: null, normalizer: null, pre_tokenizer: null, ...parsed },
        {
          clean_up_tokenization_spaces: false,
        },
      );
      repairByteFallback(this.library.decoder);
    } catch (cause) {
      throw new EdgecError("tokenizer", `\`tokenizer.json\` cannot be used: ${(cause as Error).message}`, {
        cause,
        file: "tokenizer.json",
      });
    }
    const tokens = [...this.library.get_added_tokens_decoder().values()] as AddedToken[];
    for (const token of tokens) this.added.set(token.content, token);
    this.controlTokens = new Map(tokens.filter((token) => token.special).map((token) => [token.content, token.id]));
    this.special = matcher(this.controlTokens.keys());
    this.all = this.splitters(tokens);
    this.plain = this.splitters(tokens.filter((token) => !token.special));
  }

  private splitters(tokens: AddedToken[]): Splitters {
    const { normalizer } = this.library;
    const early = tokens.filter((token) => !token.normalized || !normalizer);
    const late = tokens
      .filter((token) => token.normalized && normalizer)
      .map((token) => [normalizer!(token.content), token] as const);
    return {
      early: new Splitter(new Map(early.map((token) => [token.content, token]))),
      late: new Splitter(new Map(late)),
    };
  }

  /** A raw prompt: special tokens in the text count, and the tokenizer adds its own start and end. */
  encode(text: string): number[] {
    return this.postProcess(this.pieces(text, this.all));
  }

  /** Text is text: nothing in it becomes a special token. */
  encodePlain(text: string, { addSpecialTokens = false } = {}): number[] {
    const pieces = this.pieces(text, this.plain);
    return addSpecialTokens ? this.postProcess(pieces) : pieces.map((piece) => this.id(piece));
  }

  /** A rendered chat: special tokens count, except where `GUARD` is in them; none are added. */
  encodeRendered(text: string): number[] {
    const ids: number[] = [];
    let end = 0;
    for (const match of text.matchAll(this.special)) {
      ids.push(...this.encodePart(text.slice(end, match.index)), this.controlTokens.get(match[0])!);
      end = match.index + match[0].length;
    }
    ids.push(...this.encodePart(text.slice(end)));
    return ids;
  }

  private encodePart(text: string): number[] {
    const part = text.replaceAll(GUARD, "");
    return part ? this.encodePlain(part) : [];
  }

  private postProcess(pieces: string[]): number[] {
    const processor = this.library.post_processor;
    const tokens = processor ? (processor(pieces, null, true) as { tokens: string[] }).tokens : pieces;
    return tokens.map((token) => this.id(token));
  }

  private id(piece: string): number {
    const model = this.library.model!;
    const id = this.added.get(piece)?.id ?? model.tokens_to_ids.get(piece) ?? model.unk_token_id;
    if (id === undefined)
      throw new EdgecError("tokenizer", "the tokenizer has no token for a part of the text", {
        file: "tokenizer.json",
      });
    return id;
  }

  /** Vocabulary strings: added tokens cut out, the rest normalized, split and encoded. */
  private pieces(text: string, { early, late }: Splitters): string[] {
    const { normalizer, pre_tokenizer, model } = this.library;
    const result: string[] = [];
    early.split(text).forEach((section, index) => {
      if (section.token) {
        result.push(section.token.content);
        return;
      }
      const normalized = normalizer ? normalizer(section.text) : section.text;
      for (const part of late.split(normalized)) {
        if (part.token) result.push(part.token.content);
        else if (part.text)
          append(result, model!(pre_tokenizer ? pre_tokenizer(part.text, { section_index: index }) : [part.text]));
      }
    });
    return result;
  }

  /** Without special tokens, and without ids that the vocabulary lacks. */
  decode(ids: readonly number[]): string {
    const known = ids.filter((id) => {
      const token = this.library.id_to_token(id);
      return token !== undefined && !this.added.get(token)?.special;
    });
    return known.length > 0 ? this.library.decode(known, { clean_up_tokenization_spaces: false }) : "";
  }

  /** The vocabulary's entry for an id. */
  token(id: number): string | undefined {
    return this.library.id_to_token(id);
  }
}

interface LibraryDecoder {
  config: { type: string };
  decoders?: LibraryDecoder[];
  decode_chain(tokens: string[]): string[];
}

/** The library's own drops a byte order mark and counts broken characters otherwise than the Rust tokenizers do. */
function repairByteFallback(decoder: unknown): void {
  const { config, decoders } = (decoder ?? { config: {} }) as LibraryDecoder;
  if (config.type === "ByteFallback") (decoder as LibraryDecoder).decode_chain = byteFallback;
  for (const part of decoders ?? []) repairByteFallback(part);
}

/** Runs of tokens such as `<0xE2>` become their text, or U+FFFD for each byte of a run that is no UTF-8. */
function byteFallback(tokens: string[]): string[] {
  const result: string[] = [];
  let bytes: number[] = [];
  const flush = (): void => {
    if (bytes.length === 0) return;
    try {
      result.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes)));
    } catch {
      for (const _ of bytes) result.push("\ufffd");
    }
    bytes = [];
  };
  for (const token of tokens) {
    if (/^<0x[0-9A-Fa-f]{2}>$/.test(token)) {
      bytes.push(Number.parseInt(token.slice(3, 5), 16));
    } else {
      flush();
      result.push(token);
    }
  }
  flush();
  return result;
}

function append(target: string[], source: string[]): void {
  for (const item of source) target.push(item);
}

interface Splitters {
  /** Found in the text as it is. */
  early: Splitter;
  /** Found in the normalized text. */
  late: Splitter;
}

interface Section {
  text: string;
  token?: AddedToken;
}

/** Matches any of the texts, the longest at each place; nothing if there are none. */
export function matcher(texts: Iterable<string>): RegExp {
  const longestFirst = [...texts].filter(Boolean).sort((a, b) => b.length - a.length);
  return new RegExp(longestFirst.map((text) => text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")).join("|") || "(?!)", "g");
}

class Splitter {
  private readonly pattern: RegExp;

  constructor(private readonly tokens: ReadonlyMap<string, AddedToken>) {
    this.pattern = matcher(tokens.keys());
  }

  split(text: string): Section[] {
    const sections: Section[] = [];
    let end = 0;
    let trimStart = false;
    const plain = (part: string, token?: AddedToken): void => {
      let kept = trimStart ? part.trimStart() : part;
      if (token?.lstrip) kept = kept.trimEnd();
      if (kept) sections.push({ text: kept });
    };
    for (const match of text.matchAll(this.pattern)) {
      const token = this.tokens.get(match[0])!;
      plain(text.slice(end, match.index), token);
      sections.push({ text: match[0], token });
      end = match.index + match[0].length;
      trimStart = token.rstrip;
    }
    plain(text.slice(end));
    return sections;
  }
}
