/** Semantic search: every text becomes a vector once, a query is compared with all of them. */

import { h } from "./dom.js";
import { plural, seconds } from "./format.js";
import { frame, showFailure } from "./frame.js";
import { QUERIES, TEXTS } from "./samples.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */
/** @typedef {{text: string, score: number}} Hit */

const PAUSE = 200; // ms without a key before a query is run
const BATCH = 4; // texts per call, so that progress shows and a newer query need not wait
const SHOWN = 5; // the texts to edit stay in reach

/** @type {import("./tools.js").Tool} */
export const search = {
  name: "search",
  label: "Search",
  takes: ({ task }) => task === "embedding",
  texts: {
    title: "Search by meaning",
    about: "A sentence encoder finds texts by what they say, whatever words they use. Your texts stay on your device.",
    missing: "No sentence encoder is served here",
    commands: [
      "edgec compile ./all-MiniLM-L6-v2 --profile phone-8gb -o minilm.edgec",
      "edgec serve smollm2.edgec minilm.edgec",
    ],
  },
  setUp(place, slot, speed) {
    const { query } = new Search(place, slot, speed);
    return () => query.focus();
  },
};

class Search {
  /** Vectors by text; those of texts that have been removed go with the model. @type {Map<string, Float32Array>} */
  vectors = new Map();
  /** Counts up with each change, so that older work notices that it is out of date. */
  round = 0;
  timer = 0;

  /**
   * @param {HTMLElement} place
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(place, slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.query = h("input", { id: "query", type: "search", autocomplete: "off", spellcheck: false });
    this.texts = h("textarea", { id: "texts", rows: 12, spellcheck: false, value: TEXTS.join("\n") });
    this.status = h("p", { id: "search-status", class: "figures", role: "status" });
    this.results = h("ol", { id: "results", class: "results" });
    this.more = h("button", { id: "more", class: "quiet outlined", type: "button", hidden: true });
    const form = h("form", { class: "field", role: "search" }, h("label", { for: "query" }, "Find by meaning"), this.query);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.soon(0);
    });
    this.query.addEventListener("input", () => this.soon(PAUSE));
    this.texts.addEventListener("input", () => this.soon(3 * PAUSE));
    const restore = () => {
      this.texts.value = TEXTS.join("\n");
      this.soon(0);
    };
    const samples = h("button", { id: "samples", class: "quiet", type: "button", click: restore }, "Restore the samples");
    const head = h("div", { class: "field-head" }, h("label", { for: "texts" }, "The texts, one a line"), samples);
    const chips = QUERIES.map((text) =>
      h("li", {}, h("button", { class: "chip", type: "button", click: () => this.ask(text) }, text)),
    );
    const parts = [
      form,
      h("ul", { id: "queries", class: "chips" }, ...chips),
      this.status,
      this.results,
      h("p", {}, this.more),
      h("div", { class: "field texts" }, head, this.texts),
    ];
    frame(place, "search", slot, () => this.#onModel(), ...parts);
  }

  #onModel() {
    this.vectors.clear();
    this.soon(0);
  }

  /** @param {string} text */
  ask(text) {
    this.query.value = text;
    this.soon(0);
  }

  /** @param {number} delay milliseconds */
  soon(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.run(), delay);
  }

  async run() {
    const { model } = this.slot;
    if (!model) return;
    const round = ++this.round;
    const lines = [...new Set(this.texts.value.split("\n").map((line) => line.trim()))].filter(Boolean);
    const query = this.query.value.trim();
    try {
      const indexing = await this.#index(model, lines, round);
      if (round !== this.round) return;
      if (query === "") {
        this.#show([]);
        this.status.textContent =
          lines.length === 0
            ? "There are no texts to search through."
            : `${plural(lines.length, "text")} ready${indexing}`;
        return;
      }
      const started = performance.now();
      const [wanted] = await model.embed(query);
      if (round !== this.round) return;
      const hits = rank(wanted, lines, this.vectors);
      const taken = (performance.now() - started) / 1000;
      this.speed.show(taken, "per query");
      this.#show(hits);
      this.status.textContent = hits.length
        ? `${plural(lines.length, "text")} compared in ${seconds(taken)}`
        : "There are no texts to search through.";
    } catch (error) {
      if (round !== this.round || model !== this.slot.model) return;
      showFailure(this.status, error, this.slot);
    }
    await this.slot.measure();
  }

  /**
   * Embeds the texts that are new.
   *
   * @param {import("@edgec/runtime").Model} model
   * @param {string[]} lines
   * @param {number} round
   * @returns {Promise<string>} what there is to say about it
   */
  async #index(model, lines, round) {
    const fresh = lines.filter((line) => !this.vectors.has(line));
    const started = performance.now();
    for (let at = 0; at < fresh.length; at += BATCH) {
      this.status.textContent = `Reading the texts: ${lines.length - fresh.length + at} of ${lines.length}`;
      const batch = fresh.slice(at, at + BATCH);
      const vectors = await model.embed(batch);
      for (const [index, text] of batch.entries()) this.vectors.set(text, vectors[index]);
      if (round !== this.round) return "";
    }
    if (fresh.length === 0) return "";
    const taken = (performance.now() - started) / 1000;
    this.speed.show(taken / fresh.length, "per text");
    return `, ${plural(fresh.length, "text")} read in ${seconds(taken)}`;
  }

  /**
   * @param {Hit[]} hits
   * @param {number} [most]
   */
  #show(hits, most = SHOWN) {
    const rows = hits.slice(0, most).map(({ text, score }) => {
      const bar = h("div", { class: "fill" });
      bar.style.setProperty("--share", String(Math.max(0, score)));
      return h(
        "li",
        {},
        h("p", { class: "result-text" }, text),
        h("p", { class: "score" }, twoDigits(score)),
        h("div", { class: "track", "aria-hidden": "true" }, bar),
      );
    });
    this.results.replaceChildren(...rows);
    this.more.hidden = hits.length <= most;
    this.more.textContent = `Show all ${hits.length}`;
    this.more.onclick = () => {
      this.#show(hits, hits.length);
      const next = /** @type {HTMLElement | undefined} */ (this.results.children[most]);
      next?.setAttribute("tabindex", "-1");
      next?.focus();
    };
  }
}

/**
 * @param {Float32Array} wanted
 * @param {string[]} lines
 * @param {Map<string, Float32Array>} vectors
 * @returns {Hit[]} best first; scores are cosines
 */
export function rank(wanted, lines, vectors) {
  return lines
    .map((text) => ({ text, score: cosine(wanted, /** @type {Float32Array} */ (vectors.get(text))) }))
    .sort((a, b) => b.score - a.score);
}

/**
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
function cosine(a, b) {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return dot / Math.max(Math.sqrt(aa * bb), 1e-12);
}

/** @param {number} score */
function twoDigits(score) {
  return score.toFixed(2).replace("-0.00", "0.00");
}
