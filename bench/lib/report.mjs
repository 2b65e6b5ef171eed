// The same result as a table for a terminal and as a page of the documentation.

import { UNDISTURBED, judge } from "./measure.mjs";
import { aligned, marked } from "./tables.mjs";
import { MEASURES } from "./tokens.mjs";

const MIB = 2 ** 20;
const TITLES = { prefill: "prefill", decode: "decode", decodeShort: "decode, short" };

const speed = (summary) => (summary ? (summary.median < 10 ? summary.median.toFixed(2) : summary.median.toFixed(1)) : "-");
const spread = (summary) => (summary ? `${summary.lowest.toFixed(1)}-${summary.highest.toFixed(1)}` : "");
export const mebibytes = (bytes) => (bytes ? (bytes / MIB).toFixed(0) : "-");
const kilobytes = (bytes) => (bytes ? (bytes / 1000).toFixed(0) : "-");
const seconds = (value) => (value === undefined ? "-" : value.toFixed(2));

/** Whether others kept the contender from running; false where the system does not tell. */
export function disturbed({ disturbance }) {
  return (disturbance ?? 0) > UNDISTURBED;
}

/** Not so those that run in a browser of their own, whatever the others do. */
export const inMainBrowser = ({ browser }) => !browser;

const named = (entry) => [entry.label + (entry.failure ? ` (failed: ${entry.failure})` : "") + (disturbed(entry) ? " *" : ""), String(entry.threads)];

export function rows({ entries }) {
  const header = ["", "threads", ...MEASURES.map((measure) => `${TITLES[measure]} tok/s`), "load s", "code kB", "peak MiB", "wasm MiB"];
  const body = entries.filter(inMainBrowser).map((entry) => [
    ...named(entry),
    ...MEASURES.map((measure) => speed(entry.summary?.[measure])),
    seconds(entry.loadSeconds),
    kilobytes(entry.codeBytes),
    mebibytes(entry.peakBytes),
    mebibytes(entry.memoryBytes),
  ]);
  return [header, ...body];
}

/** Those who ran in Firefox, beside the same in the other browser; only the header where there are none. */
export function firefoxRows({ entries }) {
  const header = ["Firefox", "threads", ...MEASURES.flatMap((measure) => [`${TITLES[measure]} tok/s`, "of Chromium's"])];
  const ratio = (entry, measure) => {
    const [verdict] = entry.summary ? judge([{ measure, of: entry.id, over: [entry.beside], atLeast: 0 }], entries) : [];
    return verdict ? `${verdict.ratio.toFixed(2)}x` : "-";
  };
  const inFirefox = entries.filter((entry) => !inMainBrowser(entry));
  return [header, ...inFirefox.map((entry) => [...named(entry), ...MEASURES.flatMap((measure) => [speed(entry.summary?.[measure]), ratio(entry, measure)])])];
}

function goalLines({ goals }) {
  return goals.map(({ name, rival, ratio, atLeast, reached }) => ({
    name,
    text: `${ratio.toFixed(2)}x of ${rival} (goal: at least ${Number(atLeast.toFixed(2))}x)`,
    reached,
  }));
}

/** Says of a run at another priority why that was. */
export const otherWork = (niceness) => (niceness ? ` The machine had other work too; all contenders ran at niceness ${niceness}.` : "");

export const DISTURBED = "others used the processors meanwhile, so this is slower than the machine can";

/** @returns {string} */
export function terminal(result) {
  const { machine, browser, work, model } = result;
  const head = `${model.name}, ${browser}, ${machine.cores} cores (${machine.processor}), medians of ${work.rounds} rounds`;
  const goals = goalLines(result).map(({ name, text, reached }) => `${reached ? "reached " : "MISSED  "} ${name}: ${text}`);
  const note = result.entries.some(disturbed) ? [`* ${DISTURBED}`] : [];
  const firefox = firefoxRows(result);
  return [head, "", ...aligned(rows(result)), ...(firefox.length > 1 ? ["", ...aligned(firefox)] : []), ...note, "", ...goals].join("\n");
}

/** @returns {string} the page; `picture` is the file name of the plot beside it */
export function markdown(result, picture) {
  const { machine, browser, work, model, peers, date, niceness } = result;
  const spreads = result.entries
    .filter(({ summary }) => summary)
    .map(({ label, threads, summary, browser: own }) => [own ? `${label}, Firefox` : label, String(threads), ...MEASURES.map((measure) => spread(summary[measure]))]);
  const edgec = result.entries.find(({ engine, memoryBytes }) => engine === "edgec" && memoryBytes);
  return `# Benchmarks

This page is written by \`make bench BENCH_FLAGS="--browser both --report docs/benchmarks.md"\`; [bench/README.md](../bench/README.md) says how it measures.

${model.name} (${(model.parameters / 1e6).toFixed(0)} million parameters) on ${machine.cores} cores (${machine.processor}), ${machine.memoryGiB} GiB, ${browser}, ${date}.
edgec ${model.edgec}, profile \`${model.profile}\`; wllama ${versions(result)} on a Q4_0 GGUF made from the same file,
onnxruntime-web ${peers["onnxruntime-web"] ?? "-"} on an ONNX file with that one's 4-bit values.
Tokens per second, medians of ${work.rounds} rounds in which everybody takes a turn: *prefill* of ${work.promptTokens} tokens, *decode* of ${work.decodeTokens} tokens after
them, and *decode, short*: the same after a prompt of one sentence.${otherWork(niceness)}

${marked(rows(result))}
${result.entries.some(disturbed) ? `\n\\* ${DISTURBED}.\n` : ""}
![Tokens per second of each engine](${picture})

## Goals
${goalLines(result)
  .map(({ name, text, reached }) => `- ${name}: ${text}, ${reached ? "reached" : "**missed**"}`)
  .join("\n")}

${firefoxSection(result)}## Size and memory
- *code*: scripts and WebAssembly that the page loads, compressed with brotli; edgec's counts every script of the package.
- *load*: from importing the engine to being able to answer, over loopback, nothing cached.
- *peak*: largest resident memory of the tab's process. *wasm*: size of the model's WebAssembly memory.
${edgec ? `- edgec's weights: ${mebibytes(model.downloadBytes)} MiB to download, ${mebibytes(model.weightBytes)} MiB in memory; keys and values of ${work.promptTokens + work.decodeTokens} tokens at ${model.kvBits} bits: ${mebibytes(model.kvBytes)} MiB; all the rest of its memory: ${mebibytes(edgec.memoryBytes - model.weightBytes - model.kvBytes)} MiB.` : ""}

## Lowest and highest
${marked([["", "threads", ...MEASURES.map((measure) => TITLES[measure])], ...spreads])}
`;
}

/** The releases of wllama that took part. */
const versions = ({ entries, peers }) =>
  ["wllama-2", "wllama-3"].filter((id) => entries.some(({ engine }) => engine === id)).map((id) => peers[id]).join(" and ") || "-";

function firefoxSection(result) {
  const table = firefoxRows(result);
  if (table.length < 2) return "";
  return `## Firefox
${result.firefox ?? "Firefox"}, in turns with the others. The ratios are medians of the rounds' ratios to the same contender in Chromium.

${marked(table)}

`;
}
