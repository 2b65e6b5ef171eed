/** Pictures and frames of videos, found by words, and named by labels that the user makes up. */

import { h, withCode } from "./dom.js";
import { dropField } from "./drop.js";
import { clock, percent, plural, seconds } from "./format.js";
import { frame, showFailure } from "./frame.js";
import { FileError, framesOf, isPicture, isVideo, thumbnailOf } from "./frames.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */
/** @typedef {import("@edgec/runtime").SimilarityTask} SimilarityTask */
/** @typedef {{file: File, time: number | null, vector: Float32Array, thumbnail: HTMLCanvasElement}} Shot */

const PAUSE = 250; // ms without a key before a text is run
const SHOWN = 24;
const EVERY = [0.5, 1, 2, 5, 10]; // seconds between frames

/** @type {import("./tools.js").Tool} */
export const gallery = {
  name: "gallery",
  label: "Gallery",
  takes: ({ task }) => task === "text-image-similarity",
  texts: {
    title: "Find pictures by words",
    about: "A model of texts and images searches your photos and videos. They are read in this tab and sent nowhere.",
    missing: "No model of texts and images is served here",
    commands: [
      "edgec compile ./clip-vit-base-patch32 --profile laptop-8gb -o clip.edgec",
      "edgec serve smollm2.edgec clip.edgec",
    ],
  },
  setUp(place, slot, speed) {
    const { input } = new Gallery(place, slot, speed);
    return () => input.focus();
  },
};

class Gallery {
  /** @type {File[]} */
  files = [];
  /** @type {Shot[]} */
  shots = [];
  /** Count up with each change, so that older work notices that it is out of date. */
  taking = 0;
  asking = 0;
  timer = 0;

  /**
   * @param {HTMLElement} place
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(place, slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.folder = h("input", { id: "gallery-folder", class: "visually-hidden", type: "file", webkitdirectory: true });
    this.folder.addEventListener("change", () => {
      this.take([...(this.folder.files ?? [])]);
      this.folder.value = "";
    });
    const beside = [", or ", h("label", { for: this.folder.id, class: "link" }, "a folder")].map(toNode);
    const options = { id: "gallery-drop", accept: "image/*,video/*", text: "Drop photos and videos here", multiple: true };
    const { element, input } = dropField({ ...options, above: [this.folder], beside }, (files) => this.take(files));
    this.input = input;
    this.every = h(
      "select",
      { id: "gallery-every" },
      ...EVERY.map((step) => h("option", { value: String(step), selected: step === 1 }, `every ${seconds(step)}`)),
    );
    this.every.addEventListener("change", () => void this.index());
    this.query = h("input", { id: "gallery-query", type: "search", autocomplete: "off", spellcheck: false });
    this.labels = h("input", { id: "gallery-labels", type: "text", autocomplete: "off", placeholder: "a cat, a dog, food" });
    for (const field of [this.query, this.labels]) field.addEventListener("input", () => this.soon(PAUSE));
    this.status = h("p", { id: "gallery-status", class: "figures", role: "status" });
    this.answer = h("p", { id: "gallery-answer", class: "figures", role: "status" });
    this.failures = h("ul", { id: "gallery-failures", class: "note" });
    this.video = h("video", { id: "gallery-video", controls: true, hidden: true, playsInline: true });
    this.found = h("ol", { id: "shots", class: "shots" });
    const form = h(
      "form",
      { class: "fields", role: "search" },
      field("Find", this.query),
      field("Name each by one of these labels", this.labels),
      field("Frames of videos", this.every),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.soon(0);
    });
    const parts = [element, this.status, this.failures, form, this.answer, this.video, this.found];
    frame(place, "gallery", slot, () => void this.index(), ...parts);
  }

  /** @param {File[]} files */
  take(files) {
    this.files = files.filter((file) => isPicture(file) || isVideo(file));
    if (this.files.length > 0) return void this.index();
    this.status.replaceChildren(...withCode(`There is no picture and no video among ${plural(files.length, "file")}.`));
  }

  async index() {
    const { model } = this.slot;
    if (!model || this.files.length === 0) return;
    const round = ++this.taking;
    this.shots = [];
    this.failures.replaceChildren();
    this.found.replaceChildren();
    this.video.hidden = true;
    const started = performance.now();
    for (const [index, file] of this.files.entries()) {
      try {
        for await (const { picture, time } of framesOf(file, Number(this.every.value))) {
          const at = time === null ? "" : ` at ${clock(time)}`;
          this.status.textContent = `Looking at ${index + 1} of ${this.files.length}${at}`;
          const [vector] = await model.embedImage(picture);
          if (round !== this.taking || model !== this.slot.model) return;
          this.shots.push({ file, time, vector, thumbnail: thumbnailOf(picture) });
        }
      } catch (error) {
        if (round !== this.taking || model !== this.slot.model) return;
        if (!(error instanceof FileError)) return showFailure(this.status, error, this.slot);
        this.failures.append(h("li", {}, ...withCode(`${error.message}.`)));
      }
    }
    const taken = (performance.now() - started) / 1000;
    if (this.shots.length > 0) this.speed.show(taken / this.shots.length, "per picture");
    const videos = this.files.filter(isVideo).length;
    const what = videos ? `, ${plural(videos, "video")} among ${plural(this.files.length, "file")}` : "";
    this.status.textContent = `${plural(this.shots.length, "picture")} seen in ${seconds(taken)}${what}`;
    this.soon(0);
    await this.slot.measure();
  }

  /** @param {number} delay milliseconds */
  soon(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.ask(), delay);
  }

  async ask() {
    const { model } = this.slot;
    if (!model) return;
    const round = ++this.asking;
    const query = this.query.value.trim();
    const labels = [...new Set(this.labels.value.split(",").map((label) => label.trim()))].filter(Boolean);
    const task = /** @type {SimilarityTask} */ (model.info.task);
    try {
      const started = performance.now();
      const vectors = await model.embedText(query ? [query, ...labels] : labels);
      if (round !== this.asking || model !== this.slot.model) return;
      const wanted = query ? vectors[0] : null;
      const names = vectors.slice(query ? 1 : 0);
      const rows = this.shots.map((shot) => ({
        shot,
        score: wanted ? logit(task, wanted, shot.vector) : 0,
        label: names.length ? best(task, labels, names, shot.vector) : null,
      }));
      if (wanted) rows.sort((a, b) => b.score - a.score);
      this.found.replaceChildren(...rows.slice(0, SHOWN).map((row) => this.#row(row)));
      const taken = (performance.now() - started) / 1000;
      if (wanted) this.speed.show(taken, "per query");
      this.answer.textContent =
        wanted && rows.length ? `The best of ${plural(rows.length, "picture")}, compared in ${seconds(taken)}` : "";
    } catch (error) {
      if (round === this.asking && model === this.slot.model) showFailure(this.answer, error, this.slot);
    }
  }

  /** @param {{shot: Shot, label: {label: string, score: number} | null}} row */
  #row({ shot, label }) {
    const { file, time, thumbnail } = shot;
    thumbnail.setAttribute("role", "img");
    thumbnail.setAttribute("aria-label", time === null ? file.name : `${file.name} at ${clock(time)}`);
    const name = h("span", { class: "shot-name" }, file.name);
    const caption = label && h("span", { class: "shot-label" }, `${label.label}, ${percent(label.score)}`);
    if (time === null) return h("li", {}, thumbnail, name, caption);
    const play = () => this.play(file, time);
    const button = h("button", { class: "quiet outlined", type: "button", click: play }, `Play at ${clock(time, time % 1 ? 1 : 0)}`);
    return h("li", {}, thumbnail, name, caption, button);
  }

  /**
   * @param {File} file
   * @param {number} time seconds
   */
  play(file, time) {
    const { video } = this;
    if (video.dataset.name !== file.name || video.hidden) {
      URL.revokeObjectURL(video.src);
      video.src = URL.createObjectURL(file);
      video.dataset.name = file.name;
      video.setAttribute("aria-label", `The video ${file.name}`);
      video.hidden = false;
    }
    video.currentTime = time;
    video.scrollIntoView({ block: "nearest" });
    void video.play().catch(() => undefined);
  }
}

/**
 * @param {SimilarityTask} task
 * @param {Float32Array} text
 * @param {Float32Array} image
 */
function logit({ scale, bias }, text, image) {
  return text.reduce((sum, value, index) => sum + value * image[index], 0) * scale + bias;
}

/**
 * The label that fits an image best, with its probability among the others, as `model.classify` has it.
 *
 * @param {SimilarityTask} task
 * @param {string[]} labels
 * @param {Float32Array[]} vectors
 * @param {Float32Array} image
 */
function best(task, labels, vectors, image) {
  const logits = vectors.map((vector) => logit(task, vector, image));
  const most = Math.max(...logits);
  const index = logits.indexOf(most);
  const sum = logits.reduce((total, value) => total + Math.exp(value - most), 0);
  return { label: labels[index], score: task.scores === "softmax" ? 1 / sum : 1 / (1 + Math.exp(-most)) };
}

/**
 * @param {string} label
 * @param {HTMLElement} input
 */
function field(label, input) {
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input);
}

/** @param {Node | string} child */
function toNode(child) {
  return typeof child === "string" ? document.createTextNode(child) : child;
}
