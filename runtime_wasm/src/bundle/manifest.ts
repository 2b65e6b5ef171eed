/** The manifest's types and limits; `parse.ts` makes one from untrusted bytes. Names are those of docs/bundle-format.md. */

import type { Dimension } from "./dims.js";
import type { DecoderGolden, GraphGolden } from "./golden.js";
import type { Task } from "./task.js";

export const FORMAT = "edgec-bundle";
export const VERSION = 1;
export const MANIFEST_FILE = "manifest.json";
export const TOKENIZER_FILE = "tokenizer.json";
export const REPORT_FILE = "report.html";
export const MAX_MANIFEST_BYTES = 16 * 2 ** 20;
export const MAX_WEIGHT_FILE_BYTES = 16 * 2 ** 20;
export const MAX_FILE_BYTES = 64 * 2 ** 20;
export const VARIANTS = [
  "simd128",
  "relaxed",
  "relaxed16",
  "simd128-threads",
  "relaxed-threads",
  "relaxed16-threads",
] as const;
export const REGIONS = ["static", "control", "stacks", "workspace", "weights", "kv"] as const;
export const ITEM_BYTES = {
  float32: 4,
  int32: 4,
  int64: 8,
  uint8: 1,
  int8: 1,
  bool: 1,
  float16: 2,
  bfloat16: 2,
  float64: 8,
  int16: 2,
  uint16: 2,
  uint32: 4,
  uint64: 8,
  // A code per byte:
  float8_e4m3fn: 1,
  float8_e4m3fnuz: 1,
  float8_e5m2: 1,
  float8_e5m2fnuz: 1,
  float4_e2m1fn: 1,
  // An integer per byte:
  int4: 1,
  uint4: 1,
  int2: 1,
  uint2: 1,
} as const;

export type Variant = (typeof VARIANTS)[number];
export type DType = keyof typeof ITEM_BYTES;

export interface Region {
  offset: number;
  bytes: number;
}

/** Absolute byte addresses in the module's one memory. */
export type Memory = Record<(typeof REGIONS)[number], Region> & {
  stack_bytes: number;
  max_threads: number;
  maximum_bytes: number;
};

/** An input or output: `bytes` at `offset` are reserved for it. */
export interface Slot {
  name: string;
  dtype: DType;
  shape: Dimension[];
  offset: number;
  bytes: number;
}

/** What one entry point of a graph model reads and writes: names of the manifest's `inputs` and `outputs`. */
export interface GraphInfo {
  inputs: string[];
  outputs: string[];
}

/** A number that the module computes while it runs: an int32 at `offset`, from 0 to `bound`. */
export interface Computed {
  name: string;
  bound: number;
  offset: number;
}

export interface KVLayout {
  bits: number;
  page_tokens: number;
  page_bytes: number;
  pages: number;
  table_offset: number;
}

export interface Segment {
  op: keyof typeof EXPANSION;
  length: number;
  target: number;
  shift: number;
  /** Of `scaled8`, else 0. */
  columns: number;
}

/** Bytes of memory that one byte of a segment (of `scaled8` one behind the scales) becomes. */
export const EXPANSION = { copy: 1, scaled8: 4, upper4: 2, scale8: 2, upper16: 2, bits2: 2, trits: 2.5, bit1: 4, byte1: 8 } as const;

export function targetBytes({ op, length, columns }: Segment): number {
  return (length - 2 * columns) * EXPANSION[op];
}

/** The largest `shift` of the segments that have one. */
export const SHIFTS: Partial<Record<Segment["op"], number>> = { bit1: 1, byte1: 7 };

export interface WeightFile {
  file: string;
  segments: Segment[];
  /** Depths at which it is needed, the finest first; empty for all. */
  depths: number[];
}

/** Bits of nested codes: the fewest, and all of them. */
export const COARSEST = 2;
export const FINEST = 4;

/** How a device may take the bundle, too: with the upper `bits` bits of its nested codes. */
export interface Depth {
  bits: number;
  golden: DecoderGolden | GraphGolden | null;
}

export interface FileInfo {
  bytes: number;
  sha256: string;
}

export interface TokenizerInfo {
  file: string;
  bos_token_id: number | null;
  eos_token_ids: number[];
  pad_token_id: number | null;
  chat_template: string | null;
  special_tokens: Record<string, string>;
}

/** A linear to which an adapter may be added, and the addresses of the adapter's parts. */
export interface AdapterLinear {
  name: string;
  rows: number;
  columns: number;
  scales: number;
  down: number;
  up: number;
}

/** Room for an adapter of a rank up to `rank`; the int32 at `switch` is the rank of the one that is there, or 0. */
export interface AdapterSpace {
  base: string;
  rank: number;
  switch: number;
  linears: AdapterLinear[];
}

/** Where a decoder's answer may be taken after `layer` layers. */
export interface Exit {
  layer: number;
  threshold: number | null;
  agreement: number;
  share: number;
  tokens: number;
}

export interface Manifest {
  edgec: string;
  model: {
    name: string;
    architecture: string;
    kind: "decoder" | "graph";
    source_format: string;
    source_sha256: string;
    parameters: number;
    license: string | null;
  };
  profile: string;
  plan: Record<string, unknown>;
  memory: Memory;
  modules: Partial<Record<Variant, string>> & { simd128: string };
  entry_points: Record<string, string[]>;
  dims: Record<string, number>;
  inputs: Slot[];
  outputs: Slot[];
  /** By entry point; empty for decoders. A manifest without it has one graph, `run`. */
  graphs: Record<string, GraphInfo>;
  computed: Computed[];
  kv: KVLayout | null;
  context_length: number;
  prefill_chunk: number;
  weights: WeightFile[];
  files: Record<string, FileInfo>;
  tokenizer: TokenizerInfo | null;
  generation: Record<string, unknown>;
  task: Task | null;
  accuracy: Record<string, unknown>;
  golden: DecoderGolden | GraphGolden | null;
  adapters: AdapterSpace | null;
  exits: Exit[];
  /** Below `FINEST`, the finest first. */
  depths: Depth[];
}
