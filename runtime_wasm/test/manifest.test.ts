import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseManifest } from "../src/bundle/parse.js";
import { EdgecError } from "../src/errors.js";
import { FIXTURES } from "./helpers.js";

type Json = { [key: string]: any };

const bytesOf = (kind: string): Uint8Array => readFileSync(join(FIXTURES, kind, "manifest.json"));
const fixture = (kind: string): Json => JSON.parse(new TextDecoder().decode(bytesOf(kind))) as Json;

function verdict(data: Uint8Array | string): string {
  try {
    parseManifest(typeof data === "string" ? new TextEncoder().encode(data) : data);
    return "sound";
  } catch (error) {
    assert.ok(error instanceof EdgecError, String(error));
    return error.code;
  }
}

function changed(kind: string, change: (manifest: Json) => void): string {
  const manifest = fixture(kind);
  change(manifest);
  return verdict(JSON.stringify(manifest));
}

test("the fixtures are sound", () => {
  assert.equal(verdict(bytesOf("decoder")), "sound");
  assert.equal(verdict(bytesOf("graph")), "sound");
});

test("syntax: encoding, byte order mark, twice the same key, depth, size", () => {
  const text = new TextDecoder().decode(bytesOf("graph"));
  assert.equal(verdict(`\ufeff${text}`), "manifest-invalid");
  assert.equal(verdict(Uint8Array.from([...bytesOf("graph").subarray(0, -2), 0xff, 0x7d])), "manifest-invalid");
  assert.equal(verdict(text.replace('"version": 1', '"version": 1, "version": 1')), "manifest-invalid");
  assert.equal(verdict(text.replace('"version": 1', '"ver\\u0073ion": 1, "version": 1')), "manifest-invalid");
  assert.equal(verdict(text.replace('"version": 1', '"version": 1.0')), "sound");
  assert.equal(verdict(text.replace('"version": 1', '"version": NaN')), "manifest-invalid");
  assert.equal(verdict("[]"), "manifest-invalid");
  assert.equal(verdict(""), "manifest-invalid");
  const nested = (levels: number): string =>
    text.replace('"accuracy": {}', `"accuracy": {"a": ${"[".repeat(levels)}${"]".repeat(levels)}}`);
  assert.equal(verdict(nested(62)), "sound");
  assert.equal(verdict(nested(63)), "manifest-invalid");
  assert.equal(verdict(nested(100_000)), "manifest-invalid");
  assert.equal(verdict(text + " ".repeat(16 * 2 ** 20)), "manifest-invalid");
});

test("format and version come first", () => {
  assert.equal(
    changed("graph", (m) => (m.format = "other")),
    "manifest-invalid",
  );
  assert.equal(
    changed("graph", (m) => (m.version = 2)),
    "version-unsupported",
  );
  assert.equal(
    changed("graph", (m) => (m.version = "1")),
    "manifest-invalid",
  );
  const future = (m: Json): void => {
    m.version = 3;
    delete m.memory;
  };
  assert.equal(changed("graph", future), "version-unsupported");
});

test("every field is needed, none is unknown", () => {
  for (const name of Object.keys(fixture("decoder"))) {
    assert.equal(
      changed("decoder", (m) => delete m[name]),
      "manifest-invalid",
      name,
    );
  }
  assert.equal(
    changed("decoder", (m) => (m.extra = 1)),
    "manifest-invalid",
  );
  assert.equal(
    changed("decoder", (m) => (m.memory.extra = 1)),
    "manifest-invalid",
  );
  assert.equal(
    changed("decoder", (m) => (m.generation.extra = 1)),
    "sound",
  );
});

const DAMAGE: [string, string, (manifest: Json) => unknown][] = [
  ["an unaligned region", "decoder", (m) => (m.memory.workspace.offset += 1)],
  ["overlapping regions", "decoder", (m) => (m.memory.weights.offset -= 128)],
  ["too small a workspace", "graph", (m) => (m.memory.workspace.bytes = 65536)],
  ["too few stacks", "graph", (m) => (m.memory.stack_bytes *= 2)],
  ["a maximum that is no multiple of a page", "graph", (m) => (m.memory.maximum_bytes += 64)],
  ["a maximum before the end", "decoder", (m) => (m.memory.maximum_bytes = 1 << 20)],
  ["a size that is no integer", "graph", (m) => (m.memory.weights.bytes += 0.5)],
  ["a boolean for a number", "graph", (m) => (m.memory.max_threads = true)],
  ["no simd128 module", "graph", (m) => delete m.modules.simd128],
  ["a module of another name", "graph", (m) => (m.modules.simd128 = "module.relaxed.wasm")],
  ["a wrong entry point", "decoder", (m) => (m.entry_points.decode = ["n"])],
  ["parameters that are no dims", "graph", (m) => (m.entry_points.run = ["width"])],
  ["a parameter twice", "graph", (m) => (m.entry_points.run = ["batch", "batch"])],
  ["an input outside the workspace", "graph", (m) => (m.inputs[0].offset = 0)],
  ["an input that is too small", "graph", (m) => (m.inputs[0].bytes = 16)],
  ["an unknown dimension", "graph", (m) => (m.inputs[0].shape[0] = "time")],
  ["a bad expression", "graph", (m) => (m.inputs[0].shape[0] = "batch +")],
  ["a negative dimension", "graph", (m) => (m.inputs[0].shape[0] = "batch - 17")],
  ["a division by zero", "graph", (m) => (m.inputs[0].shape[0] = "batch // 0")],
  ["two inputs of one name", "graph", (m) => m.inputs.push(m.inputs[0])],
  ["no logits", "decoder", (m) => (m.outputs[0].name = "scores")],
  ["no kv in a decoder", "decoder", (m) => (m.kv = null)],
  ["a kv in a graph", "graph", (m) => (m.kv = fixture("decoder").kv)],
  ["a page table elsewhere", "decoder", (m) => (m.kv.table_offset += 4)],
  ["too few pages", "decoder", (m) => (m.kv.pages = 1)],
  ["a context in a graph", "graph", (m) => (m.context_length = 4)],
  ["a path that leaves the folder", "graph", (m) => (m.files["../x"] = { bytes: 1, sha256: "0".repeat(64) })],
  ["an absolute path", "graph", (m) => (m.files["/x"] = { bytes: 1, sha256: "0".repeat(64) })],
  ["a file that nothing uses", "graph", (m) => (m.files["x"] = { bytes: 1, sha256: "0".repeat(64) })],
  ["an empty file", "graph", (m) => (m.files["module.simd128.wasm"].bytes = 0)],
  ["a hash in capitals", "graph", (m) => (m.files["module.simd128.wasm"].sha256 = "A".repeat(64))],
  ["a module that is not in files", "graph", (m) => delete m.files["module.simd128.wasm"]],
  ["segments that do not cover the file", "decoder", (m) => (m.weights[0].segments[0].length -= 1)],
  ["a target outside the weights", "decoder", (m) => (m.weights[0].segments[0].target = 0)],
  ["overlapping segments", "decoder", (m) => (m.weights[0].segments[3].shift = m.weights[0].segments[2].shift)],
  ["a shift on a copy", "decoder", (m) => (m.weights[0].segments[0].shift = 1)],
  ["an unaligned plane", "decoder", (m) => (m.weights[0].segments[1].target += 16)],
  ["an unknown segment", "decoder", (m) => (m.weights[0].segments[0].op = "xor")],
  ["no segments", "decoder", (m) => (m.weights[0].segments = [])],
  ["a negative token", "decoder", (m) => (m.tokenizer.bos_token_id = -1)],
  ["a chat template that is a number", "decoder", (m) => (m.tokenizer.chat_template = 1)],
  ["a temperature below zero", "decoder", (m) => (m.generation.temperature = -1)],
  ["a top_p of zero", "decoder", (m) => (m.generation.top_p = 0)],
  ["a seed beyond 32 bits", "decoder", (m) => (m.generation.seed = 2 ** 32)],
  ["an embedding without pooling", "graph", (m) => (m.task = { type: "embedding", normalize: true, max_length: 8 })],
  ["a task without a type", "graph", (m) => (m.task = {})],
  ["an unsafe integer", "graph", (m) => (m.model.parameters = 2 ** 53)],
  ["an empty name", "graph", (m) => (m.model.name = "")],
];

for (const [name, kind, damage] of DAMAGE) {
  test(`refused: ${name}`, () => assert.equal(changed(kind, damage), "manifest-invalid"));
}

const IMAGE = {
  width: 8,
  height: 8,
  layout: "NHWC",
  channels: "RGB",
  fit: "crop",
  crop: 0.875,
  interpolation: "bicubic",
  mean: [0, 0, 0],
  std: [1, 1, 1],
};

test("tasks: known types are checked, unknown ones are fine", () => {
  const withTask = (task: unknown): string => changed("graph", (m) => (m.task = task));
  assert.equal(withTask({ type: "image-to-image", anything: [] }), "sound");
  assert.equal(withTask({ type: "image-classification", image: IMAGE, labels: null, scores: "logits" }), "sound");
  assert.equal(
    withTask({ type: "image-classification", image: { ...IMAGE, std: [1, 0, 1] }, labels: null, scores: "logits" }),
    "manifest-invalid",
  );
  assert.equal(
    withTask({ type: "image-classification", image: { ...IMAGE, fit: "letterbox" }, labels: null, scores: "logits" }),
    "manifest-invalid",
  );
  assert.equal(
    withTask({ type: "image-classification", image: { ...IMAGE, crop: 0 }, labels: null, scores: "logits" }),
    "manifest-invalid",
  );
  assert.equal(
    withTask({ type: "image-classification", image: IMAGE, labels: [1], scores: "logits" }),
    "manifest-invalid",
  );
  const detection = {
    type: "object-detection",
    image: IMAGE,
    labels: [],
    decoder: "yolox",
    strides: [8],
    score_threshold: 0.3,
    iou_threshold: 0.5,
  };
  assert.equal(withTask(detection), "sound");
  assert.equal(withTask({ ...detection, iou_threshold: 1.1 }), "manifest-invalid");
  assert.equal(withTask({ ...detection, decoder: "detr" }), "manifest-invalid");
});

test("the message names the field", () => {
  const manifest = fixture("graph");
  manifest.memory.max_threads = 65;
  assert.throws(
    () => parseManifest(new TextEncoder().encode(JSON.stringify(manifest))),
    /`memory\.max_threads` is 65, allowed are 1 to 64/,
  );
});
