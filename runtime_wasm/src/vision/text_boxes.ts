/** Rectangles around the lines of text in a probability map, see docs/tasks.md. Twin of `edgec/run/tasks/text_boxes.py`. */

import type { OcrTask } from "../bundle/task.js";

export type Point = readonly [number, number];

/** Row, first column, column after the last. */
export type Run = readonly [number, number, number];

/** A rectangle in pixels of the map, centres of pixels at whole numbers. */
export interface TextBox {
  x: number;
  y: number;
  /** Unit vector along the side called width, never to the left. */
  right: Point;
  width: number;
  height: number;
}

/** The point at `along` halves of the width and `across` halves of the height from the centre. */
export function corner({ x, y, right: [dx, dy], width, height }: TextBox, along: number, across: number): Point {
  const a = (along * width) / 2;
  const b = (across * height) / 2;
  return [x + dx * a - dy * b, y + dy * a + dx * b];
}

/** The boxes in a map, in the order of their first pixels, row by row. */
export function textBoxes(
  probabilities: Float32Array,
  width: number,
  { threshold, box_threshold, unclip, shortest }: OcrTask["detect"],
): TextBox[] {
  const found: TextBox[] = [];
  for (const runs of regions(probabilities, width, Math.fround(threshold))) {
    const ends = runs.flatMap(([y, start, end]): Point[] => [
      [start, y],
      [end - 1, y],
    ]);
    const box = smallestRectangle(hull(ends));
    if (Math.min(box.width, box.height) < shortest) continue;
    if (mean(probabilities, width, runs) < box_threshold) continue;
    const distance = (box.width * box.height * unclip) / (2 * (box.width + box.height));
    const grown = { ...box, width: box.width + 2 * distance, height: box.height + 2 * distance };
    if (Math.min(grown.width, grown.height) >= shortest + 2) found.push(grown);
  }
  return found;
}

function mean(probabilities: Float32Array, width: number, runs: readonly Run[]): number {
  let sum = 0;
  let count = 0;
  for (const [y, start, end] of runs) {
    for (let x = start; x < end; x++) sum += probabilities[y * width + x];
    count += end - start;
  }
  return sum / count;
}

/** Connected pixels above the threshold, neighbours at corners too, as runs row by row; regions by their first pixel. */
export function regions(probabilities: Float32Array, width: number, threshold: number): Run[][] {
  const runs: Run[] = [];
  const root: number[] = [];
  const find = (index: number): number => {
    while (root[index] !== index) index = root[index] = root[root[index]];
    return index;
  };
  let above = 0;
  for (let y = 0; y < probabilities.length / width; y++) {
    for (let x = 0; x < width; x++) {
      if (!(probabilities[y * width + x] > threshold)) continue;
      const start = x;
      while (x < width && probabilities[y * width + x] > threshold) x++;
      const index = runs.push([y, start, x]) - 1;
      root.push(index);
      while (runs[above][0] < y - 1 || (runs[above][0] === y - 1 && runs[above][2] < start)) above++;
      for (let other = above; other < index && runs[other][0] === y - 1 && runs[other][1] <= x; other++) {
        const [a, b] = [find(other), find(index)];
        root[Math.max(a, b)] = Math.min(a, b);
      }
    }
  }
  const grouped = new Map<number, Run[]>();
  runs.forEach((run, index) => {
    const group = grouped.get(find(index));
    if (group) group.push(run);
    else grouped.set(find(index), [run]);
  });
  return [...grouped.keys()].sort((a, b) => a - b).map((index) => grouped.get(index)!);
}

/** Corners of the convex hull (Andrew's monotone chain, 1979), from the smallest (x, y) on. */
export function hull(points: readonly Point[]): Point[] {
  const ordered = [...points]
    .sort((a, b) => a[0] - b[0] || a[1] - b[1])
    .filter(([x, y], i, all) => i === 0 || all[i - 1][0] !== x || all[i - 1][1] !== y);
  if (ordered.length < 3) return ordered;
  return [...chain(ordered).slice(0, -1), ...chain(ordered.reverse()).slice(0, -1)];
}

function chain(points: readonly Point[]): Point[] {
  const result: Point[] = [];
  for (const point of points) {
    while (result.length >= 2 && turn(result[result.length - 2], result[result.length - 1], point) <= 0) result.pop();
    result.push(point);
  }
  return result;
}

function turn(a: Point, b: Point, c: Point): number {
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
}

/** The rectangle of the least area around a convex hull: one of its sides lies on a side of the hull. */
export function smallestRectangle(corners: readonly Point[]): TextBox {
  let best = { area: Infinity, dx: 1, dy: 0, low: 0, high: 0, near: 0, far: 0 };
  corners.forEach(([x0, y0], i) => {
    const [x1, y1] = corners[(i + 1) % corners.length];
    let dx = x1 - x0;
    const dy = y1 - y0;
    if (dx === 0 && dy === 0) dx = 1; // a single point
    let [low, high, near, far] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [x, y] of corners) {
      const along = x * dx + y * dy;
      const across = y * dx - x * dy;
      [low, high] = [Math.min(low, along), Math.max(high, along)];
      [near, far] = [Math.min(near, across), Math.max(far, across)];
    }
    const area = ((high - low) * (far - near)) / (dx * dx + dy * dy);
    if (area < best.area) best = { area, dx, dy, low, high, near, far };
  });
  const { dx, dy, low, high, near, far } = best;
  const square = dx * dx + dy * dy;
  const length = Math.sqrt(square);
  const [a, b] = [(low + high) / 2, (near + far) / 2];
  const sides: [number, number] = [(high - low) / length, (far - near) / length];
  const turned: Point[] = [
    [dx, dy],
    [-dy, dx],
    [-dx, -dy],
    [dy, -dx],
  ];
  let right = 0;
  for (let i = 1; i < 4; i++) {
    const [x, y] = turned[i];
    if (x > turned[right][0] || (x === turned[right][0] && y > turned[right][1])) right = i;
  }
  const [width, height] = right % 2 === 0 ? sides : [sides[1], sides[0]];
  return {
    x: (a * dx - b * dy) / square,
    y: (a * dy + b * dx) / square,
    right: [turned[right][0] / length, turned[right][1] / length],
    width,
    height,
  };
}
