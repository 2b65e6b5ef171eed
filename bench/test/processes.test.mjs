import assert from "node:assert/strict";
import { test } from "node:test";
import { available, largestPeakBytes, threadTimes, waitingShare } from "../lib/processes.mjs";

test("only the busiest threads count as the contender's", () => {
  const before = new Map([["worker", { ran: 1, waited: 1 }]]);
  const after = new Map([
    ["worker", { ran: 4, waited: 2 }],
    ["idle", { ran: 0.001, waited: 5 }],
  ]);
  assert.equal(waitingShare(before, after, 1), 0.25);
  assert.equal(waitingShare(null, null, 1), null);
  assert.equal(waitingShare(after, after, 1), null);
});

test("this process has run, where the system tells", () => {
  const own = threadTimes(process.pid)?.get(String(process.pid));
  assert.equal(own ? own.ran > 0 : null, available ? true : null);
  assert.equal(largestPeakBytes(process.pid) > 2 ** 20, available);
});
