/** Images through a graph, see docs/tasks.md. */

import type { ClassificationTask, DetectionTask, ImageSpec } from "../bundle/task.js";
import { EdgecError } from "../errors.js";
import { type ImageInput, decodeImage } from "../vision/decode.js";
import { type Placement, fitImage, toTensor } from "../vision/preprocess.js";
import type { Pixels } from "../vision/resize.js";
import { type Classification, type Detection, classifications, detections } from "../vision/results.js";
import { type Graph, runGraph } from "./graph.js";

export async function classifyImage(
  graph: Graph,
  task: ClassificationTask,
  image: ImageInput,
  topK: number,
  signal?: AbortSignal,
): Promise<Classification[]> {
  const picture = await decodeImage(image, signal);
  return classifications(imageOutput(graph, task.image, picture).output, task, topK);
}

export async function detectObjects(
  graph: Graph,
  task: DetectionTask,
  image: ImageInput,
  signal?: AbortSignal,
): Promise<Detection[]> {
  const picture = await decodeImage(image, signal);
  const { output, placement } = imageOutput(graph, task.image, picture);
  return detections(output, task, placement, picture);
}

/** The graph's first floating-point output for an image, of a rank if that is given, and where the image lies in the input. */
export function imageOutput(
  graph: Graph,
  spec: ImageSpec,
  image: Pixels,
  rank?: number,
): { output: Float32Array; shape: number[]; placement: Placement } {
  const [slot, ...others] = graph.inputs;
  if (!slot || others.length > 0) throw new EdgecError("unsupported", "the model does not have exactly one input");
  const { pixels, placement } = fitImage(image, spec);
  const data = toTensor(pixels, spec, slot.dtype === "uint8");
  const { width, height } = spec;
  const wanted = spec.layout === "NCHW" ? [1, 3, height, width] : [1, height, width, 3];
  const outputs = runGraph(graph, { [slot.name]: { data, shape: wanted } });
  const output = Object.values(outputs).find(
    (tensor) => tensor.data instanceof Float32Array && (rank === undefined || tensor.shape.length === rank),
  );
  if (!output)
    throw new EdgecError("unsupported", `the model has no floating-point output${rank ? ` of ${rank} dimensions` : ""}`);
  return { output: output.data as Float32Array, shape: output.shape, placement };
}
