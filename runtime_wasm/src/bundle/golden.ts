/** What a module gives for a fixed input. Twin of `edgec/bundle/golden.py`. */

import type { Dims } from "./dims.js";
import type { Field } from "./json.js";

const MAX_STEPS = 16;
const MAX_VALUES = 16; // logits of a step, numbers of an output
const SHA256 = /^[0-9a-f]{64}$/;

/** Logits after the prompt, or after the first of `largest` of the step before. A logit is null where it is not finite. */
export interface GoldenStep {
  sha256: string;
  largest: { token: number; logit: number | null }[];
}

export interface DecoderGolden {
  prompt: number[];
  steps: GoldenStep[];
}

export interface GoldenOutput {
  sha256: string;
  /** Of floats, spread evenly; null where they are not finite. */
  values: (number | null)[];
}

export interface GraphGolden {
  dims: Record<string, number>;
  /** Of each graph in the order of their names, in the order of the manifest's. */
  outputs: GoldenOutput[];
}

export function parseDecoderGolden(field: Field, vocabulary: number, contextLength: number): DecoderGolden {
  field.fields(["prompt", "steps"]);
  const token = (value: Field): number => value.integer(0, vocabulary - 1);
  const prompt = field.at("prompt").elements().map(token);
  const steps = field
    .at("steps")
    .elements()
    .map((step) => {
      step.fields(["sha256", "largest"]);
      const largest = step
        .at("largest")
        .elements()
        .map((entry) => {
          entry.fields(["token", "logit"]);
          return { token: token(entry.at("token")), logit: numberOrNull(entry.at("logit")) };
        });
      if (largest.length < 1 || largest.length > MAX_VALUES)
        throw step.at("largest").fail(`has ${largest.length} logits, allowed are 1 to ${MAX_VALUES}`);
      return { sha256: step.at("sha256").string(SHA256), largest };
    });
  if (steps.length < 1 || steps.length > MAX_STEPS)
    throw field.at("steps").fail(`are ${steps.length}, allowed are 1 to ${MAX_STEPS}`);
  if (prompt.length === 0 || prompt.length + steps.length - 1 > contextLength)
    throw field.at("prompt").fail("is empty, or does not fit the context with its steps");
  return { prompt, steps };
}

export function parseGraphGolden(field: Field, bounds: Dims, outputs: number): GraphGolden {
  field.fields(["dims", "outputs"]);
  field.at("dims").fields(Object.keys(bounds));
  const dims = Object.assign(
    Object.create(null) as Record<string, number>,
    Object.fromEntries(
      field
        .at("dims")
        .entries()
        .map(([name, size]) => [name, size.integer(1, bounds[name])]),
    ),
  );
  const found = field
    .at("outputs")
    .elements()
    .map((output) => {
      output.fields(["sha256", "values"]);
      const values = output.at("values").elements().map(numberOrNull);
      if (values.length > MAX_VALUES)
        throw output.at("values").fail(`are ${values.length}, allowed are ${MAX_VALUES}`);
      return { sha256: output.at("sha256").string(SHA256), values };
    });
  if (found.length !== outputs) throw field.at("outputs").fail(`are ${found.length}, the graph has ${outputs}`);
  return { dims, outputs: found };
}

function numberOrNull(field: Field): number | null {
  return field.orNull((value) => value.number());
}
