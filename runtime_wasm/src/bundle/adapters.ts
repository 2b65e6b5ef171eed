/** Low-rank adapters: the room that a bundle has for one, and the file that holds one. Twin of `edgec/bundle/adapters.py`. */

import { EdgecError } from "../errors.js";
import { sha256 } from "../sha256.js";
import { type Field, invalid, parseJson } from "./json.js";
import { type AdapterLinear, type AdapterSpace, EXPANSION, type Region, type WeightFile } from "./manifest.js";

type Part = "scales" | "down" | "up";

const FORMAT = "edgec-adapter";
const VERSION = 1;
const RANK_STEP = 8;
const MAX_RANK = 256;
const MAX_HEADER_BYTES = 16 * 2 ** 20;
const ROWS = 8; // of a block
const NAME = /^[A-Za-z0-9_.]{1,128}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const DTYPES: Record<Part, string> = { scales: "F32", down: "F16", up: "F16" };
const PARTS = Object.keys(DTYPES) as Part[];
const METADATA = ["format", "version", "edgec", "name", "base", "rank", "sha256"];
const MAX_SIZE = 2 ** 32;
const MAX_EXTENT = 2 ** 24;

/** What lies at the linear's address `part`: float32 scales, float16 matrices in blocks of 8 rows. */
function partShape(linear: AdapterLinear, part: Part, rank: number): number[] {
  if (part === "scales") return [rank];
  if (part === "down") return [rank / ROWS, linear.columns, ROWS];
  return [Math.ceil(linear.rows / ROWS), rank, ROWS];
}

const partBytes = (linear: AdapterLinear, part: Part, rank: number): number =>
  partShape(linear, part, rank).reduce((size, extent) => size * extent, part === "scales" ? 4 : 2);

/** The manifest's `adapters`; `region` is that of the weights. */
export function parseAdapterSpace(field: Field, region: Region, weights: readonly WeightFile[]): AdapterSpace {
  field.fields(["base", "rank", "switch", "linears"]);
  const rank = field.at("rank").integer(RANK_STEP, MAX_RANK, RANK_STEP);
  const address = field.at("switch").integer(0, MAX_SIZE, 64);
  const names = new Set<string>();
  const taken: [number, number][] = [[address, address + 4]];
  const linears = field.at("linears").elements().map((element): AdapterLinear => {
    element.fields(["name", "rows", "columns", ...PARTS]);
    const linear: AdapterLinear = {
      name: element.at("name").string(NAME),
      rows: element.at("rows").integer(1, MAX_EXTENT),
      columns: element.at("columns").integer(1, MAX_EXTENT),
      scales: element.at("scales").integer(0, MAX_SIZE, 64),
      down: element.at("down").integer(0, MAX_SIZE, 64),
      up: element.at("up").integer(0, MAX_SIZE, 64),
    };
    if (names.has(linear.name)) throw element.at("name").fail("is used twice");
    names.add(linear.name);
    for (const part of PARTS) taken.push([linear[part], linear[part] + partBytes(linear, part, rank)]);
    return linear;
  });
  if (linears.length === 0) throw field.at("linears").fail("is empty");
  if (taken.some(([start, end]) => start < region.offset || end > region.offset + region.bytes))
    throw field.fail("has an address outside the weights region");
  taken.sort((a, b) => a[0] - b[0]);
  const targets = weights.flatMap(({ segments }) => segments);
  if (
    taken.some(([start], i) => i > 0 && taken[i - 1][1] > start) ||
    targets.some(({ op, target, length }) => meets(taken, target, target + length * EXPANSION[op]))
  )
    throw field.fail("has addresses that overlap others");
  return { base: field.at("base").string(SHA256), rank, switch: address, linears };
}

/** Whether one of the spans, in order and apart from each other, has something of `start` ... `end`. */
function meets(spans: readonly [number, number][], start: number, end: number): boolean {
  let [low, high] = [0, spans.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[middle][0] < end) low = middle + 1;
    else high = middle;
  }
  return low > 0 && spans[low - 1][1] > start;
}

/** A checked adapter. */
export interface AdapterFile {
  name: string;
  rank: number;
  /** What goes where; no bytes for what is to be zero. */
  pieces: { address: number; length: number; bytes: Uint8Array | null }[];
}

/** Checks everything. Throws `EdgecError`, also for an adapter of another model. */
export async function readAdapterFile(data: Uint8Array, space: AdapterSpace): Promise<AdapterFile> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const length = data.length < 8 || view.getUint32(4, true) > 0 ? Infinity : view.getUint32(0, true);
  if (length > MAX_HEADER_BYTES || 8 + length > data.length) throw adapterError("it has no header");
  const payload = data.subarray(8 + length);
  try {
    return await read(parseJson(data.subarray(8, 8 + length)), payload, space);
  } catch (error) {
    if (!(error instanceof EdgecError) || error.code !== "manifest-invalid") throw error;
    const text = error.message.replace("the manifest is invalid: ", "").replace("`manifest.json`", "the header");
    throw adapterError(text);
  }
}

const adapterError = (problem: string): EdgecError =>
  new EdgecError("manifest-invalid", `the adapter is invalid: ${problem}`);

async function read(root: Field, payload: Uint8Array, space: AdapterSpace): Promise<AdapterFile> {
  const facts = root.at("__metadata__");
  facts.at("format").choice([FORMAT]);
  const version = facts.at("version").string();
  if (version !== String(VERSION)) {
    throw new EdgecError(
      "version-unsupported",
      `the adapter has format version ${version}, this runtime reads ${VERSION}`,
      { hint: "make it again with `edgec adapter`" },
    );
  }
  facts.fields(METADATA);
  const name = facts.at("name").string();
  if (facts.at("base").string(SHA256) !== space.base) {
    throw new EdgecError("invalid-argument", `the adapter \`${name}\` was made for another model`, {
      hint: "make it for this bundle with `edgec adapter`",
    });
  }
  const rank = Number(facts.at("rank").string(/^[0-9]{1,3}$/));
  if (rank > space.rank) {
    throw new EdgecError(
      "invalid-argument",
      `the adapter \`${name}\` has the rank ${rank}, the bundle has room for ${space.rank}`,
      { hint: `compile the model with \`--adapters ${rank}\`` },
    );
  }
  if (rank < RANK_STEP || rank % RANK_STEP) throw invalid("rank", `is ${rank}, not a multiple of ${RANK_STEP}`);
  const tensors = new Map(root.entries());
  tensors.delete("__metadata__");
  const pieces = space.linears.flatMap((linear) => {
    const fields = PARTS.map((part) => tensors.get(`${linear.name}.${part}`));
    const missing = PARTS.find((_, i) => !fields[i]);
    if (missing && fields.some((field) => field)) throw invalid("manifest.json", `lacks \`${linear.name}.${missing}\``);
    return PARTS.map((part, i) => {
      tensors.delete(`${linear.name}.${part}`);
      const [address, length] = [linear[part], partBytes(linear, part, rank)];
      const field = fields[i];
      return { address, length, bytes: field ? slice(field, payload, partShape(linear, part, rank), part, length) : null };
    });
  });
  for (const other of tensors.keys()) throw invalid(other, "is no part of the model");
  if ((await sha256(payload)) !== facts.at("sha256").string(SHA256))
    throw new EdgecError("hash-mismatch", `the adapter \`${name}\` does not have the SHA-256 of its header`);
  return { name, rank, pieces };
}

function slice(field: Field, payload: Uint8Array, shape: number[], part: Part, length: number): Uint8Array {
  field.fields(["dtype", "shape", "data_offsets"]);
  field.at("dtype").choice([DTYPES[part]]);
  const found = field.at("shape").elements().map((extent) => extent.integer(0));
  if (found.join() !== shape.join()) throw field.at("shape").fail(`is [${found}], not [${shape}]`);
  const offsets = field.at("data_offsets").elements().map((offset) => offset.integer(0, payload.length));
  if (offsets.length !== 2 || offsets[1] - offsets[0] !== length)
    throw field.at("data_offsets").fail("do not hold the tensor");
  return payload.subarray(offsets[0], offsets[1]);
}
