// The page of the documentation about all shapes, from one saved result for each.

import { judge } from "./measure.mjs";
import { DISTURBED, disturbed, mebibytes, rows } from "./report.mjs";
import { marked } from "./tables.mjs";

const OTHERS = ["wllama-2", "onnxruntime-web", "llama.cpp"];

/** How often as fast as another one edgec is, both with one thread; "-" where one of them is not there. */
export function ratioTo(other, measure, entries) {
  const [verdict] = judge([{ measure, of: "edgec", over: [other], atLeast: 0 }], entries);
  return verdict ? `${verdict.ratio.toFixed(2)}x` : "-";
}

/**
 * @param {object[]} results of run.mjs with `--shape`, summarized; `compile` is what timed.py wrote, where it is known
 * @param {string} picture file name of the plot beside the page
 */
export function shapesPage(results, picture) {
  const [{ machine, browser, date, peers, work, model }] = results;
  const ratios = results.map(({ model: { name }, entries }) => [
    name,
    ...OTHERS.flatMap((other) => ["prefill", "decode"].map((measure) => ratioTo(other, measure, entries))),
  ]);
  const sizes = results.map(({ model: each, compile }) => [
    each.name,
    (each.parameters / 1e6).toFixed(0),
    compile ? compile.seconds.toFixed(0) : "-",
    mebibytes(compile?.peakBytes),
    mebibytes(each.downloadBytes),
    mebibytes(each.chatBytes),
    String(each.chatTokens),
  ]);
  return `# Benchmarks of other shapes

This page is written by \`make bench-shapes\`; [bench/README.md](../bench/README.md) says how it measures, and [benchmarks.md](benchmarks.md) has a
trained model. These have the real dimensions of well-known models, and **random weights**: speed and memory are those of the real
ones, the text is nonsense.

${machine.cores} cores (${machine.processor}), ${machine.memoryGiB} GiB, ${browser}, ${date}. edgec ${model.edgec}, wllama ${peers["wllama-2"]}, onnxruntime-web ${peers["onnxruntime-web"]}.
Tokens per second, medians of ${work.rounds} round${work.rounds > 1 ? "s" : ""}.

## edgec against others, one thread
${marked([["", ...OTHERS.flatMap((other) => [`prefill, ${other}`, `decode, ${other}`])], ...ratios])}

![Tokens per second of each engine and shape](${picture})

## Compiling, and memory
*peak*: largest resident memory of \`edgec compile\`. *memory*: of the WebAssembly instance after a chat of so many tokens.

${marked([["", "million parameters", "compile s", "peak MiB", "download MiB", "memory MiB", "tokens"], ...sizes])}

${results.map(section).join("\n\n")}
`;
}

function section(result) {
  const { model, work, entries } = result;
  return `## ${model.name}
Dimensions of ${model.config}. Prefill of ${work.promptTokens} tokens, decode of ${work.decodeTokens}, profile \`${model.profile}\`.${fewer(entries)}

${marked(rows(result))}${entries.some(disturbed) ? `\n\n\\* ${DISTURBED}.` : ""}`;
}

/** Who decodes less than the others, see contenders.mjs. */
function fewer(entries) {
  const [slow] = entries.filter(({ decodeTokens }) => decodeTokens);
  return slow ? ` ${slow.label} decodes ${slow.decodeTokens}, it would take minutes otherwise.` : "";
}
