/** The bundle's tokenizer, by `@huggingface/tokenizers`, with control over which text may become a special token. */

import type { Tokenizer as Library } from "@huggingface/tokenizers";
import { EdgecError } from "../errors.js";
import type { AddedToken, Decoder, Definition } from "./definition.js";
import { GUARD, type Model, openModels } from "./models.js";
import { isByte, repair, SPACE } from "./repairs.js";

export { GUARD };

/** What tells pairs of texts and the letters of tokens (`pairs.ts`, `surfaces.ts`). */
export interface TokenizerParts {
  processor: unknown;
  bytes: boolean;
  kind: string;
  unknown: string | null;
  continues: string | null;
  ends: string;
}

export class Tokenizer {
  private readonly library: Library;
  /** Special added tokens: content -> id. */
  readonly controlTokens: ReadonlyMap<string, number>;
  private readonly added = new Map<string, AddedToken>();
  private readonly special: RegExp;
  private readonly plain: Splitters;
  private readonly all: Splitters;
  private readonly model: Model;
  /** Makes no control token out of text. */
  private readonly plainModel: Model;
  private readonly joinsBytes: boolean;
  readonly parts: TokenizerParts;

  constructor(json: Uint8Array) {
    try {
      const { definition, library, model, plainModel } = openModels(json);
      this.library = library;
      this.model = model;
      this.plainModel = plainModel;
      this.joinsBytes = has(definition.decoder, "ByteFallback");
      this.parts = partsOf(definition);
      for (const part of [this.library.normalizer, this.library.pre_tokenizer, this.library.decoder]) repair(part);
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
    return this.postProcess(this.pieces(text, this.all, this.model, 0));
  }

  /** Text is text: nothing in it becomes a special token. */
  encodePlain(text: string, { addSpecialTokens = false } = {}): number[] {
    const pieces = this.plainPieces(text, 0);
    return addSpecialTokens ? this.postProcess(pieces) : pieces.map((piece) => this.id(piece));
  }

  /** A rendered chat: special tokens count, except where `GUARD` is in them; none are added. */
  encodeRendered(text: string): number[] {
    const ids: number[] = [];
    let end = 0;
    let before: AddedToken | undefined;
    for (const match of text.matchAll(this.special)) {
      const token = this.added.get(match[0])!;
      append(ids, this.encodePart(text.slice(end, match.index), before, token));
      ids.push(token.id);
      end = match.index + match[0].length;
      before = token;
    }
    append(ids, this.encodePart(text.slice(end), before));
    return ids;
  }

  /** The text between two control tokens, which may take the spaces beside them. */
  private encodePart(text: string, before?: AddedToken, after?: AddedToken): number[] {
    let part = text.replaceAll(GUARD, "");
    if (before?.rstrip) part = part.replace(LEFT, "");
    if (after?.lstrip) part = part.replace(RIGHT, "");
    return this.plainPieces(part, before ? 1 : 0).map((piece) => this.id(piece));
  }

  /** Unknown text may read like a control token, too. */
  private plainPieces(text: string, first: number): string[] {
    const unknown = this.library.model!.unk_token;
    return this.pieces(text, this.plain, this.plainModel, first).map((piece) => {
      if (!this.controlTokens.has(piece)) return piece;
      if (unknown === undefined) throw noToken();
      return unknown;
    });
  }

  private postProcess(pieces: string[]): number[] {
    const processor = this.library.post_processor;
    const tokens = processor ? (processor(pieces, null, true) as { tokens: string[] }).tokens : pieces;
    return tokens.map((token) => this.id(token));
  }

  private id(piece: string): number {
    const model = this.library.model!;
    const id = this.added.get(piece)?.id ?? model.tokens_to_ids.get(piece) ?? model.unk_token_id;
    if (id === undefined) throw noToken();
    return id;
  }

  /** Vocabulary strings: added tokens cut out, the rest normalized, split and encoded. */
  private pieces(text: string, { early, late }: Splitters, model: Model, first: number): string[] {
    const { normalizer, pre_tokenizer } = this.library;
    const result: string[] = [];
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\ufffd");
    early.split(wellFormed).forEach((section, index) => {
      if (section.token) {
        result.push(section.token.content);
        return;
      }
      const normalized = normalizer ? normalizer(section.text) : section.text;
      for (const part of late.split(normalized)) {
        if (part.token) result.push(part.token.content);
        else if (part.text)
          append(result, model(pre_tokenizer ? pre_tokenizer(part.text, { section_index: first + index }) : [part.text]));
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

  /** Whether the text of ids that end with `id` may change when more come: a byte may spoil those before it. */
  mayChange(id: number): boolean {
    return this.joinsBytes && isByte(this.token(id) ?? "");
  }
}

function partsOf({ post_processor: processor, decoder, model }: Definition): TokenizerParts {
  const { type: kind, vocab, unk_id, unk_token, continuing_subword_prefix, end_of_word_suffix } = model;
  return {
    processor,
    bytes: has(decoder, "ByteLevel"),
    kind,
    unknown: Array.isArray(vocab) && typeof unk_id === "number" ? vocab[unk_id][0] : (unk_token ?? null),
    continues: kind === "WordPiece" ? (continuing_subword_prefix ?? null) : null,
    ends: end_of_word_suffix ?? "",
  };
}

function noToken(): EdgecError {
  return new EdgecError("tokenizer", "the tokenizer has no token for a part of the text", { file: "tokenizer.json" });
}

/** Whether a decoder, or one in its sequence, is of a type. */
function has(decoder: Decoder | null | undefined, type: string): boolean {
  return decoder?.type === type || (decoder?.decoders ?? []).some((inner) => has(inner, type));
}

function append<T>(target: T[], source: T[]): void {
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

const LEFT = new RegExp(`^[${SPACE}]+`);
const RIGHT = new RegExp(`[${SPACE}]+$`);
const WORD_BEFORE = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]$/u;
const WORD_AFTER = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u;

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
      let kept = trimStart ? part.replace(LEFT, "") : part;
      if (token?.lstrip) kept = kept.replace(RIGHT, "");
      if (kept) sections.push({ text: kept });
    };
    for (const match of text.matchAll(this.pattern)) {
      const token = this.tokens.get(match[0])!;
      const after = text.slice(match.index + match[0].length);
      if (token.single_word && (WORD_BEFORE.test(text.slice(0, match.index)) || WORD_AFTER.test(after))) continue;
      plain(text.slice(end, match.index), token);
      sections.push({ text: match[0], token });
      end = match.index + match[0].length;
      trimStart = token.rstrip;
    }
    plain(text.slice(end));
    return sections;
  }
}
