/** Pillow's antialiased resize, bit for bit: 22-bit fixed-point weights, 8 bits between the two passes. */

export interface Pixels {
  /** RGB, 3 bytes each, row by row. */
  data: Uint8Array;
  width: number;
  height: number;
}

export type Interpolation = "bilinear" | "bicubic";

const PRECISION_BITS = 32 - 8 - 2;

const FILTERS: Record<Interpolation, { support: number; weight: (x: number) => number }> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(value: number): number {
  const a = -0.5;
  const x = Math.abs(value);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

interface Weights {
  /** Of each output position: first input position and number of inputs. */
  first: Int32Array;
  count: Int32Array;
  /** `stride` weights per output position. */
  values: Int32Array;
  stride: number;
}

function weightsFor(inputSize: number, outputSize: number, interpolation: Interpolation): Weights {
  const filter = FILTERS[interpolation];
  const scale = inputSize / outputSize;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outputSize);
  const count = new Int32Array(outputSize);
  const values = new Int32Array(outputSize * stride);
  const row = new Float64Array(stride);
  for (let out = 0; out < outputSize; out++) {
    const center = (out + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const high = Math.min(inputSize, Math.trunc(center + support + 0.5));
    let total = 0;
    for (let i = 0; i < high - low; i++) {
      row[i] = filter.weight((i + low - center + 0.5) * (1 / filterScale));
      total += row[i];
    }
    for (let i = 0; i < high - low; i++) {
      const weight = (total !== 0 ? row[i] / total : row[i]) * (1 << PRECISION_BITS);
      values[out * stride + i] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    first[out] = low;
    count[out] = high - low;
  }
  return { first, count, values, stride };
}

/** One pass: `lines` lines of `inputSize` positions; the strides tell how far apart lines and positions are, in bytes. */
interface Axis {
  lines: number;
  lineIn: number;
  lineOut: number;
  stepIn: number;
  stepOut: number;
}

function pass(source: Uint8Array, target: Uint8Array, weights: Weights, outputSize: number, axis: Axis): void {
  const { first, count, values, stride } = weights;
  for (let line = 0; line < axis.lines; line++) {
    for (let out = 0; out < outputSize; out++) {
      let red = 1 << (PRECISION_BITS - 1);
      let green = red;
      let blue = red;
      let at = line * axis.lineIn + first[out] * axis.stepIn;
      for (let i = 0; i < count[out]; i++, at += axis.stepIn) {
        const weight = values[out * stride + i];
        red += source[at] * weight;
        green += source[at + 1] * weight;
        blue += source[at + 2] * weight;
      }
      const to = line * axis.lineOut + out * axis.stepOut;
      target[to] = clip(red >> PRECISION_BITS);
      target[to + 1] = clip(green >> PRECISION_BITS);
      target[to + 2] = clip(blue >> PRECISION_BITS);
    }
  }
}

function clip(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

export function resize(image: Pixels, width: number, height: number, interpolation: Interpolation): Pixels {
  let result = image;
  if (width !== image.width) {
    const data = new Uint8Array(width * image.height * 3);
    const axis = { lines: image.height, lineIn: image.width * 3, lineOut: width * 3, stepIn: 3, stepOut: 3 };
    pass(image.data, data, weightsFor(image.width, width, interpolation), width, axis);
    result = { data, width, height: image.height };
  }
  if (height !== image.height) {
    const data = new Uint8Array(width * height * 3);
    const axis = { lines: width, lineIn: 3, lineOut: 3, stepIn: width * 3, stepOut: width * 3 };
    pass(result.data, data, weightsFor(image.height, height, interpolation), height, axis);
    result = { data, width, height };
  }
  return result;
}
