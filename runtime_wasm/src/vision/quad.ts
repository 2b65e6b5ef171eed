/** Parallelograms in a picture: cut out, turned, put in reading order. */

import type { Pixels } from "./resize.js";
import { type Point, type TextBox, corner } from "./text_boxes.js";

/** Times higher than wide, and a line is read from top to bottom. */
const TALL = 1.5;

/** Its upper left corner and the vectors along its upper and left sides. */
export interface Quad {
  origin: Point;
  right: Point;
  down: Point;
}

/** The box of a map whose pixels are `scaleX` times `scaleY` pixels of the picture. */
export function toQuad(box: TextBox, scaleX: number, scaleY: number): Quad {
  const place = ([x, y]: Point): Point => [(x + 0.5) * scaleX, (y + 0.5) * scaleY];
  const [a, b, c] = [place(corner(box, -1, -1)), place(corner(box, 1, -1)), place(corner(box, -1, 1))];
  return { origin: a, right: [b[0] - a[0], b[1] - a[1]], down: [c[0] - a[0], c[1] - a[1]] };
}

/** Width and height in whole pixels, at least 1. */
export function sizeOf({ right, down }: Quad): [number, number] {
  const whole = ([x, y]: Point): number => Math.max(1, Math.floor(Math.sqrt(x * x + y * y) + 0.5));
  return [whole(right), whole(down)];
}

/** The quad along which its text is read: a quarter turn counterclockwise where that is from top to bottom. */
export function alongText(quad: Quad): Quad {
  const [width, height] = sizeOf(quad);
  if (height < TALL * width) return quad;
  const { origin, right, down } = quad;
  return { origin: [origin[0] + right[0], origin[1] + right[1]], right: down, down: [-right[0], -right[1]] };
}

/** Clockwise from the upper left, inside a picture. */
export function cornersOf({ origin: [x, y], right: [rx, ry], down: [dx, dy] }: Quad, { width, height }: Pixels): Point[] {
  const clamp = (value: number, high: number): number => Math.min(Math.max(value, 0), high);
  const corners: Point[] = [
    [x, y],
    [x + rx, y + ry],
    [x + rx + dx, y + ry + dy],
    [x + dx, y + dy],
  ];
  return corners.map(([x, y]) => [clamp(x, width), clamp(y, height)]);
}

/** Rows from top to bottom, each from left to right; a row's middles lie within half the height of its first. */
export function inReadingOrder(quads: readonly Quad[]): Quad[] {
  const placed = quads.map((quad) => {
    const { origin, right, down } = quad;
    return { quad, y: origin[1] + (right[1] + down[1]) / 2, x: origin[0] + (right[0] + down[0]) / 2 };
  });
  placed.sort((a, b) => a.y - b.y || a.x - b.x);
  const rows: (typeof placed)[] = [];
  for (const entry of placed) {
    const first = rows.at(-1)?.[0];
    if (first && entry.y < first.y + sizeOf(first.quad)[1] / 2) rows.at(-1)!.push(entry);
    else rows.push([entry]);
  }
  return rows.flatMap((row) => row.sort((a, b) => a.x - b.x).map(({ quad }) => quad));
}

/** The parallelogram as a picture of its own, bilinear; what lies outside repeats the edge. */
export function cut(picture: Pixels, quad: Quad): Pixels {
  const [width, height] = sizeOf(quad);
  const {
    origin: [ox, oy],
    right: [ux, uy],
    down: [vx, vy],
  } = quad;
  const data = new Uint8Array(width * height * 3);
  const at = (value: number, high: number): number => Math.min(Math.max(value, 0), high);
  for (let j = 0; j < height; j++) {
    for (let i = 0; i < width; i++) {
      const along = (i + 0.5) / width;
      const down = (j + 0.5) / height;
      const px = ox + ux * along + vx * down - 0.5;
      const py = oy + uy * along + vy * down - 0.5;
      const [left, top] = [Math.floor(px), Math.floor(py)];
      const [a, b] = [px - left, py - top];
      const [x0, x1] = [at(left, picture.width - 1), at(left + 1, picture.width - 1)];
      const [y0, y1] = [at(top, picture.height - 1), at(top + 1, picture.height - 1)];
      for (let channel = 0; channel < 3; channel++) {
        const pixel = (x: number, y: number): number => picture.data[(y * picture.width + x) * 3 + channel];
        const upper = pixel(x0, y0) * (1 - a) + pixel(x1, y0) * a;
        const lower = pixel(x0, y1) * (1 - a) + pixel(x1, y1) * a;
        data[(j * width + i) * 3 + channel] = Math.floor(upper * (1 - b) + lower * b + 0.5);
      }
    }
  }
  return { data, width, height };
}
