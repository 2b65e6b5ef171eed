import assert from "node:assert/strict";
import { test } from "node:test";
import { Gate } from "../src/load/gate.js";
import { failsWith } from "./helpers.js";

const MiB = 2 ** 20;

/** Lets files of these sizes ask at once; says which have been let in. */
function ask(gate: Gate, sizes: number[], fromNetwork: boolean): () => Promise<number[]> {
  const entered: number[] = [];
  sizes.forEach((bytes, index) => void gate.enter(bytes, fromNetwork).then(() => entered.push(index)));
  return async () => {
    await new Promise((resolve) => setImmediate(resolve));
    return entered;
  };
}

const newGate = (): Gate => new Gate(new AbortController().signal);

test("downloads follow each other with little overlap, in order", async () => {
  const gate = newGate();
  const entered = ask(gate, [16 * MiB, 2.5 * MiB, 0.5 * MiB, 0.5 * MiB], true);
  assert.deepEqual(await entered(), [0]);
  gate.expect(-16 * MiB);
  gate.fetched();
  assert.deepEqual(await entered(), [0], "it lies in memory");
  gate.freed(16 * MiB);
  assert.deepEqual(await entered(), [0, 1]);
  gate.expect(-0.25 * MiB);
  assert.deepEqual(await entered(), [0, 1], "2.25 MiB are still to come");
  gate.expect(-0.25 * MiB);
  assert.deepEqual(await entered(), [0, 1, 2]);
  gate.expect(-2 * MiB);
  gate.fetched();
  assert.deepEqual(await entered(), [0, 1, 2], "both lie in memory");
  gate.freed(2.5 * MiB);
  assert.deepEqual(await entered(), [0, 1, 2, 3]);
});

test("a try that is given up is to come again", async () => {
  const gate = newGate();
  const entered = ask(gate, [2.5 * MiB, 0.5 * MiB], true);
  gate.expect(-0.25 * MiB);
  gate.expect(0.25 * MiB);
  gate.expect(-0.25 * MiB);
  assert.deepEqual(await entered(), [0]);
  gate.expect(-0.25 * MiB);
  assert.deepEqual(await entered(), [0, 1]);
});

test("small files come together, but not more than four; stored ones do not count", async () => {
  const gate = newGate();
  const entered = ask(gate, [1, 2, 3, 4, 5, 6], true);
  assert.deepEqual(await entered(), [0, 1, 2, 3]);
  gate.fetched();
  assert.deepEqual(await entered(), [0, 1, 2, 3, 4], "although its memory is not free");
});

test("files of the cache are held back by memory alone; one alone may exceed it", async () => {
  const gate = newGate();
  const entered = ask(gate, [1.5 * MiB, 1.5 * MiB, 1.5 * MiB, 64 * MiB], false);
  assert.deepEqual(await entered(), [0, 1]);
  for (const expected of [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]) {
    gate.fetched();
    gate.freed(1.5 * MiB);
    assert.deepEqual(await entered(), expected);
  }
});

test("an abort sends everybody home", async () => {
  const controller = new AbortController();
  const gate = new Gate(controller.signal);
  await gate.enter(32 * MiB, true);
  const waiting = gate.enter(1, true);
  controller.abort();
  await failsWith("aborted", waiting);
  await failsWith("aborted", gate.enter(1, true));
});
