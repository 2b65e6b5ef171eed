/** Bundles with speech tasks: the graphs that they need. Twin of `edgec/bundle/speech.py`. */

import type { Field } from "./json.js";
import type { Manifest } from "./manifest.js";
import type { SpeechDetectionTask, TranscriptionTask } from "./task.js";

/** The graphs that transcribing calls, and that what the task names fits them. */
export function checkTranscription(
  root: Field,
  task: TranscriptionTask,
  { graphs, entry_points, inputs, outputs, dims }: Pick<Manifest, "graphs" | "entry_points" | "inputs" | "outputs" | "dims">,
): void {
  const field = root.at("task");
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
  const { encode, decode } = graphs;
  if (!same(encode?.inputs, ["audio"]) || !same(decode?.inputs, ["tokens"]))
    throw field.fail("needs the graphs `encode`, which reads `audio`, and `decode`, which reads `tokens`");
  if (!same(decode.outputs, ["logits"])) throw field.fail("needs a graph `decode` that writes `logits`");
  const audio = inputs.find((slot) => slot.name === "audio")!;
  const tokens = inputs.find((slot) => slot.name === "tokens")!;
  const logits = outputs.find((slot) => slot.name === "logits")!;
  const count = audio.shape.length === 2 && audio.shape[0] === 1 ? audio.shape[1] : 0;
  const samples = typeof count === "number" ? count : count === "samples" ? dims.samples : 0;
  if (audio.dtype !== "float32" || !(samples >= 1) || tokens.dtype !== "int64" || !same(tokens.shape, [1, 1]))
    throw field.fail("needs `audio`, float32 [1, samples], and `tokens`, int64 [1, 1]");
  const free = typeof count === "number" ? [] : ["samples"];
  const parameters = entry_points.decode;
  const known = parameters.every((name) => name === "past" || free.includes(name));
  if (!same(entry_points.encode, free) || !parameters.includes("past") || !known)
    throw field.fail("needs the parameters `samples` of `encode`, `past` and `samples` of `decode`");
  const vocabulary = logits.shape[2];
  if (logits.dtype !== "float32" || !same(logits.shape, [1, 1, vocabulary]) || typeof vocabulary !== "number" || vocabulary < 1)
    throw field.fail("needs `logits`, float32 [1, 1, vocabulary]");
  for (const name of ["start_ids", "suppress_ids", "begin_suppress_ids"] as const)
    if (task[name].some((id) => id >= vocabulary)) throw field.at(name).fail("has an id outside the vocabulary");
  if (Math.floor(task.min_seconds * task.sample_rate) > samples)
    throw field.at("min_seconds").fail("is more than `audio` holds");
  if (task.start_ids.length > dims.past) throw field.at("start_ids").fail("is more than the dimension `past` holds");
  if (root.at("tokenizer").isNull) throw field.fail("needs a tokenizer");
}

/** One graph that hears a stretch of sound and remembers the rest in a state. */
export function checkSpeechDetection(
  root: Field,
  task: SpeechDetectionTask,
  { graphs, inputs, outputs }: Pick<Manifest, "graphs" | "inputs" | "outputs">,
): void {
  const field = root.at("task");
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
  const heard = task.window + task.context;
  if (!same(Object.keys(graphs), ["run"]) || inputs.length !== 2 || outputs.length !== 2)
    throw field.fail("needs one graph `run` of two inputs and two outputs");
  if ([...inputs, ...outputs].some((slot) => slot.dtype !== "float32"))
    throw field.fail("needs float32 inputs and outputs");
  if (!same(inputs[0].shape, [1, heard]) || !same(outputs[0].shape, [1, 1]))
    throw field.fail(`needs an input [1, ${heard}] and an output [1, 1] first`);
  if (!same(inputs[1].shape, outputs[1].shape) || inputs[1].shape.some((dimension) => typeof dimension !== "number"))
    throw field.fail("needs a state of one fixed shape as second input and output");
}
