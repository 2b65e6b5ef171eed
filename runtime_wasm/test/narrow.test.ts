import assert from "node:assert/strict";
import { test } from "node:test";

import { mergeScaled, NARROW } from "../src/engine/narrow.js";

const source = Uint8Array.from({ length: 32 }, (_, i) => (i * 37 + 11) & 255);

function merged(op: "upper4" | "scale8" | "upper16"): Uint8Array {
  const target = new Uint8Array(64);
  NARROW[op]!(target, source);
  return target;
}

test("narrow forms go where the format says", () => {
  const [nibbles, bytes, words] = [merged("upper4"), merged("scale8"), merged("upper16")];
  for (let i = 0; i < 32; i++) {
    assert.deepEqual([nibbles[2 * i], nibbles[2 * i + 1]], [(source[i] & 15) << 4, source[i] & 0xf0]);
    assert.deepEqual([bytes[2 * i], bytes[2 * i + 1]], [(source[i] & 3) << 6, source[i] >> 2]);
  }
  for (let i = 0; i < 16; i++) {
    assert.deepEqual([...words.subarray(4 * i, 4 * i + 4)], [0, 0, source[2 * i], source[2 * i + 1]]);
  }
});

test("what is there already stays", () => {
  const target = new Uint8Array(64).fill(0x81);
  NARROW.scale8!(target, source);
  assert.deepEqual([target[0], target[1]], [0x81 | ((source[0] & 3) << 6), 0x81 | (source[0] >> 2)]);
});

test("signed bytes are multiplied with the scale of their column", () => {
  const bytes = new Uint8Array(64).fill(255);
  // 0.0078125 (0x3c00) and -3 (0xc040) as bfloat16, then rows of two
  mergeScaled(bytes.subarray(0, 16), Uint8Array.of(0x00, 0x3c, 0x40, 0xc0, 127, 1, 0x80, 0xff), 2);
  assert.deepEqual([...new Float32Array(bytes.buffer, 0, 4)], [0.9921875, -3, -1, 3]);
  assert.equal(bytes[16], 255);
});
