/** Depths of nested codes: how many of their 4 bits a device loads. Twin of what `edgec/bundle/parse.py` and `manifest.py` do. */

import { EdgecError } from "../errors.js";
import type { Field } from "./json.js";
import { COARSEST, type Depth, FINEST, type Manifest } from "./manifest.js";

/** Bits of each depth below the finest, with the field of its golden outputs. */
export function parseDepths(root: Field): [number, Field][] {
  const field = root.find("depths");
  if (!field) return [];
  let last = FINEST;
  const depths = field.elements().map((element): [number, Field] => {
    element.fields(["bits", "golden"]);
    last = element.at("bits").integer(COARSEST, last - 1);
    return [last, element.at("golden")];
  });
  if (depths.length === 0) throw field.fail("is empty");
  return depths;
}

/** Some of the depths `known`, not all of them; empty where the file is needed at each. */
export function parseDepthsOfFile(field: Field, known: readonly number[]): number[] {
  const listed = field.find("depths");
  if (!listed) return [];
  const found = listed.elements().map((element) => element.integer(COARSEST, FINEST));
  const ordered = known.filter((bits) => found.includes(bits));
  if (String(found) !== String(ordered) || found.length === 0 || found.length === known.length) {
    throw listed.fail(`is ${JSON.stringify(found)}, allowed are some of ${JSON.stringify(known)} in this order`);
  }
  return found;
}

export const isNeededAt = ({ depths }: { depths: readonly number[] }, bits: number): boolean =>
  depths.length === 0 || depths.includes(bits);

/** Bits of all depths, the finest first; empty where codes are not nested. */
export const depthBits = ({ depths }: { depths: readonly Depth[] }): number[] =>
  depths.length === 0 ? [] : [FINEST, ...depths.map(({ bits }) => bits)];

/** What a device has to do with that loads `bits` of the bits of nested codes, all of them by default. */
export function atDepth(manifest: Manifest, bits: number = FINEST): Manifest {
  const known = depthBits(manifest);
  if (!known.includes(bits) && (known.length > 0 || bits !== FINEST)) {
    throw new EdgecError("invalid-argument", `\`${manifest.model.name}\` has no depth of ${bits} bits`, {
      hint: known.length > 0 ? `it has ${known.join(", ")}` : "compile it with `--nested 3` for that",
    });
  }
  if (known.length === 0) return manifest;
  const depth = manifest.depths.find((depth) => depth.bits === bits);
  const weights = manifest.weights.filter((file) => isNeededAt(file, bits));
  return { ...manifest, weights, golden: depth ? depth.golden : manifest.golden };
}
