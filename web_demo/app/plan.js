/** What the compiler decided about a bundle, from the parts of its manifest that are for people. */

/** @typedef {import("@edgec/runtime").ModelInfo} ModelInfo */

/**
 * @typedef {object} PlanFacts
 * @property {{bits: number, share: number}[]} weights share of the weights by bits, fewest bits first
 * @property {number} activationBits 0 where the plan does not say
 * @property {number} kvBits 0 for graphs
 * @property {number} predicted tokens per second on the profile's device, 0 where there is no prediction
 * @property {number} peakBytes predicted memory
 * @property {string[]} reasons
 */

/**
 * @param {ModelInfo} info
 * @returns {PlanFacts}
 */
export function planFacts({ plan, accuracy }) {
  const prediction = record(plan.prediction);
  return {
    weights: shares(accuracy),
    activationBits: number(plan.activation_bits),
    kvBits: number(record(plan.kv).bits),
    predicted: number(prediction.decode_tokens_per_second),
    peakBytes: number(prediction.peak_bytes),
    reasons: Array.isArray(plan.reasons) ? plan.reasons.filter((reason) => typeof reason === "string") : [],
  };
}

/** @param {Record<string, unknown>} accuracy */
function shares(accuracy) {
  /** @type {Map<number, number>} */
  const sizes = new Map();
  for (const tensor of Object.values(record(accuracy.tensors))) {
    const { bits, rows, columns } = record(tensor);
    sizes.set(number(bits), (sizes.get(number(bits)) ?? 0) + number(rows) * number(columns));
  }
  const floats = number(accuracy.float_parameters);
  if (floats) sizes.set(32, (sizes.get(32) ?? 0) + floats);
  const total = [...sizes.values()].reduce((a, b) => a + b, 0);
  return [...sizes]
    .filter(([bits, size]) => bits > 0 && size > 0)
    .sort(([a], [b]) => a - b)
    .map(([bits, size]) => ({ bits, share: size / total }));
}

/**
 * @param {unknown} value
 * @returns {Record<string, unknown>}
 */
function record(value) {
  return typeof value === "object" && value !== null ? /** @type {Record<string, unknown>} */ (value) : {};
}

/** @param {unknown} value */
function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}
