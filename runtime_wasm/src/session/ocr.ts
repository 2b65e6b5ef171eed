/** Text in pictures: lines are found, cut out and read, see docs/tasks.md. Twin of `edgec/run/tasks/ocr.py`. */

import { evaluate } from "../bundle/dims.js";
import type { OcrTask } from "../bundle/task.js";
import { EdgecError } from "../errors.js";
import { type ImageInput, decodeImage } from "../vision/decode.js";
import { toTensor } from "../vision/preprocess.js";
import { type Quad, alongText, cornersOf, cut, inReadingOrder, toQuad } from "../vision/quad.js";
import { type Pixels, resize } from "../vision/resize.js";
import { textBoxes } from "../vision/text_boxes.js";
import { type Graph, type Tensor, runGraph } from "./graph.js";

export const DETECT_GRAPH = "detect";
export const RECOGNIZE_GRAPH = "recognize";

export interface TextLine {
  text: string;
  /** Mean probability of its characters. */
  score: number;
  /** In pixels of the image, clockwise from the text's upper left. */
  corners: (readonly [number, number])[];
}

/** The lines of text in a picture, in reading order. */
export async function readText(
  detect: Graph,
  recognize: Graph,
  task: OcrTask,
  image: ImageInput,
  signal?: AbortSignal,
): Promise<TextLine[]> {
  const picture = await decodeImage(image, signal);
  const lines: TextLine[] = [];
  for (const found of inReadingOrder(findLines(detect, task.detect, picture))) {
    const quad = alongText(found);
    const { text, score } = readLine(recognize, task.recognize, cut(picture, quad));
    if (text && score >= task.min_score) lines.push({ text, score, corners: cornersOf(quad, picture) });
  }
  return lines;
}

function findLines(graph: Graph, settings: OcrTask["detect"], picture: Pixels): Quad[] {
  const { width, height } = picture;
  const [vertical, horizontal] = sides(graph);
  const ratio = Math.min(
    1,
    settings.longest / Math.max(width, height),
    horizontal.most / width,
    vertical.most / height,
  );
  const resized = resize(picture, stepped(width * ratio, horizontal), stepped(height * ratio, vertical), "bilinear");
  const data = toTensor(resized, { ...settings, layout: "NCHW" }, false);
  const map = floats(runGraph(graph, { [graph.inputs[0].name]: { data, shape: [1, 3, resized.height, resized.width] } }), 4);
  const [batch, channels, rows, columns] = map.shape;
  if (batch !== 1 || channels !== 1)
    throw new EdgecError("unsupported", `the detector's output has the shape [${map.shape.join(", ")}]`);
  const boxes = textBoxes(map.data as Float32Array, columns, settings);
  return boxes.map((box) => toQuad(box, width / columns, height / rows));
}

interface Side {
  step: number;
  most: number;
}

function stepped(side: number, { step, most }: Side): number {
  return Math.min(Math.max(Math.floor(side / step + 0.5) * step, step), most);
}

/** Step and largest size of the height and the width of a graph's picture `[1, 3, height, width]`. */
function sides(graph: Graph): Side[] {
  const shape = graph.inputs[0]?.shape;
  if (graph.inputs.length !== 1 || shape.length !== 4)
    throw new EdgecError("unsupported", `the graph \`${graph.name}\` takes no picture of [1, 3, height, width]`);
  const ones = Object.fromEntries(Object.keys(graph.dims).map((name) => [name, 1]));
  return shape.slice(2).map((side) => ({ step: evaluate(side, ones), most: evaluate(side, graph.dims) }));
}

function floats(outputs: Record<string, Tensor>, rank: number): Tensor {
  const found = Object.values(outputs).find(({ data, shape }) => data instanceof Float32Array && shape.length === rank);
  if (!found) throw new EdgecError("unsupported", `the model has no floating-point output of ${rank} dimensions`);
  return found;
}

function readLine(graph: Graph, settings: OcrTask["recognize"], line: Pixels): { text: string; score: number } {
  const { step, most } = sides(graph)[1];
  const { height, characters } = settings;
  const width = Math.min(Math.max(Math.ceil((height * line.width) / line.height), 1), most);
  const total = Math.min(Math.ceil(Math.max(width, settings.least_width) / step) * step, most);
  const own = toTensor(resize(line, width, height, "bilinear"), { ...settings, layout: "NCHW" }, false);
  const data = new Float32Array(3 * height * total); // what the line does not fill is zero
  for (let row = 0; row < 3 * height; row++) data.set(own.subarray(row * width, (row + 1) * width), row * total);
  const output = floats(runGraph(graph, { [graph.inputs[0].name]: { data, shape: [1, 3, height, total] } }), 3);
  if (output.shape[2] !== characters.length)
    throw new EdgecError(
      "unsupported",
      `the recogniser knows ${output.shape[2]} characters, the task ${characters.length}`,
    );
  return greedyText(output.data as Float32Array, characters);
}

/** The best character of each step; repeated ones count once, the first one is none. */
export function greedyText(
  probabilities: Float32Array,
  characters: readonly string[],
): { text: string; score: number } {
  const size = characters.length;
  let [text, sum, count, previous] = ["", 0, 0, -1];
  for (let at = 0; at < probabilities.length; at += size) {
    let best = 0;
    for (let i = 1; i < size; i++) if (probabilities[at + i] > probabilities[at + best]) best = i;
    if (best !== 0 && best !== previous) {
      text += characters[best];
      sum += probabilities[at + best];
      count++;
    }
    previous = best;
  }
  return { text, score: count ? sum / count : 0 };
}
