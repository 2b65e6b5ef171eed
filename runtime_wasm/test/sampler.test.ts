import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { EdgecError } from "../src/errors.js";
import { exp, exp64 } from "../src/exp64.js";
import { Random, Sampler, type Sampling, resolveSampling } from "../src/text/sampler.js";
import { ROOT, readJson } from "./helpers.js";

interface Case {
  logits_seed: number;
  count: number;
  scale: number;
  prompt: number[];
  options: Record<string, number>;
  ids: number[];
}

const NEUTRAL: Sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

function logitsOf({ logits_seed, count, scale }: Case): Float32Array {
  const random = new Random(logits_seed);
  return Float32Array.from({ length: count }, () => (Math.floor(random.uniform() * 4096) / 4096) * scale);
}

for (const item of readJson<Case[]>(join(ROOT, "../tests/run/sampler_cases.json"))) {
  test(`the same ids as in Python: ${JSON.stringify(item.options)}`, () => {
    const sampler = new Sampler(resolveSampling({}, item.options));
    const seen = new Set(item.prompt);
    for (const expected of item.ids) {
      assert.equal(sampler.sample(logitsOf(item), seen), expected);
      seen.add(expected);
    }
  });
}

/** The specification word for word, with everything sorted. */
function reference(logits: Float32Array, seen: Iterable<number>, options: Sampling, random: Random): number {
  const l = Array.from(logits);
  if (options.repetitionPenalty !== 1)
    for (const id of seen) l[id] = l[id] > 0 ? l[id] / options.repetitionPenalty : l[id] * options.repetitionPenalty;
  let candidates = [...l.keys()].sort((a, b) => l[b] - l[a] || a - b);
  if (options.temperature === 0) return candidates[0];
  if (options.topK > 0) candidates = candidates.slice(0, options.topK);
  let p = candidates.map((id) => exp64((l[id] - l[candidates[0]]) / options.temperature));
  const add = (values: number[]): number => values.reduce((a, b) => a + b, 0);
  if (options.topP < 1) {
    const total = add(p);
    let running = 0;
    p = p.slice(0, p.findIndex((value) => (running += value) >= options.topP * total) + 1);
  }
  if (options.minP > 0) p = p.filter((value) => value >= options.minP);
  const u = random.uniform() * add(p);
  let running = 0;
  const found = p.findIndex((value) => (running += value) > u);
  return candidates[found < 0 ? p.length - 1 : found];
}

test("the fast sampler is the slow one", () => {
  const choose = new Random(77);
  const pick = <T>(values: T[]): T => values[Math.floor(choose.uniform() * values.length)];
  for (let round = 0; round < 400; round++) {
    const options: Sampling = {
      temperature: pick([0, 0.1, 0.7, 1, 3]),
      topK: pick([0, 1, 3, 100]),
      topP: pick([0.05, 0.5, 0.99, 1]),
      minP: pick([0, 0.05, 0.5, 1]),
      repetitionPenalty: pick([0.7, 1, 1.3]),
      seed: round,
    };
    const scale = pick([1, 7, 200]); // with 200, most candidates are negligible
    const logits = Float32Array.from(
      { length: pick([1, 5, 300]) },
      () => Math.round((choose.uniform() - 0.5) * 40) * scale * 0.1,
    );
    const sampler = new Sampler(options);
    const random = new Random(round);
    const seen = new Set<number>();
    for (let step = 0; step < 4; step++) {
      const id = sampler.sample(logits, seen);
      assert.equal(id, reference(logits, seen, options, random), JSON.stringify({ options, round, step }));
      seen.add(id);
    }
  }
});

test("exp64 is exact enough", () => {
  for (let x = 0; x > -700; x -= 0.37) assert.ok(Math.abs(exp64(x) / Math.exp(x) - 1) < 5e-16, String(x));
  assert.equal(exp64(0), 1);
  assert.equal(exp64(-701), 0);
  for (let x = 0; x < 700; x += 0.37) assert.ok(Math.abs(exp(x) / Math.exp(x) - 1) < 1e-15, String(x));
  assert.equal(exp(800), Infinity);
});

test("not a number is an error", () => {
  for (const temperature of [0, 1]) {
    for (const logits of [
      [NaN, 1],
      [1, NaN],
    ]) {
      assert.throws(
        () => new Sampler({ ...NEUTRAL, temperature }).sample(Float32Array.from(logits), []),
        /not a number/,
      );
    }
  }
});

test("options go before the bundle, the bundle before the defaults, and bad ones are named", () => {
  assert.deepEqual(resolveSampling({ topK: 7 }, { temperature: 0.5, top_k: 3, do_sample: true }), {
    ...NEUTRAL,
    temperature: 0.5,
    topK: 7,
  });
  for (const [key, value] of Object.entries({
    temperature: -1,
    topP: 0,
    topK: 1.5,
    minP: 2,
    seed: -1,
    repetitionPenalty: 0,
  })) {
    assert.throws(
      () => resolveSampling({ [key]: value }, {}),
      (error) => error instanceof EdgecError && error.message.includes(`\`${key}\` is ${value}`),
    );
  }
});
