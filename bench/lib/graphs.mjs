// Graphs: who runs them, what a turn is, and what is asked of edgec.

import { checkIds } from "./command.mjs";
import { judge, summarizeEntries, timed } from "./measure.mjs";
import { worst } from "../pages/case.mjs";

/** Each takes part once for every number of threads. `precision` names the ONNX file; edgec has its bundle. */
export const KINDS = [
  { id: "edgec", engine: "edgec", page: "edgec-graph", label: "edgec" },
  { id: "edgec-simd128", engine: "edgec", page: "edgec-graph", label: "edgec, plain SIMD", variant: "simd128" },
  { id: "ort-web", engine: "onnxruntime-web", page: "onnxruntime-web-graph", label: "onnxruntime-web", precision: "float32" },
  { id: "ort-web-int8", engine: "onnxruntime-web", page: "onnxruntime-web-graph", label: "onnxruntime-web, int8", precision: "int8" },
  { id: "ort", engine: "onnxruntime", label: "native", precision: "float32" },
  { id: "ort-int8", engine: "onnxruntime", label: "native, int8", precision: "int8" },
];
const RIVALS = ["ort-web", "ort-web-int8"];

/** Outputs further from the reference are no longer an answer. */
export const LEAST_COSINE = 0.95;

export const idOf = (kind, threads) => (threads > 1 ? `${kind}-${threads}t` : kind);

/** @param {string[]} ids empty: everybody who runs in a browser @param {boolean} native the others too */
export function chooseKinds(ids, native) {
  checkIds(ids, KINDS);
  const isNative = ({ engine }) => engine === "onnxruntime";
  return KINDS.filter((kind) => (isNative(kind) && native) || (ids.length ? ids.includes(kind.id) : !isNative(kind)));
}

/** The kinds that can run the model, once for every number of threads. */
export function contendersOf(model, kinds, threadCounts) {
  const able = kinds.filter(({ precision }) => precision !== "int8" || model.int8);
  return threadCounts.flatMap((threads) =>
    able.map((kind) => ({ ...kind, id: idOf(kind.id, threads), kind: kind.id, threads, variant: variantOf(kind, threads) })),
  );
}

function variantOf({ variant }, threads) {
  return variant && threads > 1 ? `${variant}-threads` : variant;
}

/** One turn: `work.seconds` of calls, from tensors to tensors. */
export async function turn(engine, { threads }, work) {
  const run = await timed(engine, threads, async () => {
    const { seconds, ...rest } = await engine.run(work.seconds);
    return { speed: 1 / seconds, ...rest };
  });
  return { run };
}

/** Adds what follows from the turns: each contender's summary, error and fastest call, and edgec's `verdicts`. */
export function conclude(workload, threadCounts) {
  if (workload.skipped) return workload;
  const entries = summarizeEntries(workload.entries).map((entry) => {
    const turns = entry.turns.filter(Boolean);
    return turns.length ? { ...entry, error: worst(turns.map(({ run }) => run.error)), fastest: Math.min(...turns.map(({ run }) => run.fastest)) } : entry;
  });
  const verdicts = threadCounts.flatMap((threads) => {
    const over = RIVALS.map((id) => idOf(id, threads));
    const goal = { name: workload.title, measure: "run", of: idOf("edgec", threads), over, atLeast: workload.goal ?? 0 };
    return judge([goal], entries).map((verdict) => ({ ...verdict, threads }));
  });
  return { ...workload, entries, verdicts };
}
