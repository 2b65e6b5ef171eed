/**
 * The BPE model of a tokenizer.json in a tenth of the memory that the library takes. The library still applies the merges; it gets its
 * vocabulary and its merges from here.
 */

import type { Tokenizer as Library } from "@huggingface/tokenizers";
import type { AddedToken, Definition } from "./definition.js";
import { type Merge, Merges } from "./merges.js";
import { isArray, isObject, membersOf, parseWithout, pieces, rootOf } from "./pieces.js";

/** A definition without the long lists of its model, and these. */
export interface Bpe {
  definition: Definition;
  /** Without the added tokens. */
  ids: Map<string, number>;
  merges(): Iterable<Merge>;
}

/** Null if it is no BPE model, or written in an unusual way. */
export function openBpe(json: Uint8Array): Bpe | null {
  const root = rootOf(json);
  const model = isObject(json, root) ? membersOf(json, root).get("model") : undefined;
  if (!isObject(json, model)) return null;
  const members = membersOf(json, model);
  const [vocab, merges] = [members.get("vocab"), members.get("merges")];
  if (!isObject(json, vocab) || !isArray(json, merges)) return null;
  const definition = parseWithout(json, [vocab, merges]) as Definition;
  if (definition.model.type !== "BPE") return null;
  const ids = new Map<string, number>();
  for (const piece of pieces(json, vocab) as Iterable<Record<string, number>>)
    for (const token in piece) ids.set(token, piece[token]);
  return { definition, ids, merges: () => mergesOf(json, merges) };
}

function* mergesOf(json: Uint8Array, open: number): Generator<Merge> {
  for (const piece of pieces(json, open)) yield* piece as Merge[];
}

/** The parts of the library's model that are replaced. */
interface Parts {
  tokens_to_ids: Map<string, number>;
  vocab: string[];
  unk_token_id: number | undefined;
  add_node(queue: { push(node: Node): void }, node: Node): void;
}

interface Node {
  token: string;
  next: Node;
  bias: number;
  score: number;
}

/** Gives the model that the library made of a definition without lists its vocabulary, `ids`, which grows by the added tokens. */
export function furnish(
  library: Library,
  ids: Map<string, number>,
  merges: Iterable<Merge>,
  { model, added_tokens: added = [] }: { model: Definition["model"]; added_tokens?: AddedToken[] },
): void {
  const parts = library.model as unknown as Parts;
  parts.unk_token_id = ids.get(model.unk_token!);
  const vocab = new Array<string>(ids.size);
  for (const [token, id] of ids) vocab[id] = token;
  for (const { content, id } of added) {
    ids.set(content, id);
    vocab[id] = content;
  }
  parts.tokens_to_ids = ids;
  parts.vocab = vocab;
  const ranks = new Merges(merges, ids);
  parts.add_node = (queue, node) => {
    const rank = ranks.rank(node.token, node.next.token);
    if (rank === undefined) return;
    node.score = rank + node.bias;
    queue.push(node);
  };
}
