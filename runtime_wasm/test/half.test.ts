import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeHalves, encodeHalves } from "../src/session/half.js";

const codes = Uint16Array.from({ length: 65536 }, (_, i) => i);

test("every code of a 16-bit float survives decoding and encoding", () => {
  for (const dtype of ["float16", "bfloat16"] as const) {
    const values = decodeHalves(dtype, codes);
    const again = encodeHalves(dtype, values);
    for (const code of codes) if (!Number.isNaN(values[code])) assert.equal(again[code], code);
  }
});

test("16-bit floats are what they should be", () => {
  const wanted: [number, number][] = [
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0001, 2 ** -24],
    [0x0400, 2 ** -14],
    [0x7c00, Infinity],
  ];
  for (const [code, value] of wanted) assert.equal(decodeHalves("float16", Uint16Array.of(code))[0], value);
  assert.equal(decodeHalves("bfloat16", Uint16Array.of(0x3f80))[0], 1);
  assert.ok(Number.isNaN(decodeHalves("float16", Uint16Array.of(0x7e01))[0]));
});

test("encoding rounds to nearest even", () => {
  const halfway = Float32Array.of(1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519, 65520, 2 ** -25, 3 * 2 ** -25);
  assert.deepEqual([...encodeHalves("float16", halfway)], [0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 2]);
  const wide = Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, NaN, -Infinity);
  assert.deepEqual([...encodeHalves("bfloat16", wide)], [0x3f80, 0x3f82, 0x7fc0, 0xff80]);
});
