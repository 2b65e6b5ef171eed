/** Texts to vectors with an encoder graph, see docs/tasks.md. */

import type { EmbeddingTask } from "../bundle/task.js";
import { EdgecError } from "../errors.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { Graph, Tensor } from "./graph.js";
import { textLength, textOutputs } from "./texts.js";

/** What the task says about texts; `pooling` is for graphs that give a state per token. */
export type TextSettings = Pick<EmbeddingTask, "normalize" | "max_length"> & Partial<Pick<EmbeddingTask, "pooling">>;

export function embedText(graph: Graph, tokenizer: Tokenizer, task: TextSettings, text: string): Float32Array {
  const { fixed, limit } = textLength(graph, task.max_length);
  const ids = truncated(tokenizer, text, limit);
  return pool(textOutputs(graph, { ids, types: [] }, fixed), ids.length, task);
}

/** The ids with the tokenizer's special tokens; too long a text loses its end, not the special tokens. */
function truncated(tokenizer: Tokenizer, text: string, limit: number): number[] {
  const ids = tokenizer.encodePlain(text, { addSpecialTokens: true });
  if (ids.length <= limit) return ids;
  const own = tokenizer.encodePlain(text);
  const after = suffixLength(ids, own);
  const before = ids.length - own.length - after;
  const kept = own.slice(0, Math.max(0, limit - before - after));
  return [...ids.slice(0, before), ...kept, ...ids.slice(ids.length - after)].slice(0, limit);
}

/** How many ids follow the text's own ids. */
function suffixLength(ids: number[], own: number[]): number {
  for (let suffix = 0; suffix + own.length <= ids.length; suffix++) {
    const start = ids.length - suffix - own.length;
    if (own.every((id, i) => ids[start + i] === id)) return suffix;
  }
  return 0;
}

function pool(outputs: Tensor[], tokens: number, task: TextSettings): Float32Array {
  const states = outputs.find((tensor) => tensor.data instanceof Float32Array && tensor.shape.length === 3);
  const pooled = states
    ? pooledStates(states, tokens, task)
    : outputs.find((tensor) => tensor.data instanceof Float32Array && tensor.shape.length === 2)?.data;
  if (!pooled) throw new EdgecError("unsupported", "the model has no floating-point output of two or three dimensions");
  const values = Float64Array.from(pooled as Float32Array);
  return task.normalize ? normalized(values) : Float32Array.from(values);
}

/** The vector at length 1. */
export function normalized(values: Float64Array): Float32Array {
  let squares = 0;
  for (const value of values) squares += value * value;
  const norm = Math.max(Math.sqrt(squares), 1e-12);
  return Float32Array.from(values, (value) => value / norm);
}

function pooledStates(states: Tensor, tokens: number, task: TextSettings): Float64Array {
  const width = states.shape[2];
  const count = task.pooling === "cls" ? 1 : tokens;
  const result = new Float64Array(width);
  for (let token = 0; token < count; token++) {
    for (let i = 0; i < width; i++) result[i] += (states.data as Float32Array)[token * width + i];
  }
  return result.map((value) => value / count);
}
