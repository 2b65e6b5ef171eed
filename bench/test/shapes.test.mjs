import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { plotShapes } from "../lib/plot.mjs";
import { SHAPES, shapeNamed } from "../lib/shapes.mjs";
import { ratioTo, shapesPage } from "../lib/shapes_page.mjs";

/** As the models' own pages count them. */
const PARAMETERS = { stories15M: 15_191_712, "Qwen2.5-0.5B": 494_032_768, "Llama-3.2-1B": 1_235_814_400 };

function parameters({ architecture, hidden, intermediate, layers, heads, kv_heads, vocabulary }) {
  const keys = (hidden / heads) * kv_heads;
  const biases = architecture === "qwen2" ? hidden + 2 * keys : 0;
  const layer = 2 * hidden * hidden + 2 * hidden * keys + biases + 3 * hidden * intermediate + 2 * hidden;
  return vocabulary * hidden + layers * layer + hidden;
}

test("shapes are those of the models that they are named after", () => {
  assert.deepEqual(Object.fromEntries(Object.entries(SHAPES).map(([name, shape]) => [name, parameters(shape)])), PARAMETERS);
  assert.throws(() => shapeNamed("GPT-5"), /there is no shape `GPT-5`; there are stories15M/);
});

test("each shape's work fits into its context, and its prompt into the file", () => {
  const prompt = readFileSync(new URL("../prompt.txt", import.meta.url), "utf8");
  for (const { work, context } of Object.values(SHAPES)) {
    assert.ok(work.promptTokens + work.decodeTokens < work.contextLength && work.contextLength <= context);
    assert.ok(work.promptTokens < work.promptCharacters && work.promptCharacters < prompt.length);
  }
});

const measured = (speed) => ({ prefill: { speed }, decode: { speed: speed / 10 }, decodeShort: { speed } });
const summary = (speed) => ({ prefill: level(speed), decode: level(speed / 10), decodeShort: level(speed) });
const level = (median) => ({ median, lowest: median, highest: median, count: 1 });
const entry = (id, speed) => ({ id, engine: id, label: id, threads: 1, turns: [measured(speed)], summary: summary(speed), disturbance: 0 });

const RESULT = {
  date: "2026-01-02",
  machine: { processor: "Test Processor", cores: 2, memoryGiB: 8 },
  browser: "Chrome/1",
  work: { rounds: 1, promptTokens: 128, decodeTokens: 16 },
  model: { name: "tiny", config: "org/tiny", parameters: 1e6, edgec: "0.1.0", profile: "laptop-8gb", downloadBytes: 2 ** 20, chatBytes: 3 * 2 ** 20, chatTokens: 256 },
  peers: { "wllama-2": "2.3.1", "onnxruntime-web": "1.23.0" },
  entries: [entry("edgec", 300), entry("wllama-2", 100)],
  compile: { seconds: 12.3, peakBytes: 5 * 2 ** 20 },
};

test("ratios are those of one thread, and absent without the other", () => {
  assert.equal(ratioTo("wllama-2", "prefill", RESULT.entries), "3.00x");
  assert.equal(ratioTo("llama.cpp", "decode", RESULT.entries), "-");
});

test("the page has every shape in every table, and the plot a panel for each of its two measures", () => {
  const page = shapesPage([RESULT, { ...RESULT, model: { ...RESULT.model, name: "other" }, compile: undefined }], "shapes.svg");
  for (const name of ["tiny", "other"]) assert.match(page, new RegExp(`^\\| ${name} \\| 3\\.00x \\| 3\\.00x \\| - \\|`, "m"));
  assert.match(page, /^\| tiny \| 1 \| 12 \| 5 \| 1 \| 3 \| 256 \|$/m);
  assert.match(page, /^\| other \| 1 \| - \| - \|/m);
  assert.ok(page.includes("Dimensions of org/tiny. Prefill of 128 tokens, decode of 16") && !/undefined|NaN/.test(page));
  const picture = plotShapes([RESULT, RESULT]);
  assert.equal(picture.match(/<rect /g).length, 8);
  assert.ok(picture.includes("tiny: Prefill, 128 tokens") && !/undefined|NaN/.test(picture));
});
