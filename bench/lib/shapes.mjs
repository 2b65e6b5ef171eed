// Models that are only shapes: real dimensions, random weights. shapes.json has them, make_shape.py makes them.

import { readFileSync } from "node:fs";

/** @type {Record<string, object>} by name, smallest first */
export const SHAPES = JSON.parse(readFileSync(new URL("../shapes.json", import.meta.url), "utf8"));

/** What a measurement needs of a shape: where it is from, and how much work its engines get. */
export function shapeNamed(name) {
  const shape = SHAPES[name];
  if (!shape) throw new Error(`there is no shape \`${name}\`; there are ${Object.keys(SHAPES).join(", ")}`);
  return { config: shape.config, work: shape.work };
}
