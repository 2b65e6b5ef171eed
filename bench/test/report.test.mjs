import assert from "node:assert/strict";
import { test } from "node:test";
import { plot } from "../lib/plot.mjs";
import { disturbed, markdown, terminal } from "../lib/report.mjs";

const speeds = (value) => ({ median: value, lowest: value * 0.9, highest: value * 1.1, count: 5 });
const summary = { prefill: speeds(120), decode: speeds(50), decodeShort: speeds(5.25) };
const RESULT = {
  date: "2026-01-02",
  machine: { processor: "Test Processor", cores: 2, memoryGiB: 8 },
  browser: "Chrome/1",
  niceness: 0,
  work: { rounds: 5, promptTokens: 512, decodeTokens: 64, contextLength: 1024 },
  model: { name: "tiny <model>", parameters: 1e6, edgec: "0.1.0", profile: "laptop-8gb", downloadBytes: 5e6, weightBytes: 2 ** 20, kvBytes: 2 ** 20, kvBits: 8 },
  peers: { "wllama-2": "2.4.0", "wllama-3": "3.13.0", "onnxruntime-web": "1.23.0" },
  entries: [
    { id: "edgec", engine: "edgec", label: "edgec", threads: 1, disturbance: 0, memoryBytes: 4 * 2 ** 20, loadSeconds: 1, codeBytes: 67000, summary },
    { id: "wllama-3", engine: "wllama-3", label: "wllama 3", threads: 2, disturbance: 0.3, summary },
    { id: "broken", engine: "wllama-2", label: "wllama 2", threads: 1, failure: "no memory", summary: null },
  ],
  goals: [{ name: "prefill", rival: "wllama-3", ratio: 1, atLeast: 6, reached: false }],
};

test("who had to wait was disturbed", () => {
  assert.equal(disturbed({ disturbance: 0.2 }), true);
  assert.equal(disturbed({ disturbance: 0.01 }), false);
  assert.equal(disturbed({}), false);
});

test("the terminal's table has a row for each, marks and verdicts", () => {
  const text = terminal(RESULT);
  assert.match(text, /^edgec +1 +120\.0 +50\.0 +5\.25 +1\.00 +67 +- +4$/m);
  assert.match(text, /^wllama 3 \* /m);
  assert.match(text, /failed: no memory/);
  assert.match(text, /MISSED +prefill: 1\.00x of wllama-3 \(goal: at least 6x\)/);
});

test("Firefox has a section of its own, with ratios to the same in the other browser", () => {
  const turns = (...speeds) => speeds.map((speed) => ({ prefill: { speed }, decode: { speed }, decodeShort: { speed } }));
  const [edgec, ...others] = RESULT.entries;
  const firefox = [
    { id: "edgec-firefox", engine: "edgec", label: "edgec", threads: 1, browser: "firefox", beside: "edgec", summary, turns: turns(90, 100, 80) },
    { id: "wllama-2-firefox", engine: "wllama-2", label: "wllama 2", threads: 1, browser: "firefox", beside: "broken", failure: "gone", summary: null, turns: [] },
  ];
  const entries = [{ ...edgec, turns: turns(100, 100, 100) }, ...others, ...firefox];
  const result = { ...RESULT, firefox: "firefox/1", entries };
  const page = markdown(result, "benchmarks.svg");
  const section = page.slice(page.indexOf("## Firefox"), page.indexOf("## Size"));
  assert.match(section, /^firefox\/1, in turns/m);
  assert.match(section, /^\| edgec \| 1 \| 120\.0 \| 0\.90x \| 50\.0 \| 0\.90x \| 5\.25 \| 0\.90x \|$/m);
  assert.match(section, /^\| wllama 2 \(failed: gone\) \| 1 \| - \| - /m);
  assert.match(page, /^\| edgec, Firefox \| 1 \| 108\.0-132\.0 /m);
  assert.equal(page.match(/^\| edgec \| 1 \| 120\.0 \| 50/gm).length, 1);
  assert.match(terminal(result), /^Firefox +threads +prefill tok\/s +of Chromium's/m);
  assert.equal(plot(result), plot(RESULT));
  assert.ok(!markdown(RESULT, "").includes("## Firefox") && !terminal(RESULT).includes("Firefox"));
});

test("the page names versions, machine and date, and what is left of the memory", () => {
  const page = markdown(RESULT, "benchmarks.svg");
  for (const part of ["2.4.0", "3.13.0", "1.23.0", "Test Processor", "2026-01-02", "(benchmarks.svg)", "**missed**", "all the rest of its memory: 2 MiB"]) {
    assert.ok(page.includes(part), part);
  }
  const widths = page.split("\n").filter((line) => line.startsWith("| ")).map((line) => line.split("|").length);
  assert.deepEqual([...new Set(widths)], [11, 7]);
});

test("the plot is one well-formed picture without raw markup from names", () => {
  const picture = plot(RESULT);
  assert.equal(picture.match(/<rect /g).length, 6);
  assert.ok(picture.includes("tiny &#60;model&#62;"));
  assert.ok(!/NaN|undefined|Infinity/.test(picture));
});
