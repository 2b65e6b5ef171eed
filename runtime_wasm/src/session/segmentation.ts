/** A class for every pixel, see docs/tasks.md. Twin of `edgec/run/tasks/segmentation.py`. */

import type { SegmentationTask } from "../bundle/task.js";
import { EdgecError } from "../errors.js";
import { type ImageInput, decodeImage } from "../vision/decode.js";
import type { Placement } from "../vision/preprocess.js";
import type { Graph } from "./graph.js";
import { imageOutput } from "./vision.js";

/** A class that a picture shows. */
export interface PictureSegment {
  index: number;
  label: string;
  pixels: number;
  /** Of the picture. */
  share: number;
}

export interface Segmentation {
  width: number;
  height: number;
  /** The class of each pixel, row by row. */
  classes: Uint16Array;
  /** The classes in it, the largest first. */
  segments: PictureSegment[];
}

const MOST_CLASSES = 1 << 16;

export async function segmentImage(
  graph: Graph,
  task: SegmentationTask,
  given: ImageInput,
  signal?: AbortSignal,
): Promise<Segmentation> {
  const image = await decodeImage(given, signal);
  const { output, shape, placement } = imageOutput(graph, task.image, image, 4);
  const planar = task.image.layout === "NCHW";
  const [count, rows, columns] = planar ? shape.slice(1) : [shape[3], shape[1], shape[2]];
  if (shape[0] !== 1 || count < 2 || count > MOST_CLASSES || shape.includes(0))
    throw new EdgecError(
      "unsupported",
      `the output has the shape [${shape.join(", ")}], expected [1, classes, rows, columns]`,
    );
  const map: LogitMap = { output, count, rows, columns, planar };
  const classes = bestClasses(map, placement, image, task.image);
  const pixels = new Float64Array(count);
  for (const index of classes) pixels[index]++;
  const segments = Array.from(pixels.keys())
    .filter((index) => pixels[index] > 0)
    .sort((a, b) => pixels[b] - pixels[a] || a - b)
    .map((index) => ({
      index,
      label: task.labels?.[index] ?? String(index),
      pixels: pixels[index],
      share: pixels[index] / classes.length,
    }));
  return { width: image.width, height: image.height, classes, segments };
}

interface LogitMap {
  output: Float32Array;
  count: number;
  rows: number;
  columns: number;
  planar: boolean;
}

/** Of each pixel: the two places of the map beside it, and the part of the second. */
function between(count: number, scale: number, offset: number, side: number, size: number) {
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const part = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const place = Math.min(Math.max(((i + 0.5 - offset) * scale * size) / side - 0.5, 0), size - 1);
    low[i] = Math.floor(place);
    high[i] = Math.min(low[i] + 1, size - 1);
    part[i] = place - low[i];
  }
  return { low, high, part };
}

function bestClasses(
  { output, count, rows, columns, planar }: LogitMap,
  { scaleX, scaleY, offsetX, offsetY }: Placement,
  { width, height }: { width: number; height: number },
  input: { width: number; height: number },
): Uint16Array {
  const down = between(height, scaleY, offsetY, input.height, rows);
  const along = between(width, scaleX, offsetX, input.width, columns);
  const [classStep, rowStep, columnStep] = planar ? [rows * columns, columns, 1] : [1, columns * count, count];
  const result = new Uint16Array(width * height);
  const line = new Float64Array(columns);
  const best = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    const [top, bottom] = [down.low[y] * rowStep, down.high[y] * rowStep];
    const b = down.part[y];
    for (let index = 0; index < count; index++) {
      const base = index * classStep;
      for (let x = 0; x < columns; x++) {
        const at = base + x * columnStep;
        line[x] = output[at + top] * (1 - b) + output[at + bottom] * b;
      }
      for (let x = 0; x < width; x++) {
        const a = along.part[x];
        const value = line[along.low[x]] * (1 - a) + line[along.high[x]] * a;
        if (index > 0 && !(value > best[x])) continue;
        best[x] = value;
        result[y * width + x] = index;
      }
    }
  }
  return result;
}
