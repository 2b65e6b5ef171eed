/** What moves between the page and its model worker. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { buffersOf, moving } from "../src/api/protocol.js";

type Sent = Record<string, { data: Float32Array; shape: number[] } & Uint8Array>;

function sent(inputs: unknown): [Sent, ArrayBuffer[]] {
  const [message, buffers] = moving({ type: "call", id: 1, method: "run", args: [inputs, "graph"] });
  const { args } = message as { args: unknown[] };
  assert.equal(args[1], "graph");
  return [args[0] as Sent, buffers];
}

test("large inputs are copied, so that the caller keeps his own", () => {
  const whole = Float32Array.from({ length: 40_000 }, (_, i) => i);
  const inputs = {
    part: { data: whole.subarray(10_000), shape: [1, 30_000] },
    bare: new BigInt64Array(10_000).fill(-3n),
    node: Buffer.alloc(1 << 16, 7),
    small: { data: new Int32Array(4), shape: [4] },
    list: { data: [1, 2], shape: [2] },
  };
  const [copies, buffers] = sent(inputs);
  const arrived = structuredClone(copies, { transfer: buffers });
  assert.deepEqual(Object.keys(arrived), Object.keys(inputs));
  assert.deepEqual(arrived.part, { data: whole.slice(10_000), shape: [1, 30_000] });
  assert.deepEqual(arrived.bare, inputs.bare);
  assert.deepEqual(arrived.node, new Uint8Array(1 << 16).fill(7));
  assert.deepEqual([arrived.small, arrived.list], [inputs.small, inputs.list]);
  assert.deepEqual(
    buffers.map(({ byteLength }) => byteLength),
    [0, 0, 0], // they moved
  );
  assert.equal(whole.length, 40_000);
  assert.equal(inputs.bare.length, 10_000);
});

test("what is no graph's input goes as it is", () => {
  for (const inputs of [undefined, null, { x: undefined }, { x: { data: new DataView(new ArrayBuffer(1 << 17)) } }]) {
    assert.deepEqual(sent(inputs), [inputs, []]);
  }
  const other = { type: "call" as const, id: 2, method: "embed" as const, args: [["text"]] };
  assert.deepEqual(moving(other), [other, []]);
});

test("tensors of a graph move back", () => {
  const data = new Float32Array(3);
  assert.deepEqual(buffersOf("run", { y: { dtype: "float32", shape: [3], data } }), [data.buffer]);
  assert.deepEqual(buffersOf("stats", { threads: 1 }), []);
});
