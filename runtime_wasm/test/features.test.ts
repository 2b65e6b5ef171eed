import assert from "node:assert/strict";
import { test } from "node:test";
import type { Manifest, Variant } from "../src/bundle/manifest.js";
import { type Features, chooseVariant, defaultThreads, detectFeatures } from "../src/engine/features.js";
import { EdgecError } from "../src/errors.js";

const ALL: Features = {
  simd128: true,
  relaxed: true,
  relaxed16: true,
  int32SumsAreSlow: false,
  threads: true,
};

function manifest(...variants: Variant[]): Pick<Manifest, "modules" | "memory"> {
  const modules = Object.fromEntries(
    variants.map((variant) => [variant, `module.${variant}.wasm`]),
  ) as Manifest["modules"];
  return { modules, memory: { max_threads: 4 } as Manifest["memory"] };
}

const FULL = manifest("simd128", "relaxed", "relaxed16", "simd128-threads", "relaxed-threads", "relaxed16-threads");

function choice(
  features: Partial<Features>,
  wanted: { variant?: Variant; threads?: number } = {},
  hardware = 8,
  bundle = FULL,
): string {
  try {
    const { variant, threads } = chooseVariant(bundle, { ...ALL, ...features }, wanted, hardware);
    return `${variant} ${threads}`;
  } catch (error) {
    assert.ok(error instanceof EdgecError);
    return error.code;
  }
}

test("the best module that runs here", () => {
  assert.equal(choice({}), "relaxed-threads 4");
  assert.equal(choice({}, {}, 2), "relaxed-threads 2");
  assert.equal(choice({}, {}, 1), "relaxed 1");
  assert.equal(choice({}, { threads: 1 }), "relaxed 1");
  assert.equal(choice({}, { threads: 64 }), "relaxed-threads 4");
  assert.equal(choice({ threads: false }), "relaxed 1");
  assert.equal(choice({ int32SumsAreSlow: true }), "relaxed16-threads 4");
  assert.equal(choice({ int32SumsAreSlow: true, threads: false }), "relaxed16 1");
  assert.equal(choice({ int32SumsAreSlow: true, relaxed16: false }), "relaxed-threads 4");
  assert.equal(choice({ relaxed: false }), "relaxed16-threads 4");
  assert.equal(choice({ relaxed: false, relaxed16: false }), "simd128-threads 4");
  assert.equal(choice({ relaxed: false, relaxed16: false, threads: false }), "simd128 1");
  assert.equal(choice({}, {}, 8, manifest("simd128")), "simd128 1");
  assert.equal(choice({ simd128: false }), "unsupported-browser");
});

test("a module that was asked for", () => {
  assert.equal(choice({}, { variant: "simd128" }), "simd128 1");
  assert.equal(choice({}, { variant: "simd128-threads", threads: 3 }), "simd128-threads 3");
  assert.equal(choice({ relaxed: false }, { variant: "relaxed" }), "unsupported-browser");
  assert.equal(choice({ relaxed16: false }, { variant: "relaxed16-threads" }), "unsupported-browser");
  assert.equal(choice({ threads: false }, { variant: "relaxed-threads" }), "unsupported-browser");
  assert.equal(choice({}, { variant: "relaxed" }, 8, manifest("simd128")), "invalid-argument");
});

test("threads by default", () => {
  assert.deepEqual([1, 2, 4, 6, 8, 16].map(defaultThreads), [1, 2, 4, 4, 4, 8]);
});

test("this engine", () => {
  const features = detectFeatures();
  assert.equal(features.simd128, true);
  assert.equal(features.threads, true);
  if (process.version.startsWith("v20.")) assert.deepEqual([features.relaxed, features.relaxed16], [false, false]);
});
