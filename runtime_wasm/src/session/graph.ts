/** Graphs: tensors by name in, tensors by name out. Twin of `edgec/run/graph.py`. */

import { type Dims, evaluate } from "../bundle/dims.js";
import { type DType, ITEM_BYTES, type Slot } from "../bundle/manifest.js";
import type { Engine } from "../engine/engine.js";
import { EdgecError } from "../errors.js";
import { decodeHalves, encodeHalves, isHalf } from "./half.js";

export type TensorData = Tensor["data"] | Uint8ClampedArray;

export interface Tensor {
  dtype: DType;
  shape: number[];
  /**
   * In row-major order; `int64` is a BigInt64Array, `bool` a Uint8Array of 0 and 1. `float16` and `bfloat16` are a
   * Float32Array; floats of 8 and 4 bits are their codes in a Uint8Array, integers of 4 and 2 bits have a byte each.
   */
  data:
    | Float32Array
    | Float64Array
    | Int32Array
    | BigInt64Array
    | BigUint64Array
    | Uint8Array
    | Int8Array
    | Int16Array
    | Uint16Array
    | Uint32Array;
}

/** A typed array or list of numbers; `shape` may be left out where the model fixes all dimensions. */
export type TensorInput =
  { data: TensorData | readonly (number | bigint | boolean)[]; shape?: readonly number[] } | TensorData;

const ARRAYS = {
  float32: Float32Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
  float16: Float32Array,
  bfloat16: Float32Array,
  float64: Float64Array,
  int16: Int16Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  float8_e4m3fn: Uint8Array,
  float8_e4m3fnuz: Uint8Array,
  float8_e5m2: Uint8Array,
  float8_e5m2fnuz: Uint8Array,
  float4_e2m1fn: Uint8Array,
  int4: Int8Array,
  uint4: Uint8Array,
  int2: Int8Array,
  uint2: Uint8Array,
} as const;
const RANGES: Partial<Record<DType, [bigint, bigint]>> = {
  int32: [-(2n ** 31n), 2n ** 31n - 1n],
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
  uint8: [0n, 255n],
  int8: [-128n, 127n],
  bool: [0n, 1n],
  int16: [-32768n, 32767n],
  uint16: [0n, 65535n],
  uint32: [0n, 2n ** 32n - 1n],
  uint64: [0n, 2n ** 64n - 1n],
  float8_e4m3fn: [0n, 255n],
  float8_e4m3fnuz: [0n, 255n],
  float8_e5m2: [0n, 255n],
  float8_e5m2fnuz: [0n, 255n],
  float4_e2m1fn: [0n, 15n],
  int4: [-8n, 7n],
  uint4: [0n, 15n],
  int2: [-2n, 1n],
  uint2: [0n, 3n],
};
const FLOATS: ReadonlySet<DType> = new Set(["float32", "float64", "float16", "bfloat16"]);
/** Every element of their arrays is allowed. */
const FREE: ReadonlySet<DType> = new Set(["int32", "int64", "uint8", "int8", "int16", "uint16", "uint32", "uint64"]);
/** A dimension that a size tells: `name`, or `32*name`. */
const STEPS = /^(?:([0-9]+)\*)?([A-Za-z_][A-Za-z0-9_.]*)$/;

const wrong = (message: string, hint?: string): EdgecError => new EdgecError("invalid-argument", message, { hint });

/** One graph of a bundle: its inputs and outputs, and the upper bounds of its symbolic dimensions. */
export interface Graph {
  engine: Engine;
  name: string;
  inputs: Slot[];
  outputs: Slot[];
  dims: Record<string, number>;
}

/** The graph of this name, or the only one. */
export function openGraph(engine: Engine, name?: string): Graph {
  const { graphs, inputs, outputs, dims, entry_points } = engine.manifest;
  const known = Object.keys(graphs);
  if (name === undefined && known.length > 1) throw wrong("the model has several graphs", `name one of ${listed(known)}`);
  const chosen = name ?? known[0];
  if (!Object.hasOwn(graphs, chosen))
    throw wrong(`there is no graph \`${chosen}\``, `the model has ${listed(known)}`);
  const graph = graphs[chosen];
  return {
    engine,
    name: chosen,
    inputs: inputs.filter((slot) => graph.inputs.includes(slot.name)),
    outputs: outputs.filter((slot) => graph.outputs.includes(slot.name)),
    dims: Object.fromEntries(entry_points[chosen].map((dim) => [dim, dims[dim]])),
  };
}

export function runGraph(graph: Graph, inputs: Readonly<Record<string, TensorInput>>): Record<string, Tensor> {
  const { engine } = graph;
  const names = graph.inputs.map((slot) => slot.name);
  const given = Object.keys(inputs);
  if (given.length !== names.length || !names.every((name) => Object.hasOwn(inputs, name))) {
    throw wrong(`the inputs are ${listed(given)}`, `the model wants ${listed(names)}`);
  }
  const tensors = graph.inputs.map((slot) => ({ slot, ...toTensor(slot, inputs[slot.name]) }));
  const dims = bindDims(graph.dims, tensors);
  for (const { slot, shape, data } of tensors) checkShape(slot, shape, data.length, dims);
  for (const { slot, data } of tensors) {
    new Uint8Array(engine.memory.buffer, slot.offset).set(storedBytes(slot.dtype, data));
  }
  engine.call(graph.name, ...Object.keys(graph.dims).map((name) => dims[name]));
  for (const number of engine.manifest.computed) dims[number.name] = engine.computed(number);
  return Object.fromEntries(graph.outputs.map((slot) => [slot.name, read(engine, slot, dims)]));
}

/** A tensor's bytes as they lie in the model's memory. */
export function storedBytes(dtype: DType, data: Tensor["data"]): Uint8Array {
  const stored = isHalf(dtype) ? encodeHalves(dtype, data as Float32Array) : data;
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

function listed(names: readonly string[]): string {
  return names.map((name) => `\`${name}\``).join(", ") || "none";
}

function shown(slot: Slot): string {
  return `${slot.dtype} [${slot.shape.join(", ")}]`;
}

function toTensor(slot: Slot, input: TensorInput): { shape: readonly number[]; data: Tensor["data"] } {
  const bare = ArrayBuffer.isView(input);
  const values = bare ? (input as TensorData) : input?.data;
  if (!values || typeof values.length !== "number")
    throw wrong(`input \`${slot.name}\` is no tensor`, "give {data, shape}");
  const data = convert(slot, values);
  const shape = bare ? undefined : (input as { shape?: readonly number[] }).shape;
  if (shape === undefined) {
    if (!slot.shape.every((dimension) => typeof dimension === "number"))
      throw wrong(`input \`${slot.name}\` has no shape`, `the model wants ${shown(slot)}`);
    return { shape: slot.shape as number[], data };
  }
  return { shape, data };
}

function convert(slot: Slot, values: TensorData | readonly (number | bigint | boolean)[]): Tensor["data"] {
  const wanted = ARRAYS[slot.dtype];
  if (values instanceof wanted && (FREE.has(slot.dtype) || FLOATS.has(slot.dtype))) return values;
  if (FLOATS.has(slot.dtype)) return (wanted as Float32ArrayConstructor).from(values as readonly number[], Number);
  if (values instanceof Float32Array || values instanceof Float64Array) {
    throw wrong(`input \`${slot.name}\` has floating-point values`, `the model wants ${slot.dtype}`);
  }
  const [low, high] = RANGES[slot.dtype]!;
  const integers = Array.from(values as readonly (number | bigint | boolean)[], (value) => {
    if (typeof value === "number" && !Number.isInteger(value))
      throw wrong(`input \`${slot.name}\` has the value ${value}`, `the model wants ${slot.dtype}`);
    const integer = BigInt(value);
    if (integer < low || integer > high) throw wrong(`input \`${slot.name}\` has values outside ${slot.dtype}`);
    return integer;
  });
  if (slot.dtype === "int64") return BigInt64Array.from(integers);
  return slot.dtype === "uint64"
    ? BigUint64Array.from(integers)
    : (wanted as Int32ArrayConstructor).from(integers, Number);
}

/** The value of every dimension, read off the shapes of the inputs. */
function bindDims(bounds: Dims, tensors: { slot: Slot; shape: readonly number[] }[]): Record<string, number> {
  const dims: Record<string, number> = {};
  for (const { slot, shape } of tensors) {
    if (shape.length !== slot.shape.length)
      throw wrong(`input \`${slot.name}\` has ${shape.length} dimensions`, `the model wants ${shown(slot)}`);
    slot.shape.forEach((dimension, i) => {
      const steps = typeof dimension === "string" ? STEPS.exec(dimension) : null;
      if (steps) dims[steps[2]] ??= Math.floor(shape[i] / Math.max(1, Number(steps[1] ?? 1)));
    });
  }
  for (const [name, bound] of Object.entries(bounds)) {
    if (dims[name] === undefined) throw new EdgecError("unsupported", `no input gives the dimension \`${name}\``);
    if (!Number.isInteger(dims[name]) || dims[name] < 1 || dims[name] > bound) {
      throw wrong(
        `the dimension \`${name}\` is ${dims[name]}, the bundle holds 1 to ${bound}`,
        "use smaller inputs, or compile the model for larger ones",
      );
    }
  }
  return dims;
}

function checkShape(slot: Slot, shape: readonly number[], length: number, dims: Dims): void {
  const expected = shapeOf(slot, dims);
  if (shape.some((size, i) => size !== expected[i])) {
    throw wrong(
      `input \`${slot.name}\` has the shape [${shape.join(", ")}]`,
      `the model wants ${shown(slot)}, here [${expected.join(", ")}]`,
    );
  }
  if (length !== product(expected))
    throw wrong(`input \`${slot.name}\` has ${length} values for the shape [${shape.join(", ")}]`);
}

function shapeOf(slot: Slot, dims: Dims): number[] {
  const shape = slot.shape.map((dimension) => evaluate(dimension, dims));
  if (shape.some((size) => size < 0) || product(shape) * ITEM_BYTES[slot.dtype] > slot.bytes) {
    throw new EdgecError("unsupported", `the shape [${shape.join(", ")}] of \`${slot.name}\` is not possible`);
  }
  return shape;
}

function product(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

function read(engine: Engine, slot: Slot, dims: Dims): Tensor {
  const shape = shapeOf(slot, dims);
  const bytes = engine.bytes(slot.offset, product(shape) * ITEM_BYTES[slot.dtype]).slice();
  if (isHalf(slot.dtype)) {
    return { dtype: slot.dtype, shape, data: decodeHalves(slot.dtype, new Uint16Array(bytes.buffer as ArrayBuffer)) };
  }
  return { dtype: slot.dtype, shape, data: new ARRAYS[slot.dtype](bytes.buffer as ArrayBuffer) };
}
