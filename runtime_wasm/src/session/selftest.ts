/** Does this engine compute what the compiler's did? Twin of `edgec/run/golden.py`. */

import type { DecoderGolden, GraphGolden } from "../bundle/golden.js";
import { type Dims, evaluate } from "../bundle/dims.js";
import { type DType, type Slot } from "../bundle/manifest.js";
import type { Engine } from "../engine/engine.js";
import { sha256 } from "../sha256.js";
import type { DecoderState } from "./decoder.js";
import { type Tensor, openGraph, runGraph, storedBytes } from "./graph.js";
import { isHalf } from "./half.js";

/** What an engine computes otherwise than the compiler's did. */
export interface SelfTestDifference {
  /** For example `logits after 9 tokens`, or the name of an output. */
  what: string;
  expectedSha256: string;
  sha256: string;
  /** That of the few values that the bundle keeps; null where they are not numbers. */
  largestError: number | null;
}

export interface SelfTest {
  /** null: the bundle keeps nothing to compare with. */
  passed: boolean | null;
  variant: string;
  threads: number;
  /** How many logits or outputs were compared. */
  compared: number;
  differences: SelfTestDifference[];
  seconds: number;
}

type Findings = Pick<SelfTest, "compared" | "differences">;
type Kept = readonly (number | null)[];

export async function selfTest(engine: Engine, state: DecoderState | null): Promise<Findings> {
  const { golden } = engine.manifest;
  if (!golden) return { compared: 0, differences: [] };
  return "prompt" in golden ? testDecoder(state!, golden) : testGraphs(engine, golden);
}

async function testDecoder(state: DecoderState, { prompt, steps }: DecoderGolden): Promise<Findings> {
  const differences: SelfTestDifference[] = [];
  state.reset();
  try {
    await state.prompt(prompt);
    for (const [index, { sha256: expected, largest }] of steps.entries()) {
      const logits = state.logits().slice();
      const values = largest.map(({ token }) => logits[token]);
      const kept = largest.map(({ logit }) => logit);
      differences.push(...compare(`logits after ${state.position} tokens`, expected, kept, await hash("float32", logits), values));
      if (index < steps.length - 1) state.decode(largest[0].token);
    }
  } finally {
    state.reset();
  }
  return { compared: steps.length, differences };
}

async function testGraphs(engine: Engine, { dims, outputs }: GraphGolden): Promise<Findings> {
  const { manifest } = engine;
  const names = Object.keys(manifest.graphs).sort();
  const differences: SelfTestDifference[] = [];
  let compared = 0;
  for (const name of names) {
    const graph = openGraph(engine, name);
    const inputs = graph.inputs.map((slot) => [slot.name, testInput(slot, manifest.inputs.indexOf(slot), dims)] as const);
    const tensors = runGraph(graph, Object.fromEntries(inputs));
    for (const slot of graph.outputs) {
      const { data } = tensors[slot.name];
      const { sha256: expected, values: kept } = outputs[compared++];
      const values = kept.map((_, i) => Number(data[Math.floor((i * data.length) / kept.length)]));
      const what = `output \`${slot.name}\`${names.length > 1 ? ` of \`${name}\`` : ""}`;
      differences.push(...compare(what, expected, kept, await hash(slot.dtype, data), values));
    }
  }
  return { compared, differences };
}

/** Numbers that every model can take: floats from -1 to 1, other types 0 and 1. */
function testInput(slot: Slot, seed: number, dims: Dims): { data: number[]; shape: number[] } {
  const shape = slot.shape.map((dimension) => evaluate(dimension, dims));
  const count = shape.reduce((a, b) => a * b, 1);
  const element = elementOf(slot.dtype);
  const data = Array.from({ length: count }, (_, index) => element(splitmix32(seed, index) >>> 24));
  return { data, shape };
}

function elementOf(dtype: DType): (top: number) => number {
  if (dtype === "float32" || dtype === "float64" || isHalf(dtype)) return (top) => (top - 128) / 128;
  if (dtype.startsWith("float4")) return (top) => top & 7;
  if (dtype.startsWith("float8")) return (top) => top & 0x37;
  return (top) => top >>> 7;
}

/** Output number `index` of splitmix32. */
function splitmix32(seed: number, index: number): number {
  let z = (seed + Math.imul(index + 1, 0x9e3779b9)) | 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}

/** Engines may give a NaN any sign and payload, so it counts as the quiet one. */
async function hash(dtype: DType, data: Tensor["data"]): Promise<string> {
  if (data instanceof Float32Array || data instanceof Float64Array) {
    for (let i = 0; i < data.length; i++) if (Number.isNaN(data[i])) data[i] = NaN;
  }
  return sha256(storedBytes(dtype, data));
}

function compare(what: string, expected: string, kept: Kept, got: string, values: number[]): SelfTestDifference[] {
  if (expected === got) return [];
  const errors = kept.map((value, i) => (value === null ? NaN : Math.abs(value - values[i])));
  const largestError = errors.length > 0 && errors.every(Number.isFinite) ? Math.max(...errors) : null;
  return [{ what, expectedSha256: expected, sha256: got, largestError }];
}
