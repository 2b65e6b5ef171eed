/** An image as the graph's input, see docs/tasks.md. */

import type { Colors, ImageSpec } from "../bundle/task.js";
import { type Pixels, resize } from "./resize.js";

/** How a place in the input maps back to the source: `source = (input - 0) / scale + offset`. */
export interface Placement {
  scaleX: number;
  scaleY: number;
  offsetX: number;
  offsetY: number;
}

export interface Prepared {
  /** RGB of the target's size. */
  pixels: Pixels;
  placement: Placement;
}

export function fitImage(image: Pixels, spec: ImageSpec): Prepared {
  if (spec.fit === "letterbox") return letterbox(image, spec);
  const box = spec.fit === "crop" ? cropBox(image, spec) : { x: 0, y: 0, width: image.width, height: image.height };
  const pixels = resize(cut(image, box), spec.width, spec.height, spec.interpolation);
  return {
    pixels,
    placement: { scaleX: spec.width / box.width, scaleY: spec.height / box.height, offsetX: box.x, offsetY: box.y },
  };
}

interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

function cropBox(image: Pixels, spec: ImageSpec): Box {
  let width = image.width;
  let height = (image.width * spec.height) / spec.width;
  if (height > image.height) {
    height = image.height;
    width = (image.height * spec.width) / spec.height;
  }
  width = Math.max(1, Math.floor(width * spec.crop! + 0.5));
  height = Math.max(1, Math.floor(height * spec.crop! + 0.5));
  return { x: Math.floor((image.width - width) / 2), y: Math.floor((image.height - height) / 2), width, height };
}

function cut(image: Pixels, box: Box): Pixels {
  if (box.width === image.width && box.height === image.height) return image;
  const data = new Uint8Array(box.width * box.height * 3);
  for (let row = 0; row < box.height; row++) {
    const start = ((box.y + row) * image.width + box.x) * 3;
    data.set(image.data.subarray(start, start + box.width * 3), row * box.width * 3);
  }
  return { data, width: box.width, height: box.height };
}

function letterbox(image: Pixels, spec: ImageSpec): Prepared {
  const ratio = Math.min(spec.width / image.width, spec.height / image.height);
  const width = Math.max(1, Math.floor(image.width * ratio));
  const height = Math.max(1, Math.floor(image.height * ratio));
  const resized = resize(image, width, height, spec.interpolation);
  const data = new Uint8Array(spec.width * spec.height * 3).fill(spec.pad!);
  for (let row = 0; row < height; row++)
    data.set(resized.data.subarray(row * width * 3, (row + 1) * width * 3), row * spec.width * 3);
  return {
    pixels: { data, width: spec.width, height: spec.height },
    placement: { scaleX: ratio, scaleY: ratio, offsetX: 0, offsetY: 0 },
  };
}

/** The pixels in the layout, channel order and scale of the spec; `raw` keeps the bytes. */
export function toTensor(pixels: Pixels, spec: Colors & Pick<ImageSpec, "layout">, raw: boolean): Float32Array | Uint8Array {
  const count = pixels.width * pixels.height;
  const result = raw ? new Uint8Array(3 * count) : new Float32Array(3 * count);
  const planar = spec.layout === "NCHW";
  for (let channel = 0; channel < 3; channel++) {
    const source = spec.channels === "RGB" ? channel : 2 - channel;
    const mean = raw ? 0 : spec.mean[channel];
    const std = raw ? 1 : spec.std[channel];
    for (let i = 0; i < count; i++) {
      result[planar ? channel * count + i : 3 * i + channel] = (pixels.data[3 * i + source] - mean) / std;
    }
  }
  return result;
}
