import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import type { Manifest } from "../src/bundle/manifest.js";
import { createMemory, readDoorbell, ringLeave, type ThreadStart } from "../src/engine/engine.js";
import { FIXTURES, ROOT, readJson } from "./helpers.js";

const manifest = readJson<Manifest>(join(FIXTURES, "graph/manifest.json"));
const control = manifest.memory.control.offset;

/** thread.js as the pool starts it, as thread 1 of 2; the test plays the coordinator. */
async function startThread(
  alarm: string,
): Promise<{ worker: Worker; memory: WebAssembly.Memory; nextReport: () => Promise<unknown> }> {
  const module = await WebAssembly.compile(readFileSync(join(FIXTURES, "graph/module.simd128-threads.wasm")));
  const memory = createMemory(manifest, true);
  const worker = new Worker(join(ROOT, "dist/thread.js"));
  const nextReport = (): Promise<unknown> => new Promise((resolve) => worker.once("message", resolve));
  const entries = Object.keys(manifest.entry_points)
    .sort()
    .map((name) => ({ name, parameters: manifest.entry_points[name].length }));
  const start: ThreadStart = {
    module,
    memory,
    layout: manifest.memory,
    tid: 1,
    threads: 2,
    entries,
    doorbell: readDoorbell(memory, control),
  };
  const ready = nextReport();
  worker.postMessage({ start, alarm });
  assert.deepEqual(await ready, { type: "ready" });
  return { worker, memory, nextReport };
}

function ring(memory: WebAssembly.Memory, entry: number, ...parameters: number[]): void {
  const words = new Int32Array(memory.buffer);
  words[(control + 68) / 4] = entry;
  words.set(parameters, (control + 72) / 4);
  Atomics.add(words, (control + 64) / 4, 1);
  Atomics.notify(words, (control + 64) / 4);
}

test("a thread does its share at each ring of the doorbell, and leaves when told", async () => {
  const { worker, memory } = await startThread("edgec-test-share");
  const input = manifest.inputs[0].offset / 4;
  const output = manifest.outputs[0].offset / 4;
  for (const round of [1, 2]) {
    new Float32Array(memory.buffer).fill(round, input, input + 8);
    ring(memory, 0, 2);
    const words = new Int32Array(memory.buffer);
    while (Atomics.load(words, control / 4) === 0) await new Promise((resolve) => setTimeout(resolve, 1)); // arrived at the barrier
    const y = new Float32Array(memory.buffer).slice(output, output + 8);
    assert.deepEqual(
      Array.from(y),
      Array.from(y, (_, i) => (i % 2 === 1 ? 2 * round : 0)),
      "the odd ones",
    );
    Atomics.store(words, control / 4, 0);
    Atomics.add(words, control / 4 + 1, 1);
    Atomics.notify(words, control / 4 + 1);
  }
  ringLeave(memory, control);
  await worker.terminate();
});

test("a thread that traps cries out, since the coordinator waits for it in the barrier", async () => {
  const alarm = new BroadcastChannel("edgec-test-trap");
  const heard = new Promise<string>(
    (resolve) => (alarm.onmessage = (event) => resolve((event as MessageEvent<string>).data)),
  );
  const { worker, memory, nextReport } = await startThread("edgec-test-trap");
  const report = nextReport();
  ring(memory, 0, 2 ** 28);
  assert.deepEqual(await report, { type: "failed", message: await heard });
  assert.match(await heard, /out of bounds/);
  alarm.close();
  await worker.terminate();
});
