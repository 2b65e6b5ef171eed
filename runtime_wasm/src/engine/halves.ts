/** The upper halves of words whose lower halves are zero (docs/bundle-format.md, "Weight segments"). */

import type { Segment } from "../bundle/manifest.js";

/** ORs `source` into `target`, which is twice as long. */
type Merge = (target: Uint8Array, source: Uint8Array) => void;

export const UPPER_HALVES: Partial<Record<Segment["op"], Merge>> = {
  upper4(target, source) {
    for (let i = 0; i < source.length; i++) {
      target[2 * i] |= (source[i] & 15) << 4;
      target[2 * i + 1] |= source[i] & 0xf0;
    }
  },
  upper8(target, source) {
    for (let i = 0; i < source.length; i++) target[2 * i + 1] |= source[i];
  },
  upper16(target, source) {
    for (let i = 0; i < source.length; i += 2) {
      target[2 * i + 2] |= source[i];
      target[2 * i + 3] |= source[i + 1];
    }
  },
};
