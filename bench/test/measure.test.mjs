import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { CONTENDERS, choose } from "../lib/contenders.mjs";
import { KINDS } from "../lib/graphs.mjs";
import { judge, measureAll, summarizeEntries } from "../lib/measure.mjs";
import { turn } from "../lib/tokens.mjs";

const WORK = { turn, unit: "tok/s", rounds: 3, retries: 2, prompt: "long", shortPrompt: "short", promptTokens: 512, decodeTokens: 64 };
const QUIET = () => {};

/** An engine that takes exactly as long as it is told, and notes what it is asked. */
function engine({ prefillSeconds = 1, decodeSeconds = 1, tokens = 512, failAt = Infinity } = {}, calls = []) {
  return {
    calls,
    loadSeconds: 0.5,
    version: "Test/1",
    stopped: false,
    async prefill(text) {
      calls.push(text);
      if (calls.length > failAt) throw new Error("out of memory");
      return { tokens: text === "short" ? 12 : tokens, seconds: prefillSeconds };
    },
    async decode(count) {
      calls.push(count);
      return { tokens: count, seconds: decodeSeconds, text: "..." };
    },
    describe: async () => ({ variant: "test", threads: 1 }),
    threadTimes: () => null,
    peakBytes: () => null,
    prioritize: QUIET,
    async stop() {
      this.stopped = true;
    },
  };
}

test("everybody is warmed up once and then measured in every round", async () => {
  const engines = { a: engine({ prefillSeconds: 2 }), b: engine() };
  const entries = await measureAll([{ id: "a" }, { id: "b" }], async ({ id }) => engines[id], WORK, QUIET);
  assert.deepEqual(engines.a.calls, Array(4).fill(["long", 64, "short", 64]).flat());
  assert.deepEqual(entries[0].turns.map(({ prefill }) => prefill.speed), [256, 256, 256]);
  assert.ok(engines.a.stopped && engines.b.stopped);
  assert.equal(entries[1].loadSeconds, 0.5);
});

test("the order changes from round to round", async () => {
  const order = [];
  const start = async ({ id }) => ({ ...engine(), prioritize: () => order.push(id) });
  await measureAll([{ id: "a" }, { id: "b" }], start, WORK, QUIET);
  assert.deepEqual(order, ["a", "b", "a", "b", "b", "a", "a", "b"]);
});

test("a disturbed turn is repeated, and the least disturbed one counts", async () => {
  const waits = [0, 0.5, 0.2, 0.3]; // the warm-up, then one round
  let [clock, asked] = [0, 0];
  const own = engine();
  const threadTimes = () => {
    // Two readings for each of the three measures of a turn: before and after one second.
    const wait = waits[Math.floor(asked / 6)];
    if (asked++ % 2) clock += 1;
    return new Map([["1", { ran: clock * (1 - wait), waited: clock * wait }]]);
  };
  const [entry] = await measureAll([{ id: "a", threads: 1 }], async () => ({ ...own, threadTimes }), { ...WORK, rounds: 1 }, QUIET);
  assert.equal(own.calls.length, 4 * 4);
  assert.equal(entry.turns.length, 1);
  assert.equal(summarizeEntries([entry])[0].disturbance.toFixed(1), "0.2");
});

test("a contender that fails is reported and the others go on", async () => {
  const engines = { a: engine({ failAt: 4 }), b: engine() };
  const entries = await measureAll([{ id: "a" }, { id: "b" }], async ({ id }) => engines[id], WORK, QUIET);
  assert.equal(entries[0].failure, "out of memory");
  assert.ok(engines.a.stopped);
  assert.equal(entries[1].turns.length, 3);
  assert.equal(summarizeEntries(entries)[0].summary, null);
});

test("a contender that cannot be started is reported", async () => {
  const start = async () => {
    throw new Error("no such browser");
  };
  assert.equal((await measureAll([{ id: "a" }], start, WORK, QUIET))[0].failure, "no such browser");
});

test("another number of prompt tokens is a failure, not a faster engine", async () => {
  const [entry] = await measureAll([{ id: "a" }], async () => engine({ tokens: 500 }), WORK, QUIET);
  assert.match(entry.failure, /500 tokens here, not 512/);
});

const turns = (...speeds) => speeds.map((speed) => ({ prefill: { speed, waiting: 0 } }));

test("a goal compares with the fastest rival", () => {
  const goal = { name: "speed", measure: "prefill", of: "edgec", over: ["slow", "fast"], atLeast: 3 };
  const entries = [
    { id: "edgec", turns: turns(120, 130, 110) },
    { id: "slow", turns: turns(10, 10, 10) },
    { id: "fast", turns: turns(40, 43, 50) },
  ];
  const [verdict] = judge([goal], entries);
  assert.equal(verdict.rival, "fast");
  assert.equal(verdict.ratio, 3);
  assert.equal(verdict.reached, true);
});

test("a goal without its contenders is left out", () => {
  const goal = { name: "speed", measure: "prefill", of: "edgec", over: ["gone"], atLeast: 3 };
  assert.deepEqual(judge([goal], [{ id: "edgec", turns: turns(1) }]), []);
  assert.deepEqual(judge([goal], [{ id: "gone", turns: turns(1) }]), []);
});

test("contenders are chosen by id, native ones only when asked for", () => {
  assert.deepEqual(choose(["wllama-3", "edgec"]).map(({ id }) => id), ["edgec", "wllama-3"]);
  assert.ok(choose([]).every(({ engine }) => engine !== "llama.cpp"));
  assert.throws(() => choose(["nobody"]), /there is no `nobody`/);
});

test("those with a browser of their own take part where both browsers are asked for, or by name", () => {
  const inFirefox = (list) => list.filter(({ browser }) => browser === "firefox").map(({ id }) => id);
  assert.deepEqual(inFirefox(choose([])), []);
  assert.ok(inFirefox(choose([], { both: true })).includes("edgec-firefox"));
  assert.deepEqual(inFirefox(choose(["edgec", "edgec-firefox"])), ["edgec-firefox"]);
});

test("who has a browser of his own is the same as somebody in the others', but for that", () => {
  for (const { id, browser, beside, ...rest } of CONTENDERS.filter(({ browser }) => browser)) {
    const { id: _, ...other } = CONTENDERS.find((one) => one.id === beside);
    assert.deepEqual(rest, other, id);
  }
});

test("who runs in a browser has a page", () => {
  for (const { id, engine, page = engine } of [...CONTENDERS, ...KINDS]) {
    const native = ["llama.cpp", "onnxruntime"].includes(engine);
    assert.equal(existsSync(new URL(`../pages/${page}.mjs`, import.meta.url)), !native, id);
  }
});

test("onnxruntime-web takes part where there is an ONNX file", () => {
  const engines = (models) => choose([], models).map(({ engine }) => engine);
  assert.ok(!engines({}).includes("onnxruntime-web") && engines({ onnx: true }).includes("onnxruntime-web"));
  assert.throws(() => choose(["onnxruntime-web"]), /needs --onnx/);
});

test("a slow contender may decode less", async () => {
  const own = engine();
  await measureAll([{ id: "slow", decodeTokens: 8 }], async () => own, { ...WORK, rounds: 1 }, QUIET);
  assert.deepEqual(own.calls, Array(2).fill(["long", 8, "short", 8]).flat());
});
