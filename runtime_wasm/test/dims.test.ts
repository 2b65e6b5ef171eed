import assert from "node:assert/strict";
import { test } from "node:test";
import { evaluate } from "../src/bundle/dims.js";

test("expressions", () => {
  const values = { batch: 2, "sequence.length": 7, zero: 0 };
  const cases: [string | number, number][] = [
    [5, 5],
    ["batch", 2],
    ["2*sequence.length + 1", 15],
    ["(batch + 3) * 2 // 3", 3],
    ["7 // 2 * 2", 6],
    ["batch - sequence.length", -5],
    ["(batch - sequence.length) // 2", -3],
    ["(0-7)//(0-2)", 3],
    ["9007199254740991 // 1", 9007199254740991],
    ["9007199254740991 // 2", 4503599627370495],
    [" batch ", 2],
  ];
  for (const [text, expected] of cases) assert.equal(evaluate(text, values), expected, String(text));
});

test("what is refused", () => {
  for (const text of [
    "",
    "batch +",
    "2 3",
    "-1",
    "batch // zero",
    "a",
    "(batch",
    "batch)",
    "1.5",
    "2**3",
    "batch / 2",
    "9007199254740992",
    "9007199254740991 + 1",
    "b\tc",
    "1+".repeat(70) + "1",
  ]) {
    assert.throws(() => evaluate(text, { batch: 2, zero: 0, b: 1, c: 1 }), RangeError, text);
  }
  assert.throws(() => evaluate("constructor", {}), /unknown dimension/);
});
