/** Choosing the next token, to the bit as docs/runtime-abi.md says and as the Python runtime does. */

import { EdgecError } from "../errors.js";
import { exp64 } from "../exp64.js";

export interface SamplingOptions {
  /** 0 is greedy. */
  temperature?: number;
  /** Keeps the most probable tokens; 0 switches this off. */
  topK?: number;
  /** Keeps the fewest tokens whose probabilities add up to this; 1 switches this off. */
  topP?: number;
  /** Keeps tokens at least this probable in relation to the best; 0 switches this off. */
  minP?: number;
  /** Above 1 makes tokens that are already there less likely; 1 switches this off. */
  repetitionPenalty?: number;
  /** Same seed, same tokens, in every runtime: 0 to 2^32 - 1. */
  seed?: number;
}

export type Sampling = Required<SamplingOptions>;

const LIMITS: Record<
  keyof Sampling,
  [name: string, initial: number, allowed: (value: number) => boolean, words: string]
> = {
  temperature: ["temperature", 0, (value) => value >= 0 && value < Infinity, "0 or more"],
  topK: ["top_k", 0, (value) => Number.isInteger(value) && value >= 0, "a whole number, 0 or more"],
  topP: ["top_p", 1, (value) => value > 0 && value <= 1, "more than 0, at most 1"],
  minP: ["min_p", 0, (value) => value >= 0 && value <= 1, "0 to 1"],
  repetitionPenalty: ["repetition_penalty", 1, (value) => value > 0 && value < Infinity, "more than 0"],
  seed: [
    "seed",
    0,
    (value) => Number.isInteger(value) && value >= 0 && value <= 0xffffffff,
    "a whole number from 0 to 4294967295",
  ],
};

/** `options` over the bundle's `generation` over the defaults. */
export function resolveSampling(options: SamplingOptions, generation: Record<string, unknown>): Sampling {
  const result = {} as Sampling;
  for (const key of Object.keys(LIMITS) as (keyof Sampling)[]) {
    const [name, initial, allowed, words] = LIMITS[key];
    const value = options[key] ?? generation[name] ?? initial;
    if (typeof value !== "number" || !allowed(value))
      throw new EdgecError("invalid-argument", `\`${key}\` is ${value}, allowed is ${words}`);
    result[key] = value;
  }
  return result;
}

/** xoshiro128** seeded by splitmix32; `uniform()` is a double in [0, 1). */
export class Random {
  private readonly words: Int32Array;

  constructor(seed: number) {
    this.words = Int32Array.from({ length: 4 }, () => {
      let z = (seed = (seed + 0x9e3779b9) | 0);
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return z ^ (z >>> 15);
    });
  }

  private next(): number {
    const s = this.words;
    const rotated = Math.imul(s[1], 5);
    const result = Math.imul((rotated << 7) | (rotated >>> 25), 9);
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  uniform(): number {
    const a = this.next() >>> 5;
    const b = this.next() >>> 6;
    return (a * 67108864 + b) / 9007199254740992;
  }
}

/**
 * Candidates whose p is below exp(-37) < 2^-53 leave every sum as it is, since the sums start with p[0] = 1, and no draw can
 * reach them, since `uniform() * sum` rounds to less than `sum`. So they need not be sorted.
 */
const NEGLIGIBLE = -37;

/** Samples one answer: holds the random state. */
export class Sampler {
  private readonly random: Random;
  private scores = new Float64Array(0);

  constructor(private readonly options: Sampling) {
    this.random = new Random(options.seed);
  }

  /** The next id. `seen`: distinct ids of prompt and answer so far. Throws on a logit that is not a number. */
  sample(logits: Float32Array, seen: Iterable<number>): number {
    const scores = this.penalised(logits, seen);
    const best = indexOfLargest(scores);
    if (this.options.temperature === 0) return best;
    return this.draw(scores, scores[best]);
  }

  private penalised(logits: Float32Array, seen: Iterable<number>): Float32Array | Float64Array {
    const { repetitionPenalty: penalty, temperature } = this.options;
    if (penalty === 1 && temperature === 0) return logits;
    if (this.scores.length !== logits.length) this.scores = new Float64Array(logits.length);
    this.scores.set(logits);
    if (penalty !== 1) {
      for (const id of seen)
        this.scores[id] = this.scores[id] > 0 ? this.scores[id] / penalty : this.scores[id] * penalty;
    }
    return this.scores;
  }

  private draw(scores: Float32Array | Float64Array, largest: number): number {
    const { temperature, topK, topP, minP } = this.options;
    let values = Float64Array.from(scores.filter((score) => (score - largest) / temperature >= NEGLIGIBLE));
    values.sort().reverse();
    if (topK > 0) values = values.subarray(0, topK);
    let p = values.map((value) => exp64((value - largest) / temperature));
    if (topP < 1) p = p.subarray(0, prefixReaching(p, topP * sum(p)));
    if (minP > 0) p = p.subarray(0, countAtLeast(p, minP));
    const u = this.random.uniform() * sum(p);
    let running = 0;
    let index = 0;
    for (; index < p.length - 1; index++) {
      running += p[index];
      if (running > u) break;
    }
    return idOfRank(scores, values, index);
  }
}

function indexOfLargest(scores: Float32Array | Float64Array): number {
  let best = 0;
  let largest = scores[0];
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id];
    if (score <= largest) continue; // false for what is not a number
    if (score !== score) throw new EdgecError("trap", "the model computed a logit that is not a number");
    best = id;
    largest = score;
  }
  return best;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** Length of the shortest prefix whose sum is at least `wanted`. */
function prefixReaching(p: Float64Array, wanted: number): number {
  let running = 0;
  for (let i = 0; i < p.length; i++) {
    running += p[i];
    if (running >= wanted) return i + 1;
  }
  return p.length;
}

/** `p` descends. */
function countAtLeast(p: Float64Array, least: number): number {
  let count = 0;
  while (count < p.length && p[count] >= least) count++;
  return count;
}

/** The id at `index` of the order (score descending, id ascending), given only the sorted scores. */
function idOfRank(scores: Float32Array | Float64Array, sorted: Float64Array, index: number): number {
  const value = sorted[index];
  let among = index - sorted.indexOf(value);
  for (let id = 0; ; id++) {
    if (scores[id] === value && among-- === 0) return id;
  }
}
