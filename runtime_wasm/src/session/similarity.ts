/** Texts and images in one space, see docs/tasks.md. Twin of `edgec/run/tasks/similarity.py`. */

import type { SimilarityTask } from "../bundle/task.js";
import { exp } from "../exp64.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type ImageInput, decodeImage } from "../vision/decode.js";
import { type Classification, ranked, softmax } from "../vision/results.js";
import { embedText, normalized } from "./embedding.js";
import type { Graph } from "./graph.js";
import { imageOutput } from "./vision.js";

export const TEXT_GRAPH = "text";
export const IMAGE_GRAPH = "image";

export function textVector(graph: Graph, tokenizer: Tokenizer, task: SimilarityTask, text: string): Float32Array {
  return embedText(graph, tokenizer, { ...task.text, normalize: task.normalize }, text);
}

export async function imageVector(
  graph: Graph,
  task: SimilarityTask,
  image: ImageInput,
  signal?: AbortSignal,
): Promise<Float32Array> {
  const { output } = imageOutput(graph, task.image, await decodeImage(image, signal));
  return task.normalize ? normalized(Float64Array.from(output)) : output;
}

/** The logits of every text with every image, a row per text. */
export function compare(task: SimilarityTask, texts: Float32Array[], images: Float32Array[]): Float32Array[] {
  return texts.map((text) =>
    Float32Array.from(images, (image) => {
      let sum = 0;
      for (let i = 0; i < text.length; i++) sum += text[i] * image[i];
      return sum * task.scale + task.bias;
    }),
  );
}

/** The labels that fit one image best, of the logits of each. */
export function choose(task: SimilarityTask, labels: readonly string[], logits: Float32Array, topK: number): Classification[] {
  const scores = task.scores === "softmax" ? softmax(logits) : Float64Array.from(logits, (logit) => 1 / (1 + exp(-logit)));
  return ranked(scores, (index) => labels[index], topK);
}
