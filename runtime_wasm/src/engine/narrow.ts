/** Narrow forms of scales, zero points, floats and ternary codes (docs/bundle-format.md, "Weight segments"). */

import type { Segment } from "../bundle/manifest.js";

/** The digits of a byte to the base 3 as five codes of 4 bits whose top two bits they are, from the lowest bits up. */
const TRITS = Uint32Array.from({ length: 256 }, (_, byte) => {
  let [rest, codes] = [byte, 0];
  for (let i = 0; i < 5; i++) {
    codes |= (rest % 3) << (4 * i + 2);
    rest = Math.floor(rest / 3);
  }
  return codes;
});

/** ORs `source` into `target`, which is twice as long, for trits 5 / 2 as long. */
type Merge = (target: Uint8Array, source: Uint8Array) => void;

export const NARROW: Partial<Record<Segment["op"], Merge>> = {
  upper4(target, source) {
    for (let i = 0; i < source.length; i++) {
      target[2 * i] |= (source[i] & 15) << 4;
      target[2 * i + 1] |= source[i] & 0xf0;
    }
  },
  scale8(target, source) {
    for (let i = 0; i < source.length; i++) {
      target[2 * i] |= (source[i] & 3) << 6;
      target[2 * i + 1] |= source[i] >> 2;
    }
  },
  trits(target, source) {
    for (let i = 0, to = 0; i < source.length; i += 2, to += 5) {
      const [first, second] = [TRITS[source[i]], TRITS[source[i + 1]]];
      target[to] |= first;
      target[to + 1] |= first >> 8;
      target[to + 2] |= (first >> 16) | (second << 4);
      target[to + 3] |= second >> 4;
      target[to + 4] |= second >> 12;
    }
  },
  upper16(target, source) {
    for (let i = 0; i < source.length; i += 2) {
      target[2 * i + 2] |= source[i];
      target[2 * i + 3] |= source[i + 1];
    }
  },
};

/** Writes float32 in rows of `columns`: `source` has a bfloat16 scale for each column, then a signed byte for each number. */
export function mergeScaled(target: Uint8Array, source: Uint8Array, columns: number): void {
  const words = new Uint32Array(columns).map((_, i) => (source[2 * i] << 16) | (source[2 * i + 1] << 24));
  const scales = new Float32Array(words.buffer);
  const numbers = new Float32Array(target.buffer, target.byteOffset, target.length / 4);
  for (let i = 0; i < numbers.length; i++) numbers[i] = ((source[2 * columns + i] << 24) >> 24) * scales[i % columns];
}
