/** Manifest bytes -> `Manifest`, with every rule of docs/bundle-format.md. Twin of `edgec/bundle/parse.py`. */

import { EdgecError } from "../errors.js";
import { parseAdapterSpace } from "./adapters.js";
import { isNeededAt, parseDepths, parseDepthsOfFile } from "./depths.js";
import { type Dims, evaluate } from "./dims.js";
import { parseDecoderGolden, parseGraphGolden } from "./golden.js";
import { type Field, invalid, parseJson } from "./json.js";
import {
  EXPANSION,
  FINEST,
  FORMAT,
  ITEM_BYTES,
  MANIFEST_FILE,
  MAX_FILE_BYTES,
  MAX_MANIFEST_BYTES,
  MAX_WEIGHT_FILE_BYTES,
  type AdapterSpace,
  type Computed,
  type DType,
  type Exit,
  type FileInfo,
  type GraphInfo,
  type KVLayout,
  type Manifest,
  type Memory,
  REGIONS,
  REPORT_FILE,
  SHIFTS,
  type Region,
  type Segment,
  type Slot,
  TOKENIZER_FILE,
  type TokenizerInfo,
  targetBytes,
  VARIANTS,
  VERSION,
  type WeightFile,
} from "./manifest.js";
import { checkSpeechDetection, checkTranscription } from "./speech.js";
import { type SpeechDetectionTask, type TranscriptionTask, parseTask } from "./task.js";

const SHA256 = /^[0-9a-f]{64}$/;
const FILE_NAME = /^[a-z0-9._/-]+$/;
const WEIGHT_FILE = /^weights\/[0-9a-f]{64}\.bin$/;
const EXPORT = /^[a-z][a-z0-9_]*$/;
const DIMENSION = /^[A-Za-z_][A-Za-z0-9_.]*$/;
const MAX_SIZE = 2 ** 32;
const MAX_INT32 = 2 ** 31 - 1;
const DECODER_ENTRIES: Record<string, string[]> = { prefill: ["n", "position"], head: ["row"], decode: ["position"] };
const FIELDS = [
  ...["format", "version", "edgec", "model", "profile", "plan", "memory", "modules", "entry_points", "dims", "inputs"],
  ...[
    "outputs",
    "kv",
    "context_length",
    "prefill_chunk",
    "weights",
    "files",
    "tokenizer",
    "generation",
    "task",
    "accuracy",
    "golden",
  ],
];

/** Throws `EdgecError` with the code `manifest-invalid` or `version-unsupported`. */
export function parseManifest(data: Uint8Array): Manifest {
  if (data.length > MAX_MANIFEST_BYTES)
    throw invalid(MANIFEST_FILE, `has ${data.length} bytes, more than ${MAX_MANIFEST_BYTES}`);
  const root = parseJson(data);
  root.at("format").choice([FORMAT]);
  const version = root.at("version").integer(-MAX_INT32, MAX_INT32);
  if (version !== VERSION) {
    throw new EdgecError(
      "version-unsupported",
      `the bundle has format version ${version}, this runtime reads ${VERSION}`,
      {
        hint: "compile the model again, or use the runtime of the edgec that wrote it",
      },
    );
  }
  root.fields(FIELDS, ["adapters", "computed", "depths", "exits", "graphs"]);
  const model = parseModel(root.at("model"));
  const decoder = model.kind === "decoder";
  const memory = parseMemory(root.at("memory"));
  const dims = parseDims(root.at("dims"));
  const context_length = root.at("context_length").integer(decoder ? 1 : 0, decoder ? MAX_INT32 : 0);
  const prefill_chunk = root.at("prefill_chunk").integer(decoder ? 1 : 0, decoder ? MAX_INT32 : 0);
  const inputs = parseSlots(root.at("inputs"), memory.workspace, dims);
  const computed = parseComputed(root, decoder, memory.workspace, dims);
  const outputs = parseSlots(root.at("outputs"), memory.workspace, {
    ...dims,
    ...Object.fromEntries(computed.map(({ name, bound }) => [name, bound])),
  });
  if (decoder) checkDecoderSlots(root, inputs, outputs, prefill_chunk);
  const entry_points = parseEntryPoints(root.at("entry_points"), decoder);
  const graphs = parseGraphs(root, decoder, { entry_points, inputs, outputs, dims, computed });
  const modules = parseModules(root.at("modules"));
  const files = parseFiles(root.at("files"));
  const depths = parseDepths(root);
  const known = [FINEST, ...depths.map(([bits]) => bits)];
  const weights = parseWeights(root.at("weights"), memory.weights, files, known);
  const tokenizer = root.at("tokenizer").orNull(parseTokenizer);
  checkFileSet(root.at("files"), files, [
    ...Object.values(modules),
    ...weights.map((w) => w.file),
    ...(tokenizer ? [tokenizer.file] : []),
  ]);
  checkWeightNames(root.at("files"), files, weights);
  checkGeneration(root.at("generation"));
  const task = parseTask(root.at("task"));
  if (task?.type === "transcription")
    checkTranscription(root, task as TranscriptionTask, { graphs, entry_points, inputs, outputs, dims });
  if (task?.type === "speech-detection")
    checkSpeechDetection(root, task as SpeechDetectionTask, { graphs, inputs, outputs });
  const parseGolden = (field: Field): Manifest["golden"] =>
    field.orNull((golden) =>
      decoder
        ? parseDecoderGolden(golden, vocabularyOf(outputs), context_length)
        : parseGraphGolden(golden, dims, Object.values(graphs).reduce((sum, graph) => sum + graph.outputs.length, 0)),
    );
  return {
    edgec: root.at("edgec").string(),
    model,
    profile: root.at("profile").string(),
    plan: root.at("plan").object(),
    memory,
    modules,
    entry_points,
    dims,
    inputs,
    outputs,
    graphs,
    computed,
    kv: parseKv(root.at("kv"), decoder, memory, context_length),
    context_length,
    prefill_chunk,
    weights,
    files,
    tokenizer,
    generation: root.at("generation").object(),
    task,
    accuracy: root.at("accuracy").object(),
    golden: parseGolden(root.at("golden")),
    adapters: parseAdapters(root, decoder, memory.weights, weights),
    exits: parseExits(root, decoder, entry_points),
    depths: depths.map(([bits, golden]) => ({ bits, golden: parseGolden(golden) })),
  };
}

function parseExits(root: Field, decoder: boolean, entryPoints: Record<string, string[]>): Exit[] {
  const field = root.find("exits");
  if (!field) return [];
  if (!decoder) throw field.fail("is for decoders alone");
  const chunk = ["n", "position"];
  let last = 0;
  const exits = field.elements().map((element): Exit => {
    element.fields(["layer", "threshold", "agreement", "share", "tokens"]);
    const layer = element.at("layer").integer(last + 1, MAX_INT32);
    last = layer;
    const wanted = { layers_0: chunk, [`exit_${layer}`]: ["row"], [`fill_${layer}`]: chunk, [`layers_${layer}`]: chunk };
    const exit = {
      layer,
      threshold: element.at("threshold").orNull(parseShare),
      agreement: parseShare(element.at("agreement")),
      share: parseShare(element.at("share")),
      tokens: element.at("tokens").integer(1, MAX_INT32),
    };
    for (const [name, parameters] of Object.entries(wanted)) {
      if (JSON.stringify(entryPoints[name]) !== JSON.stringify(parameters))
        throw root.at("entry_points").fail(`lacks \`${name}\` with the parameters ${JSON.stringify(parameters)}`);
    }
    return exit;
  });
  if (exits.length === 0) throw field.fail("is empty");
  return exits;
}

function parseShare(field: Field): number {
  const value = field.number();
  if (value < 0 || value > 1) throw field.fail(`is ${value}, allowed are 0 to 1`);
  return value;
}

function parseAdapters(root: Field, decoder: boolean, region: Region, weights: WeightFile[]): AdapterSpace | null {
  const field = root.find("adapters");
  if (field && !decoder) throw field.fail("is for decoders alone");
  return field ? parseAdapterSpace(field, region, weights) : null;
}

const vocabularyOf = (outputs: Slot[]): number =>
  Math.floor(outputs.find((slot) => slot.name === "logits")!.bytes / ITEM_BYTES.float32);

const end = (region: Region): number => region.offset + region.bytes;

/** An object without a prototype, so that no key of a file can be taken for a built-in property. */
function record<T>(entries: [string, T][]): Record<string, T> {
  return Object.assign(Object.create(null) as Record<string, T>, Object.fromEntries(entries));
}

function parseModel(field: Field): Manifest["model"] {
  field.fields(["name", "architecture", "kind", "source_format", "source_sha256", "parameters", "license"]);
  if (!field.at("name").string()) throw field.at("name").fail("is empty");
  return {
    name: field.at("name").string(),
    architecture: field.at("architecture").string(),
    kind: field.at("kind").choice(["decoder", "graph"]),
    source_format: field.at("source_format").string(),
    source_sha256: field.at("source_sha256").string(SHA256),
    parameters: field.at("parameters").integer(0),
    license: field.at("license").orNull((license) => license.string()),
  };
}

function parseMemory(field: Field): Memory {
  field.fields([...REGIONS, "stack_bytes", "max_threads", "maximum_bytes"]);
  const regions = {} as Record<(typeof REGIONS)[number], Region>;
  let last = 0;
  for (const name of REGIONS) {
    const part = field.at(name);
    part.fields(["offset", "bytes"]);
    const region = { offset: part.at("offset").integer(0, MAX_SIZE, 64), bytes: part.at("bytes").integer(0, MAX_SIZE) };
    if (region.offset < last)
      throw part.fail(`starts at ${region.offset}, before the end of the region before it at ${last}`);
    regions[name] = region;
    last = end(region);
  }
  const memory: Memory = {
    ...regions,
    stack_bytes: field.at("stack_bytes").integer(1024, MAX_SIZE, 16),
    max_threads: field.at("max_threads").integer(1, 64),
    maximum_bytes: field.at("maximum_bytes").integer(65536, MAX_SIZE, 65536),
  };
  if (memory.control.bytes < 1024) throw field.at("control").fail("has less than 1024 bytes");
  if (memory.workspace.bytes < 2 ** 20) throw field.at("workspace").fail("has less than 1 MiB");
  if (memory.stacks.bytes < memory.stack_bytes * memory.max_threads)
    throw field.at("stacks").fail("is too small for `max_threads` stacks");
  if (last > memory.maximum_bytes)
    throw field.at("maximum_bytes").fail(`is ${memory.maximum_bytes}, before the end of the last region at ${last}`);
  return memory;
}

function parseModules(field: Field): Manifest["modules"] {
  field.fields(["simd128"], VARIANTS);
  return record(
    field.entries().map(([variant, name]) => [variant, name.choice([`module.${variant}.wasm`])]),
  ) as Manifest["modules"];
}

function parseEntryPoints(field: Field, decoder: boolean): Record<string, string[]> {
  const entries = record(
    field.entries().map(([name, parameters]) => {
      if (!EXPORT.test(name)) throw field.fail("has a name that does not match `[a-z][a-z0-9_]*`");
      return [name, parameters.strings()];
    }),
  );
  if (!decoder) return entries;
  for (const [name, expected] of Object.entries(DECODER_ENTRIES)) {
    if (JSON.stringify(entries[name]) !== JSON.stringify(expected)) {
      throw field.fail(`lacks \`${name}\` with the parameters ${JSON.stringify(expected)}`);
    }
  }
  return entries;
}

const names = (slots: Slot[]): string[] => slots.map((slot) => slot.name);

function parseGraphs(
  root: Field,
  decoder: boolean,
  {
    entry_points,
    inputs,
    outputs,
    dims,
    computed,
  }: Pick<Manifest, "entry_points" | "inputs" | "outputs" | "dims" | "computed">,
): Record<string, GraphInfo> {
  const field = root.find("graphs");
  if (decoder) {
    if (field) throw field.fail("is there, but only graphs have it");
    return {};
  }
  let graphs: Record<string, GraphInfo> = record([["run", { inputs: names(inputs), outputs: names(outputs) }]]);
  if (field) {
    graphs = record(field.entries().map(([name, graph]) => [name, parseGraph(graph, inputs, outputs)]));
    if (Object.keys(graphs).length === 0) throw field.fail("is empty");
    for (const [side, slots] of [["inputs", inputs] as const, ["outputs", outputs] as const]) {
      const used = new Set(Object.values(graphs).flatMap((graph) => graph[side]));
      const unused = slots.find((slot) => !used.has(slot.name));
      if (unused) throw field.fail(`leaves out \`${unused.name}\` of \`${side}\``);
    }
  }
  for (const [name, graph] of Object.entries(graphs)) {
    const field = root.at("entry_points").at(name);
    const parameters = entry_points[name];
    if (new Set(parameters).size < parameters.length || !parameters.every((dim) => Object.hasOwn(dims, dim)))
      throw field.fail("has parameters that are not `dims`");
    const bound = record(parameters.map((dim) => [dim, dims[dim]]));
    const made = { ...bound, ...record(computed.map((number) => [number.name, number.bound])) };
    const slots = [
      ...inputs.filter((slot) => graph.inputs.includes(slot.name)).map((slot) => ({ slot, known: bound })),
      ...outputs.filter((slot) => graph.outputs.includes(slot.name)).map((slot) => ({ slot, known: made })),
    ];
    for (const { slot, known } of slots) {
      try {
        for (const dimension of slot.shape) evaluate(dimension, known);
      } catch {
        throw field.fail(`lacks a dimension of \`${slot.name}\``);
      }
    }
  }
  return graphs;
}

function parseGraph(field: Field, inputs: Slot[], outputs: Slot[]): GraphInfo {
  field.fields(["inputs", "outputs"]);
  const graph: GraphInfo = { inputs: field.at("inputs").strings(), outputs: field.at("outputs").strings() };
  for (const [side, slots] of [["inputs", inputs] as const, ["outputs", outputs] as const]) {
    const known = new Set(names(slots));
    if (new Set(graph[side]).size < graph[side].length || !graph[side].every((name) => known.has(name)))
      throw field.at(side).fail(`has names that are not in \`${side}\`, or one twice`);
  }
  if (graph.outputs.length === 0) throw field.at("outputs").fail("is empty");
  return graph;
}

function parseDims(field: Field): Record<string, number> {
  const dims = record(field.entries().map(([name, bound]) => [name, bound.integer(1, MAX_INT32)]));
  for (const name of Object.keys(dims))
    if (!DIMENSION.test(name)) throw field.fail(`has a name that does not match \`${DIMENSION.source}\``);
  return dims;
}

function parseComputed(root: Field, decoder: boolean, workspace: Region, dims: Dims): Computed[] {
  const field = root.find("computed");
  if (!field) return [];
  if (decoder) throw field.fail("is for graphs alone");
  const names = new Set(Object.keys(dims));
  const numbers = field.elements().map((element) => {
    element.fields(["name", "bound", "offset"]);
    const number: Computed = {
      name: element.at("name").string(DIMENSION),
      bound: element.at("bound").integer(0, MAX_INT32),
      offset: element.at("offset").integer(0, MAX_SIZE, 4),
    };
    if (names.has(number.name)) throw element.at("name").fail("is used twice");
    names.add(number.name);
    if (number.offset < workspace.offset || number.offset + 4 > end(workspace))
      throw element.fail("lies outside the workspace");
    return number;
  });
  if (numbers.length === 0) throw field.fail("is empty");
  return numbers;
}

function parseSlots(field: Field, workspace: Region, dims: Dims): Slot[] {
  const names = new Set<string>();
  return field.elements().map((element) => {
    element.fields(["name", "dtype", "shape", "offset", "bytes"]);
    const slot: Slot = {
      name: element.at("name").string(),
      dtype: element.at("dtype").choice(Object.keys(ITEM_BYTES) as DType[]),
      shape: element
        .at("shape")
        .elements()
        .map((size) => (typeof size.value === "string" ? size.value : size.integer(0, MAX_INT32))),
      offset: element.at("offset").integer(0, MAX_SIZE, 16),
      bytes: element.at("bytes").integer(0, MAX_SIZE),
    };
    if (names.has(slot.name)) throw element.at("name").fail("is used twice");
    names.add(slot.name);
    if (slot.offset < workspace.offset || end(slot) > end(workspace)) throw element.fail("lies outside the workspace");
    checkShape(element, slot, dims);
    return slot;
  });
}

function checkShape(field: Field, slot: Slot, dims: Dims): void {
  if (slot.shape.length > 16) throw field.at("shape").fail("has more than 16 dimensions");
  let size = BigInt(ITEM_BYTES[slot.dtype]);
  for (const dimension of slot.shape) {
    let bound: number;
    try {
      bound = evaluate(dimension, dims);
    } catch (error) {
      throw field.at("shape").fail(`has a dimension that ${(error as Error).message}`);
    }
    if (bound < 0 || bound > MAX_INT32) throw field.at("shape").fail(`has a dimension of ${bound}`);
    size *= BigInt(bound);
  }
  if (size > BigInt(slot.bytes))
    throw field.at("bytes").fail(`is ${slot.bytes}, less than the ${size} that the shape needs`);
}

function checkDecoderSlots(root: Field, inputs: Slot[], outputs: Slot[], chunk: number): void {
  const tokens = inputs.find((slot) => slot.name === "tokens");
  if (tokens?.dtype !== "int32" || tokens.bytes < 4 * chunk) {
    throw root.at("inputs").fail("lacks `tokens`, int32 for at least `prefill_chunk` ids");
  }
  const logits = outputs.find((slot) => slot.name === "logits");
  if (logits?.dtype !== "float32" || logits.shape.length !== 1)
    throw root.at("outputs").fail("lacks `logits`, float32 with one dimension");
}

function parseKv(field: Field, decoder: boolean, memory: Memory, contextLength: number): KVLayout | null {
  if (field.isNull === decoder) throw field.fail("is null exactly for graphs");
  if (!decoder) return null;
  field.fields(["bits", "page_tokens", "page_bytes", "pages", "table_offset"]);
  const kv: KVLayout = {
    bits: field.at("bits").integer(16, 32),
    page_tokens: field.at("page_tokens").integer(1, MAX_INT32),
    page_bytes: field.at("page_bytes").integer(1, MAX_SIZE),
    pages: field.at("pages").integer(1, MAX_INT32),
    table_offset: field.at("table_offset").integer(0, MAX_SIZE),
  };
  if (kv.bits !== 16 && kv.bits !== 32) throw field.at("bits").fail("is neither 16 nor 32");
  if (kv.table_offset !== memory.control.offset + 1024 || kv.table_offset + 4 * kv.pages > end(memory.control)) {
    throw field.at("table_offset").fail("does not give a page table inside the control region");
  }
  if (kv.pages * kv.page_bytes > memory.kv.bytes) throw field.at("pages").fail("do not fit the `kv` region");
  if (kv.pages * kv.page_tokens < contextLength) throw field.at("pages").fail("do not hold `context_length` tokens");
  return kv;
}

function parseFiles(field: Field): Record<string, FileInfo> {
  return record(
    field.entries().map(([name, info]) => {
      if (!FILE_NAME.test(name) || name.startsWith("/") || name.includes(".."))
        throw field.fail("has a name that is not allowed");
      info.fields(["bytes", "sha256"]);
      const limit = name.startsWith("weights/") ? MAX_WEIGHT_FILE_BYTES : MAX_FILE_BYTES;
      return [name, { bytes: info.at("bytes").integer(1, limit), sha256: info.at("sha256").string(SHA256) }];
    }),
  );
}

/** Segments that overwrite; others are OR-ed into what is there. */
const WRITES: readonly Segment["op"][] = ["copy", "scaled8"];

/** `known` has the bits of all depths. */
function parseWeights(
  field: Field,
  region: Region,
  files: Record<string, FileInfo>,
  known: readonly number[],
): WeightFile[] {
  const weights = field.elements().map((element) => {
    element.fields(["file", "segments"], ["depths"]);
    const file = element.at("file").string(WEIGHT_FILE);
    if (!files[file]) throw element.at("file").fail("is not in `files`");
    const segments = element
      .at("segments")
      .elements()
      .map((part) => parseSegment(part, region));
    const total = segments.reduce((sum, segment) => sum + segment.length, 0);
    if (segments.length === 0 || total !== files[file].bytes) {
      throw element.at("segments").fail(`do not cover the ${files[file].bytes} bytes of the file`);
    }
    return { file, segments, depths: parseDepthsOfFile(element, known) };
  });
  for (const bits of known) {
    if (overlap(weights.filter((file) => isNeededAt(file, bits)))) throw field.fail("has segments with overlapping targets");
  }
  return weights;
}

/** Whether two segments write to the same bits. */
function overlap(weights: WeightFile[]): boolean {
  const copies: [number, number][] = [];
  const planes = new Map<string, [number, number][]>();
  for (const segment of weights.flatMap(({ segments }) => segments)) {
    const { op, shift, target } = segment;
    const kind = `${op}.${shift}`;
    if (!planes.has(kind)) planes.set(kind, []);
    (WRITES.includes(op) ? copies : planes.get(kind)!).push([target, target + targetBytes(segment)]);
  }
  return [[], ...planes.values()].some((some) => {
    const ordered = [...copies, ...some].sort((a, b) => a[0] - b[0]);
    return ordered.some(([start], i) => i > 0 && ordered[i - 1][1] > start);
  });
}

function parseSegment(field: Field, region: Region): Segment {
  const op = field.at("op").choice(Object.keys(EXPANSION) as Segment["op"][]);
  const largest = SHIFTS[op];
  const scaled = op === "scaled8";
  field.fields(["op", "length", "target", ...(largest === undefined ? [] : ["shift"]), ...(scaled ? ["columns"] : [])]);
  const segment: Segment = {
    op,
    length: field.at("length").integer(1, MAX_WEIGHT_FILE_BYTES, WRITES.includes(op) ? 1 : 16),
    target: field.at("target").integer(0, MAX_SIZE, op === "copy" ? 1 : 64),
    shift: largest === undefined ? 0 : field.at("shift").integer(0, largest),
    columns: scaled ? field.at("columns").integer(1, MAX_WEIGHT_FILE_BYTES) : 0,
  };
  if (scaled && (segment.length <= 2 * segment.columns || segment.length % segment.columns !== 0)) {
    throw field.fail("has a length that is no scales and whole rows");
  }
  if (segment.target < region.offset || segment.target + targetBytes(segment) > end(region)) {
    throw field.fail("has a target outside the weights region");
  }
  return segment;
}

function parseTokenizer(field: Field): TokenizerInfo {
  field.fields(["file", "bos_token_id", "eos_token_ids", "pad_token_id", "chat_template", "special_tokens"]);
  const id = (value: Field): number => value.integer(0);
  return {
    file: field.at("file").choice([TOKENIZER_FILE]),
    bos_token_id: field.at("bos_token_id").orNull(id),
    eos_token_ids: field.at("eos_token_ids").elements().map(id),
    pad_token_id: field.at("pad_token_id").orNull(id),
    chat_template: field.at("chat_template").orNull((template) => template.string()),
    special_tokens: record(
      field
        .at("special_tokens")
        .entries()
        .map(([name, token]) => [name, token.string()]),
    ),
  };
}

function checkFileSet(field: Field, files: Record<string, FileInfo>, expected: string[]): void {
  for (const name of expected) if (!files[name]) throw field.fail(`lacks \`${name}\``);
  for (const name of Object.keys(files)) {
    if (name !== REPORT_FILE && !expected.includes(name))
      throw field.fail(`has \`${name}\`, which no part of the manifest uses`);
  }
}

function checkWeightNames(field: Field, files: Record<string, FileInfo>, weights: WeightFile[]): void {
  for (const { file } of weights) {
    if (file !== `weights/${files[file].sha256}.bin`) throw field.at(file).fail("is not named after its hash");
  }
}

function checkGeneration(field: Field): void {
  const numbers: Record<string, (value: number) => boolean> = {
    temperature: (value) => value >= 0,
    top_p: (value) => value > 0 && value <= 1,
    min_p: (value) => value >= 0 && value <= 1,
    repetition_penalty: (value) => value > 0,
  };
  for (const [name, allowed] of Object.entries(numbers)) {
    const value = field.find(name);
    if (value && !allowed(value.number())) throw value.fail("is out of range");
  }
  field.find("top_k")?.integer(0);
  field.find("max_tokens")?.integer(1);
  field.find("seed")?.integer(0, 2 ** 32 - 1);
}
