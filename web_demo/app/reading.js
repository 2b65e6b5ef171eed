/** Text in pictures: the lines, and where they are. */

import { h } from "./dom.js";
import { dropField } from "./drop.js";
import { percent, plural, seconds } from "./format.js";
import { frame, showFailure } from "./frame.js";
import { Picture } from "./picture.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */

/** @type {import("./tools.js").Tool} */
export const reading = {
  name: "reading",
  label: "Reading",
  takes: ({ task }) => task === "ocr",
  texts: {
    title: "Read the text in a picture",
    about: "One network finds the lines, a second one reads them. Pictures are read in this tab and sent nowhere.",
    missing: "No model that reads text is served here",
    commands: ["edgec compile ./ppocr --task ocr --profile phone-8gb -o ppocr.edgec", "edgec serve ppocr.edgec"],
  },
  setUp(place, slot, speed) {
    const { input } = new Reading(place, slot, speed);
    return () => input.focus();
  },
};

class Reading {
  round = 0;
  text = "";

  /**
   * @param {HTMLElement} place
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(place, slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.picture = new Picture("page");
    this.status = h("p", { id: "reading-status", class: "figures", role: "status" });
    this.lines = h("ol", { id: "lines", class: "results" });
    this.copied = h("span", { role: "status" });
    this.copy = h(
      "button",
      { id: "copy-text", class: "quiet outlined", type: "button", hidden: true, click: () => void this.copyText() },
      "Copy the text",
    );
    const options = { id: "reading-drop", accept: "image/*", text: "Drop a picture with text here, paste one" };
    const { element, input } = dropField({ ...options, above: [this.picture.element] }, ([file]) => this.take(file));
    this.input = input;
    const actions = h("p", { class: "actions" }, this.copy, this.copied);
    frame(place, "reading", slot, () => void this.read(), element, this.status, actions, this.lines);
  }

  /** @param {File} file */
  take(file) {
    this.picture.show(file);
    void this.read();
  }

  async read() {
    const { model } = this.slot;
    const { file } = this.picture;
    if (!model || !file) return;
    const round = ++this.round;
    this.status.textContent = "Reading";
    this.#show([]);
    try {
      const started = performance.now();
      const found = await model.ocr(file);
      if (round !== this.round) return;
      const taken = (performance.now() - started) / 1000;
      this.#show(found);
      const what = found.length ? plural(found.length, "line") : "No text was found in the picture";
      this.status.textContent = `${what}; looked at it for ${seconds(taken)}`;
      this.speed.show(taken, "per picture");
    } catch (error) {
      if (round !== this.round) return;
      showFailure(this.status, error, this.slot);
    }
    await this.slot.measure();
  }

  /** @param {import("@edgec/runtime").TextLine[]} found */
  #show(found) {
    this.text = found.map(({ text }) => text).join("\n");
    this.copy.hidden = found.length === 0;
    this.copied.textContent = "";
    this.picture.outline(found.map(({ corners }) => corners));
    const rows = found.map(({ text, score }) =>
      h("li", {}, h("p", { class: "result-text" }, text), h("p", { class: "score" }, percent(score))),
    );
    this.lines.replaceChildren(...rows);
    for (const [index, row] of rows.entries()) this.picture.link(row, index);
  }

  async copyText() {
    try {
      await navigator.clipboard.writeText(this.text);
      this.copied.textContent = "Copied";
    } catch {
      getSelection()?.selectAllChildren(this.lines);
      this.copied.textContent = "Press Ctrl+C to copy";
    }
  }
}
