// What the pages that run graphs share: the inputs, the clock, and how far outputs are from the reference.

const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

/** A workload that make_graphs.py made; tensors are `{name, dtype, shape, data}`. */
export async function loadCase(workload) {
  const folder = `/graphs/workloads/${workload}`;
  const { inputs, outputs, sizes } = await (await fetch(`${folder}/case.json`)).json();
  const read = async ({ file, ...slot }) => ({ ...slot, data: new ARRAYS[slot.dtype](await (await fetch(`${folder}/${file}`)).arrayBuffer()) });
  return { inputs: await Promise.all(inputs.map(read)), outputs: await Promise.all(outputs.map(read)), sizes };
}

/**
 * Calls for so many seconds, at least three times. `call` resolves to outputs by name, which have `data`.
 * @returns {Promise<{seconds: number, fastest: number, calls: number, error: {cosine: number, largest: number}}>}
 *   `seconds` of the median call and of the fastest one
 */
export async function measure(call, expected, seconds) {
  const times = [];
  const until = performance.now() + seconds * 1000;
  let outputs;
  while (times.length < 3 || performance.now() < until) {
    const started = performance.now();
    outputs = await call();
    times.push(performance.now() - started);
  }
  times.sort((a, b) => a - b);
  const errors = expected.map(({ name, data }) => errorOf(outputs[name].data, data));
  return { seconds: times[times.length >> 1] / 1000, fastest: times[0] / 1000, calls: times.length, error: worst(errors) };
}

/** `cosine` of the two as vectors, and the `largest` difference as a part of the largest expected value. */
export function errorOf(actual, expected) {
  if (actual.length !== expected.length) throw new Error(`the output has ${actual.length} values, not ${expected.length}`);
  let [dot, squares, expectedSquares, difference, highest] = [0, 0, 0, 0, 0];
  for (let i = 0; i < expected.length; i++) {
    dot += actual[i] * expected[i];
    squares += actual[i] ** 2;
    expectedSquares += expected[i] ** 2;
    difference = Math.max(difference, Math.abs(actual[i] - expected[i])); // NaN stays NaN
    highest = Math.max(highest, Math.abs(expected[i]));
  }
  return { cosine: dot / Math.sqrt(squares * expectedSquares), largest: difference / highest };
}

/** Of several outputs, or several runs, the worst of each number. */
export function worst(errors) {
  return { cosine: Math.min(...errors.map(({ cosine }) => cosine)), largest: Math.max(...errors.map(({ largest }) => largest)) };
}
