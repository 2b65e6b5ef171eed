// The result of graphs.mjs as tables for a terminal, as a page of the documentation, and as a plot.

import { KINDS, LEAST_COSINE } from "./graphs.mjs";
import { barsOf, inThreads, picture } from "./plot.mjs";
import { DISTURBED, disturbed, mebibytes, otherWork } from "./report.mjs";
import { aligned, marked } from "./tables.mjs";

const WRONG = `the cosine with the reference is below ${LEAST_COSINE}: not the model's answer`;

const wrong = ({ error }) => Boolean(error) && !(error.cosine >= LEAST_COSINE);
const measured = ({ workloads }) => workloads.filter(({ skipped }) => !skipped);
const entriesOf = (result) => measured(result).flatMap(({ entries }) => entries);
const presentKinds = (result) => KINDS.filter(({ id }) => entriesOf(result).some(({ kind }) => kind === id));

const milliseconds = (seconds) => (seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0);

function medianTime(entry) {
  if (!entry) return "-";
  if (!entry.summary) return "failed";
  return `${milliseconds(1 / entry.summary.run.median)}${disturbed(entry) ? " *" : ""}${wrong(entry) ? " !" : ""}`;
}

/** A row for each workload, a column for each kind of contender. */
function table(result, threads, cell) {
  const kinds = presentKinds(result);
  const rows = measured(result).map(({ title, entries }) => {
    const find = (id) => entries.find((entry) => entry.kind === id && entry.threads === threads);
    return [title, ...kinds.map(({ id }) => cell(find(id)))];
  });
  return [["", ...kinds.map(({ label }) => label)], ...rows];
}

function times(result, threads) {
  const [header, ...rows] = table(result, threads, medianTime);
  const ratio = (index) => measured(result)[index].verdicts.find((verdict) => verdict.threads === threads)?.ratio;
  return [[...header, "edgec is faster"], ...rows.map((row, index) => [...row, ratio(index) === undefined ? "-" : `${ratio(index).toFixed(2)}x`])];
}

function fastest(result, threads) {
  return table(result, threads, (entry) => (entry?.summary ? milliseconds(entry.fastest) : "-"));
}

function errors(result) {
  const percent = (value) => `${(value * 100).toFixed(value < 0.001 ? 3 : 1)} %`;
  return table(result, result.work.threads[0], (entry) => {
    if (!entry?.error) return "-";
    const { cosine, largest } = entry.error;
    return Number.isFinite(cosine) && Number.isFinite(largest) ? `${cosine.toFixed(4)}, ${percent(largest)}` : "not a number";
  });
}

function loading(result) {
  return table(result, result.work.threads[0], (entry) => {
    if (entry?.loadSeconds === undefined) return "-";
    return `${entry.loadSeconds.toFixed(1)} s, ${mebibytes(entry.peakBytes)} MiB`;
  });
}

function goalLines(result) {
  const verdicts = measured(result).flatMap((workload) => workload.verdicts);
  return verdicts
    .filter(({ atLeast }) => atLeast)
    .map(({ name, threads, rival, ratio, atLeast, reached }) => ({
      text: `${name}, ${inThreads(threads)}: ${ratio.toFixed(2)}x of ${rival} (goal: at least ${atLeast}x)`,
      reached,
    }));
}

function notes(result) {
  const skipped = result.workloads.filter((workload) => workload.skipped).map(({ title, skipped }) => `${title}: skipped: ${skipped}`);
  const failed = measured(result).flatMap(({ title, entries }) =>
    entries.filter(({ failure }) => failure).map(({ label, threads, failure }) => `${title}: ${label}, ${inThreads(threads)}, failed: ${failure}`),
  );
  return [...skipped, ...failed];
}

function legend(result) {
  return [...(entriesOf(result).some(disturbed) ? [`* ${DISTURBED}`] : []), ...(entriesOf(result).some(wrong) ? [`! ${WRONG}`] : [])];
}

/** @returns {string} */
export function graphTerminal(result) {
  const { machine, browser, work } = result;
  const head = `${browser}, ${machine.cores} cores (${machine.processor}), medians of ${work.rounds} rounds`;
  const sections = work.threads.map((threads) => [`milliseconds, ${inThreads(threads)}`, ...aligned(times(result, threads))]);
  const calls = work.threads.map((threads) => [`fastest call, ${inThreads(threads)}`, ...aligned(fastest(result, threads))]);
  const accuracy = ["cosine with float32, largest difference", ...aligned(errors(result))];
  const goals = goalLines(result).map(({ text, reached }) => `${reached ? "reached " : "MISSED  "} ${text}`);
  const parts = [[head], ...sections, legend(result), ...calls, accuracy, notes(result), goals].filter((lines) => lines.length);
  return parts.map((lines) => lines.join("\n")).join("\n\n");
}

/** @returns {string} bars of runs per second, a panel for each workload */
export function graphPlot(result) {
  const panels = measured(result).map(({ title, entries }) => ({ title: `${title} (runs per second)`, bars: barsOf(entries, "run") }));
  return picture("Runs per second of each engine and model", panels.filter(({ bars }) => bars.length));
}

/** @returns {string} the page; `file` is the name of the plot beside it */
export function graphMarkdown(result, file) {
  const { machine, browser, work, edgec, peers, date, niceness } = result;
  const list = (lines) => lines.map((line) => `- ${line}`).join("\n");
  const sections = work.threads.map((threads) => `## ${inThreads(threads)}\n${marked(times(result, threads))}`);
  const goals = goalLines(result).map(({ text, reached }) => `${text}, ${reached ? "reached" : "**missed**"}`);
  return `# Benchmarks of graphs

This page is written by \`make bench-graphs BENCH_FLAGS="--report docs/benchmarks-graphs.md"\`; [bench/README.md](../bench/README.md) says how it measures.

${machine.cores} cores (${machine.processor}), ${machine.memoryGiB} GiB, ${browser}, ${date}. edgec ${edgec.version}, profile \`${edgec.profile}\`;
onnxruntime-web ${peers["onnxruntime-web"]} (its WebAssembly build)${peers.onnxruntime ? `, native: onnxruntime ${peers.onnxruntime}` : ""}. Every engine gets the same ONNX file and the same inputs;
*int8* is onnxruntime's dynamic quantization of it.${otherWork(niceness)}
Milliseconds from the call to its outputs, medians of ${work.rounds} rounds in which everybody takes a turn; *edgec is faster* compares with
the faster file in onnxruntime-web.

${[...sections, ...legend(result).map((line) => line.replace("*", "\\*"))].join("\n\n")}

![Runs per second of each engine](${file})

## Goals
${list(goals)}

## Fastest call
${work.threads.map((threads) => `Milliseconds, ${inThreads(threads)}:\n\n${marked(fastest(result, threads))}`).join("\n\n")}

## Distance from float32
Cosine with the outputs of native onnxruntime in float32, and the largest difference as a part of the largest output.

${marked(errors(result))}

## Loading
From importing the engine to being able to run, over loopback, nothing cached; and the largest resident memory of the tab's process.

${marked(loading(result))}
${notes(result).length ? `\n## Not measured\n${list(notes(result))}\n` : ""}`;
}
