/** Scores and boxes out of a graph's output, see docs/tasks.md. */

import type { ClassificationTask, DetectionTask } from "../bundle/task.js";
import { exp } from "../exp64.js";
import type { Placement } from "./preprocess.js";

export interface Classification {
  index: number;
  label: string;
  score: number;
}

export interface Detection extends Classification {
  /** In pixels of the source image. */
  box: { x: number; y: number; width: number; height: number };
}

export function classifications(output: Float32Array, task: ClassificationTask, topK: number): Classification[] {
  const scores = task.scores === "logits" ? softmax(output) : output;
  return ranked(scores, (index) => task.labels?.[index] ?? String(index), topK);
}

/** The best scores first, the lowest index first among equals. */
export function ranked(
  scores: Float32Array | Float64Array,
  label: (index: number) => string,
  topK: number,
): Classification[] {
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, topK).map((index) => ({ index, label: label(index), score: scores[index] }));
}

/** Probabilities of one choice among all. */
export function softmax(logits: Float32Array): Float64Array {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (logit) => exp(logit - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

interface Candidate {
  cell: number;
  index: number;
  score: number;
  left: number;
  top: number;
  right: number;
  bottom: number;
}

export function detections(
  output: Float32Array,
  task: DetectionTask,
  placement: Placement,
  source: { width: number; height: number },
): Detection[] {
  const candidates = yoloxCandidates(output, task).sort((a, b) => b.score - a.score || a.cell - b.cell);
  const kept: Candidate[] = [];
  for (const candidate of candidates) {
    if (!kept.some((other) => other.index === candidate.index && overlap(other, candidate) > task.iou_threshold))
      kept.push(candidate);
  }
  return kept.map((candidate) => {
    const x = clamp(candidate.left / placement.scaleX + placement.offsetX, source.width);
    const y = clamp(candidate.top / placement.scaleY + placement.offsetY, source.height);
    const right = clamp(candidate.right / placement.scaleX + placement.offsetX, source.width);
    const bottom = clamp(candidate.bottom / placement.scaleY + placement.offsetY, source.height);
    const { index, score } = candidate;
    return {
      index,
      label: task.labels[index] ?? String(index),
      score,
      box: { x, y, width: right - x, height: bottom - y },
    };
  });
}

function clamp(value: number, high: number): number {
  return Math.min(Math.max(value, 0), high);
}

function yoloxCandidates(output: Float32Array, task: DetectionTask): Candidate[] {
  const { width, height } = task.image;
  const cells = task.strides.reduce((sum, stride) => sum + Math.floor(width / stride) * Math.floor(height / stride), 0);
  const size = output.length / cells;
  const found: Candidate[] = [];
  let cell = 0;
  for (const stride of task.strides) {
    const columns = Math.floor(width / stride);
    const rows = Math.floor(height / stride);
    for (let i = 0; i < rows * columns; i++, cell++) {
      const o = output.subarray(cell * size, (cell + 1) * size);
      const index = best(o.subarray(5));
      const score = o[4] * o[5 + index];
      if (!(score >= task.score_threshold)) continue;
      const x = (o[0] + (i % columns)) * stride;
      const y = (o[1] + Math.floor(i / columns)) * stride;
      const halfWidth = (exp(o[2]) * stride) / 2;
      const halfHeight = (exp(o[3]) * stride) / 2;
      found.push({
        cell,
        index,
        score,
        left: x - halfWidth,
        top: y - halfHeight,
        right: x + halfWidth,
        bottom: y + halfHeight,
      });
    }
  }
  return found;
}

function best(scores: Float32Array): number {
  let index = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[index]) index = i;
  return index;
}

function overlap(a: Candidate, b: Candidate): number {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (width <= 0 || height <= 0) return 0;
  const both = width * height;
  const area = (box: Candidate): number => (box.right - box.left) * (box.bottom - box.top);
  return both / (area(a) + area(b) - both);
}
