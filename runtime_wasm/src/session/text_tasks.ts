/** Classes, rankings and names for texts, see docs/tasks.md. Twin of `edgec/run/tasks/{text,token}_classification.py`. */

import type { TextClassificationTask, TokenClassificationTask } from "../bundle/task.js";
import { EdgecError, throwIfAborted } from "../errors.js";
import { exp } from "../exp64.js";
import { around, encodePair, noRoom } from "../text/pairs.js";
import { type Place, placesOf } from "../text/places.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type Classification, ranked, softmax } from "../vision/results.js";
import type { Graph, Tensor } from "./graph.js";
import { textLength, textOutputs } from "./texts.js";

/** A document by its place in what was given, and how well it answers. */
export interface Ranked {
  index: number;
  score: number;
  text: string;
}

/** `text.slice(start, end)` of what was given; `score` is the mean over its tokens. */
export interface Entity {
  label: string;
  score: number;
  start: number;
  end: number;
  text: string;
}

interface Tagged {
  label: string;
  score: number;
  place: Place;
}

const OUTSIDE = "O";

/** The best classes of a text, or of a pair of texts. */
export function classifyText(
  graph: Graph,
  tokenizer: Tokenizer,
  task: TextClassificationTask,
  text: unknown,
  topK: number,
): Classification[] {
  const pair = typeof text === "string" ? [text, null] : text;
  const isPair = Array.isArray(pair) && pair.length === 2 && typeof pair[0] === "string";
  if (!isPair || (pair[1] !== null && typeof pair[1] !== "string"))
    throw new EdgecError("invalid-argument", "the model takes a text, or two as a pair");
  const scores = scoresOf(graph, tokenizer, task, pair[0] as string, pair[1] as string | null);
  return ranked(scores, (index) => task.labels?.[index] ?? String(index), topK);
}

/** All documents, the best first. */
export function rankDocuments(
  graph: Graph,
  tokenizer: Tokenizer,
  task: TextClassificationTask,
  query: string,
  documents: readonly string[],
  signal?: AbortSignal,
): Ranked[] {
  const found = documents.map((text, index) => {
    if (typeof query !== "string" || typeof text !== "string")
      throw new EdgecError("invalid-argument", "`rerank` takes a text and texts");
    throwIfAborted(signal);
    const scores = scoresOf(graph, tokenizer, task, query, text);
    if (scores.length !== 1)
      throw new EdgecError(
        "unsupported",
        `the model gives ${scores.length} classes to a query and a document, ranking takes one score`,
        { hint: "use `classify` with the pair" },
      );
    return { index, score: scores[0], text };
  });
  return found.sort((a, b) => b.score - a.score || a.index - b.index);
}

function scoresOf(
  graph: Graph,
  tokenizer: Tokenizer,
  task: TextClassificationTask,
  first: string,
  second: string | null,
): Float64Array {
  const { fixed, limit } = textLength(graph, task.max_length);
  const logits = floats(textOutputs(graph, encodePair(tokenizer, first, second, limit), fixed), 2).data as Float32Array;
  if (task.scores === "softmax") return softmax(logits);
  return Float64Array.from(logits, task.scores === "sigmoid" ? (logit) => 1 / (1 + exp(-logit)) : (logit) => logit);
}

/** Neighbouring tokens of one kind together, in the order of the text; what is outside of all is left out. */
export function findEntities(
  graph: Graph,
  tokenizer: Tokenizer,
  task: TokenClassificationTask,
  given: string,
  signal?: AbortSignal,
): Entity[] {
  if (typeof given !== "string") throw new EdgecError("invalid-argument", "`tokens` takes a text");
  const text = given.replace(/\p{Surrogate}/gu, "\ufffd");
  const ids = tokenizer.encodePlain(text);
  const places = placesOf(text, ids, tokenizer);
  const { fixed, limit } = textLength(graph, task.max_length);
  const { before, after } = around(tokenizer);
  const room = limit - before.length - after.length;
  if (room < 1) throw noRoom(limit);
  const tagged: Tagged[] = [];
  for (let start = 0; start < ids.length; start += room) {
    throwIfAborted(signal);
    const own = ids.slice(start, start + room);
    const window = [...before, ...own, ...after];
    const { data, shape } = floats(textOutputs(graph, { ids: window, types: [] }, fixed), 3);
    if (shape[1] < window.length)
      throw new EdgecError(
        "unsupported",
        `the output has the shape [${shape.join(", ")}], expected [1, ${window.length}, classes]`,
      );
    const classes = shape[2];
    for (let i = 0; i < own.length; i++) {
      const at = (before.length + i) * classes;
      const [best] = ranked(softmax((data as Float32Array).subarray(at, at + classes)), (index) => label(task, index), 1);
      tagged.push({ label: best.label, score: best.score, place: places[start + i] });
    }
  }
  return groups(tagged)
    .map((group) => entity(text, group))
    .filter(({ label }) => label !== OUTSIDE);
}

const label = (task: TokenClassificationTask, index: number): string => task.labels?.[index] ?? String(index);

/** A label without what says that it begins or goes on. */
const kind = (label: string): string => label.replace(/^[BI]-/, "");

function groups(tagged: Tagged[]): Tagged[][] {
  const found: Tagged[][] = [];
  for (const token of tagged) {
    const group = found.at(-1);
    if (group && !token.label.startsWith("B-") && kind(token.label) === kind(group[0].label)) group.push(token);
    else found.push([token]);
  }
  return found;
}

function entity(text: string, group: Tagged[]): Entity {
  const seen = group.filter(({ place }) => place.end > place.start);
  const first = (seen[0] ?? group[0]).place;
  const last = (seen.at(-1) ?? group[0]).place;
  const score = group.reduce((sum, token) => sum + token.score, 0) / group.length;
  return { label: kind(group[0].label), score, start: first.start, end: last.end, text: text.slice(first.start, last.end) };
}

function floats(outputs: Tensor[], rank: number): Tensor {
  const found = outputs.find(({ data, shape }) => data instanceof Float32Array && shape.length === rank);
  if (!found) throw new EdgecError("unsupported", `the model has no floating-point output of ${rank} dimensions`);
  return found;
}
