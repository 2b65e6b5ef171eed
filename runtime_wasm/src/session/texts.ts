/** Texts as inputs of an encoder graph, see docs/tasks.md. Twin of `edgec/run/tasks/texts.py`. */

import type { Slot } from "../bundle/manifest.js";
import { EdgecError } from "../errors.js";
import { type Graph, type Tensor, runGraph } from "./graph.js";

export interface Encoded {
  ids: readonly number[];
  /** Which text of a pair a token is of; 0 where it is left out. */
  types: readonly number[];
}

/** The graph's own sequence length, if it is fixed, and the most ids that fit. */
export function textLength(graph: Graph, maxLength: number): { fixed?: number; limit: number } {
  const ids = graph.inputs.find((slot) => slot.name === "input_ids");
  if (!ids || ids.shape.length !== 2)
    throw new EdgecError("unsupported", "the model has no input `input_ids` of two dimensions");
  const length = ids.shape[1];
  if (typeof length === "number") return { fixed: length, limit: Math.min(length, maxLength) };
  return { limit: Math.min(graph.dims[length] ?? Infinity, maxLength) };
}

/** What the graph gives for ids that fit, filled up to a `fixed` length. */
export function textOutputs(graph: Graph, encoded: Encoded, fixed: number | undefined): Tensor[] {
  const length = fixed ?? encoded.ids.length;
  const pad = graph.engine.manifest.tokenizer?.pad_token_id ?? 0;
  const inputs = Object.fromEntries(
    graph.inputs.map((slot) => [slot.name, { data: inputValues(slot, encoded, length, pad), shape: [1, length] }]),
  );
  return Object.values(runGraph(graph, inputs));
}

function inputValues(slot: Slot, { ids, types }: Encoded, length: number, pad: number): number[] {
  const values: Record<string, (i: number) => number> = {
    input_ids: (i) => ids[i] ?? pad,
    attention_mask: (i) => Number(i < ids.length),
    token_type_ids: (i) => types[i] ?? 0,
  };
  const value = values[slot.name];
  if (!value) throw new EdgecError("unsupported", `the model has the input \`${slot.name}\`, which is not known for texts`);
  return Array.from({ length }, (_, i) => value(i));
}
