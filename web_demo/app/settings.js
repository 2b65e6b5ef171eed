/** The system prompt and the sampling settings of a chat. */

import { h } from "./dom.js";

/** @typedef {import("@edgec/runtime").ChatOptions} ChatOptions */

/**
 * @typedef {object} NumberField
 * @property {keyof ChatOptions} option
 * @property {string} default key in the bundle's `generation`
 * @property {number} otherwise
 * @property {string} label
 * @property {string} note
 * @property {number} min
 * @property {number} max
 * @property {number} step
 */

/** @type {NumberField[]} */
const FIELDS = [
  {
    option: "temperature",
    default: "temperature",
    otherwise: 0,
    label: "Temperature",
    note: "0 always takes the likeliest word",
    min: 0,
    max: 2,
    step: 0.05,
  },
  {
    option: "topP",
    default: "top_p",
    otherwise: 1,
    label: "Top p",
    note: "share of the probability to choose from",
    min: 0.01,
    max: 1,
    step: 0.01,
  },
  {
    option: "topK",
    default: "top_k",
    otherwise: 0,
    label: "Top k",
    note: "number of words to choose from, 0: all",
    min: 0,
    max: 1000,
    step: 1,
  },
  {
    option: "minP",
    default: "min_p",
    otherwise: 0,
    label: "Min p",
    note: "least probability, relative to the best",
    min: 0,
    max: 1,
    step: 0.01,
  },
  {
    option: "repetitionPenalty",
    default: "repetition_penalty",
    otherwise: 1,
    label: "Repetition penalty",
    note: "1 is none",
    min: 1,
    max: 2,
    step: 0.05,
  },
  {
    option: "maxTokens",
    default: "max_tokens",
    otherwise: 256,
    label: "Longest answer",
    note: "tokens",
    min: 1,
    max: 4096,
    step: 1,
  },
];
const SEED_LIMIT = 2 ** 32;

export class Settings {
  /** @type {Record<string, unknown>} */
  #defaults = {};

  /** @param {HTMLFormElement} form */
  constructor(form) {
    this.system = h("textarea", { id: "system", rows: 2, placeholder: "The model's own, if it has one" });
    this.seed = h("input", {
      id: "seed",
      type: "number",
      min: "0",
      max: String(SEED_LIMIT - 1),
      step: "1",
      placeholder: "random",
      "aria-describedby": "seed-note",
    });
    this.inputs = FIELDS.map(({ option, min, max, step }) =>
      h("input", {
        id: `set-${option}`,
        type: "number",
        required: true,
        min: String(min),
        max: String(max),
        step: String(step),
        "aria-describedby": `set-${option}-note`,
      }),
    );
    form.append(
      field("system", "System prompt", this.system),
      h(
        "div",
        { class: "grid" },
        ...FIELDS.map(({ option, label, note }, index) => field(`set-${option}`, label, this.inputs[index], note)),
        field("seed", "Seed", this.seed, "same seed, same answer; empty: random"),
      ),
      h("button", { class: "quiet outlined", type: "button", click: () => this.reset() }, "The model's defaults"),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** @param {Record<string, unknown>} generation the bundle's defaults */
  setDefaults(generation) {
    this.#defaults = generation;
    this.reset();
  }

  reset() {
    for (const [index, field] of FIELDS.entries())
      this.inputs[index].value = String(this.#defaults[field.default] ?? field.otherwise);
    this.seed.value = typeof this.#defaults.seed === "number" ? String(this.#defaults.seed) : "";
  }

  /** @returns {ChatOptions} values outside their bounds are left to the model's defaults */
  options() {
    /** @type {Record<string, number>} */
    const options = {};
    for (const [index, { option }] of FIELDS.entries()) {
      const input = this.inputs[index];
      if (input.checkValidity()) options[option] = input.valueAsNumber;
    }
    options.seed =
      this.seed.value !== "" && this.seed.checkValidity()
        ? this.seed.valueAsNumber
        : Math.floor(Math.random() * SEED_LIMIT);
    return options;
  }
}

/**
 * @param {string} id
 * @param {string} label
 * @param {HTMLElement} input
 * @param {string} [note]
 */
function field(id, label, input, note) {
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    input,
    note ? h("p", { class: "note", id: `${id}-note` }, note) : null,
  );
}
