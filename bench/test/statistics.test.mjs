import assert from "node:assert/strict";
import { test } from "node:test";
import { median, pairedRatio, summarize } from "../lib/statistics.mjs";

test("median of odd and even counts, whatever the order", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([10, 9]), 9.5);
});

test("the summary names the extremes", () => {
  assert.deepEqual(summarize([3, 10, 2]), { median: 3, lowest: 2, highest: 10, count: 3 });
});

test("a paired ratio is not moved by what slows a whole round down", () => {
  assert.equal(pairedRatio([100, 10, 100], [50, 5, 50]), 2);
});

test("rounds that one of the two missed do not count", () => {
  assert.equal(pairedRatio([100, 90, undefined], [50, undefined, 10]), 2);
  assert.equal(pairedRatio([1], []), null);
});
