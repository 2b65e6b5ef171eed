import assert from "node:assert/strict";
import { test } from "node:test";

import { UPPER_HALVES } from "../src/engine/halves.js";

const source = Uint8Array.from({ length: 32 }, (_, i) => (i * 37 + 11) & 255);

function merged(op: "upper4" | "upper8" | "upper16"): Uint8Array {
  const target = new Uint8Array(64);
  UPPER_HALVES[op]!(target, source);
  return target;
}

test("upper halves of 4, 8 and 16 bits go where the format says", () => {
  const [nibbles, bytes, words] = [merged("upper4"), merged("upper8"), merged("upper16")];
  for (let i = 0; i < 32; i++) {
    assert.deepEqual([nibbles[2 * i], nibbles[2 * i + 1]], [(source[i] & 15) << 4, source[i] & 0xf0]);
    assert.deepEqual([bytes[2 * i], bytes[2 * i + 1]], [0, source[i]]);
  }
  for (let i = 0; i < 16; i++) {
    assert.deepEqual([...words.subarray(4 * i, 4 * i + 4)], [0, 0, source[2 * i], source[2 * i + 1]]);
  }
});

test("what is there already stays", () => {
  const target = new Uint8Array(64).fill(0x81);
  UPPER_HALVES.upper8!(target, source);
  assert.deepEqual([target[0], target[1]], [0x81, 0x81 | source[0]]);
});
