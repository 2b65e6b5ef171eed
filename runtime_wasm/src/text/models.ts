/** The library's tokenizer of a tokenizer.json, and the models that turn words into vocabulary strings. */

import { Tokenizer as Library } from "@huggingface/tokenizers";
import { type Bpe, furnish, openBpe } from "./bpe.js";
import type { Definition } from "./definition.js";
import { split } from "./merges.js";
import { Unigram, type UnigramConfig } from "./unigram.js";

/** Put into special tokens that come from a message; a noncharacter, never in real text. */
export const GUARD = "\ufdd0";

/** Words to vocabulary strings. */
export type Model = (words: string[]) => string[];

export interface Models {
  definition: Definition;
  library: Library;
  model: Model;
  /** Makes no control token out of text. */
  plainModel: Model;
}

/** Throws any error for what is no tokenizer. */
export function openModels(json: Uint8Array): Models {
  const bpe = openBpe(json);
  return bpe ? ofBpe(bpe) : ofDefinition(JSON.parse(new TextDecoder().decode(json)) as Definition);
}

function ofBpe({ definition, ids, merges }: Bpe): Models {
  const names = controlNames(definition, (text) => ids.has(text));
  const joins = (merge: Parameters<typeof split>[0]): boolean => {
    const [first, second] = split(merge);
    return names.has(first) || names.has(second) || names.has(first + second);
  };
  let plain: Library | null = null;
  if (names.size > 0 && (definition.model.ignore_merges || some(merges(), joins))) {
    const renamed = new Map<string, number>();
    for (const [token, id] of ids) renamed.set(names.has(token) ? GUARD + token : token, id);
    const changed = { ...definition, added_tokens: otherTokens(definition, names) };
    plain = libraryOf(changed);
    furnish(plain, renamed, without(merges(), joins), changed);
  }
  const library = libraryOf(definition);
  furnish(library, ids, merges(), definition);
  const model = libraryModel(library);
  return { definition, library, model, plainModel: plain ? libraryModel(plain) : model };
}

function some<T>(items: Iterable<T>, test: (item: T) => boolean): boolean {
  for (const item of items) if (test(item)) return true;
  return false;
}

function* without<T>(items: Iterable<T>, test: (item: T) => boolean): Generator<T> {
  for (const item of items) if (!test(item)) yield item;
}

function ofDefinition(definition: Definition): Models {
  if (definition.model.type === "BPE") throw new Error("its model has no vocabulary or no merges");
  const library = libraryOf(definition);
  const model = modelOf(definition, library);
  const plain = plainDefinition(definition);
  const plainModel = plain
    ? modelOf(plain, plain.model.type === "Unigram" ? library : libraryOf(plain))
    : model;
  return { definition, library, model, plainModel };
}

function libraryOf(definition: Definition): Library {
  const absent = { added_tokens: [], post_processor: null, decoder: null, normalizer: null, pre_tokenizer: null };
  return new Library({ ...absent, ...definition }, { clean_up_tokenization_spaces: false });
}

function libraryModel({ model }: Library): Model {
  return (words) => model!(words);
}

function modelOf(definition: Definition, library: Library): Model {
  if (definition.model.type !== "Unigram") return libraryModel(library);
  const unigram = new Unigram(definition.model as UnigramConfig);
  return (words) => words.flatMap((word) => unigram.encode(word));
}

/** Names of control tokens that the vocabulary has, too. */
function controlNames({ model, added_tokens: added = [] }: Definition, known: (text: string) => boolean): Set<string> {
  const unknown = Array.isArray(model.vocab) ? model.vocab[model.unk_id ?? -1]?.[0] : model.unk_token;
  const special = added.filter((token) => token.special).map((token) => token.content);
  return new Set(special.filter((text) => text !== unknown && known(text)));
}

const otherTokens = ({ added_tokens: added = [] }: Definition, names: Set<string>): Definition["added_tokens"] =>
  added.filter((token) => !names.has(token.content));

/** See `plain_model` of `edgec/run/tokenizer.py`. */
function plainDefinition(definition: Definition): Definition | null {
  const { model } = definition;
  const list = Array.isArray(model.vocab) ? model.vocab : null;
  const pieces = list && new Set(list.map(([text]) => text));
  const names = controlNames(definition, (text) => (pieces ? pieces.has(text) : Object.hasOwn(model.vocab, text)));
  if (names.size === 0) return null;
  const renamed = (text: string): string => (names.has(text) ? GUARD + text : text);
  const entries = (list ?? Object.entries(model.vocab)).map(([text, value]): [string, number] => [renamed(text), value]);
  const vocab = list ? entries : Object.fromEntries(entries);
  return { ...definition, model: { ...model, vocab }, added_tokens: otherTokens(definition, names) };
}
