import assert from "node:assert/strict";
import { test } from "node:test";
import { graphMarkdown, graphPlot, graphTerminal } from "../lib/graph_report.mjs";
import { chooseKinds, conclude, contendersOf, turn } from "../lib/graphs.mjs";
import { errorOf, measure, worst } from "../pages/case.mjs";

test("the error is that of the outputs as vectors, and their largest difference", () => {
  assert.deepEqual(errorOf([3, 4], [3, 4]), { cosine: 1, largest: 0 });
  assert.deepEqual(errorOf([0, 2], [4, 0]), { cosine: 0, largest: 1 });
  assert.ok(Number.isNaN(errorOf([NaN, 1], [1, 1]).largest));
  assert.throws(() => errorOf([1], [1, 2]), /1 values, not 2/);
});

test("of several errors the worst counts", () => {
  assert.deepEqual(worst([{ cosine: 1, largest: 0.5 }, { cosine: 0.9, largest: 0.1 }]), { cosine: 0.9, largest: 0.5 });
});

test("a graph is called at least three times, and its outputs are found by name", async () => {
  const call = async () => ({ b: { data: [1, 1] }, a: { data: [2, 0] } });
  const { calls, seconds, fastest, error } = await measure(call, [{ name: "a", data: [2, 0] }, { name: "b", data: [1, 2] }], 0);
  assert.equal(calls, 3);
  assert.ok(seconds >= fastest && fastest >= 0);
  assert.equal(error.largest, 0.5);
});

test("kinds are chosen by id, native ones only when asked for", () => {
  assert.deepEqual(chooseKinds(["ort-web", "edgec"], false).map(({ id }) => id), ["edgec", "ort-web"]);
  assert.deepEqual(chooseKinds(["edgec"], true).map(({ id }) => id), ["edgec", "ort", "ort-int8"]);
  assert.ok(chooseKinds([], false).every(({ engine }) => engine !== "onnxruntime"));
  assert.throws(() => chooseKinds(["nobody"], false), /there is no `nobody`/);
});

test("everybody who can run the model takes part with every number of threads", () => {
  const contenders = contendersOf({}, chooseKinds([], false), [1, 2]);
  assert.deepEqual(contenders.map(({ id }) => id), ["edgec", "edgec-simd128", "ort-web", "edgec-2t", "edgec-simd128-2t", "ort-web-2t"]);
  assert.deepEqual(contenders.filter(({ variant }) => variant).map(({ variant }) => variant), ["simd128", "simd128-threads"]);
  assert.ok(contendersOf({ int8: true }, chooseKinds([], false), [1]).some(({ id }) => id === "ort-web-int8"));
});

test("a turn is runs per second, and keeps their error", async () => {
  const error = { cosine: 1, largest: 0 };
  const engine = { run: async (seconds) => ({ seconds: seconds / 4, fastest: 0.25, calls: 4, error }), threadTimes: () => null };
  assert.deepEqual(await turn(engine, { threads: 1 }, { seconds: 2 }), { run: { speed: 2, fastest: 0.25, calls: 4, error, waiting: null } });
});

const turns = (cosine, ...speeds) => speeds.map((speed) => ({ run: { speed, fastest: 0.9 / speed, waiting: 0, error: { cosine, largest: 1 - cosine } } }));
const entry = (kind, threads, rest) => ({ id: threads > 1 ? `${kind}-${threads}t` : kind, kind, engine: kind.split("-")[0], label: kind, threads, ...rest });
const WORKLOAD = {
  id: "a",
  title: "Model <a>",
  goal: 2,
  entries: [
    entry("edgec", 1, { turns: turns(0.99, 30, 20), loadSeconds: 1, peakBytes: 2 ** 27 }),
    entry("ort-web", 1, { turns: turns(1, 6, 4) }),
    entry("ort-web-int8", 1, { turns: turns(0.5, 20, 16) }),
    entry("edgec", 2, { turns: turns(0.99, 40, 40) }),
    entry("ort-web", 2, { turns: [], failure: "no memory" }),
    entry("ort-web-int8", 2, { turns: turns(0.5, 10, 10) }),
  ],
};
const RESULT = {
  date: "2026-01-02",
  machine: { processor: "Test Processor", cores: 2, memoryGiB: 8 },
  browser: "Chrome/1",
  niceness: 0,
  work: { rounds: 2, seconds: 1, threads: [1, 2] },
  edgec: { version: "0.1.0", profile: "laptop-8gb" },
  peers: { "onnxruntime-web": "1.30.0" },
  workloads: [conclude(WORKLOAD, [1, 2]), { id: "b", title: "Model b", skipped: "not there" }],
};

test("edgec is compared with the fastest file at the same number of threads", () => {
  const { verdicts } = RESULT.workloads[0];
  assert.deepEqual(verdicts.map(({ rival, ratio, threads }) => [rival, ratio, threads]), [["ort-web-int8", 1.375, 1], ["ort-web-int8-2t", 4, 2]]);
  assert.deepEqual(verdicts.map(({ reached }) => reached), [false, true]);
});

test("without a goal there is a ratio and nothing to miss", () => {
  const [verdict] = conclude({ ...WORKLOAD, goal: undefined }, [1]).verdicts;
  assert.equal(verdict.ratio, 1.375);
  assert.equal(verdict.reached, true);
});

test("the terminal shows times, wrong answers, failures and verdicts", () => {
  const text = graphTerminal(RESULT);
  assert.match(text, /^Model <a> +40\.0 +200 +55\.6 ! +1\.38x$/m);
  assert.match(text, /^Model <a> +25\.0 +failed +100 ! +4\.00x$/m);
  assert.match(text, /^Model <a> +0\.9900, 1\.0 % /m);
  assert.match(text, /^Model <a> +30\.0 +150 +45\.0$/m);
  assert.match(text, /ort-web, 2 threads, failed: no memory/);
  assert.match(text, /Model b: skipped: not there/);
  assert.match(text, /MISSED +Model <a>, 1 thread: 1\.38x of ort-web-int8 \(goal: at least 2x\)/);
});

test("the page names versions, machine and date", () => {
  const page = graphMarkdown(RESULT, "graphs.svg");
  for (const part of ["1.30.0", "Test Processor", "2026-01-02", "(graphs.svg)", "## 2 threads", "**missed**", "## Not measured", "1.0 s, 128 MiB"]) {
    assert.ok(page.includes(part), part);
  }
  assert.ok(!/NaN|undefined|Infinity/.test(page));
});

test("the plot has a panel for each workload and a bar for each who ran", () => {
  const picture = graphPlot(RESULT);
  assert.equal(picture.match(/<rect /g).length, 5);
  assert.ok(picture.includes("Model &#60;a&#62; (runs per second)"));
  assert.ok(!/NaN|undefined|Infinity/.test(picture));
});
