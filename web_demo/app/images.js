/** What is in a picture: the five best classes, or the objects and where they are. */

import { h } from "./dom.js";
import { dropField } from "./drop.js";
import { percent, plural, seconds } from "./format.js";
import { frame, showFailure } from "./frame.js";
import { Picture, cornersOfBox } from "./picture.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */
/** @typedef {import("@edgec/runtime").Classification} Classification */
/** @typedef {import("@edgec/runtime").Detection} Detection */

/** @type {import("./tools.js").Tool} */
export const images = {
  name: "images",
  label: "Images",
  takes: ({ task }) => task === "image-classification" || task === "object-detection",
  texts: {
    title: "What is in the picture?",
    about: "A vision model names what it sees. Photos are read in this tab and sent nowhere.",
    missing: "No image classifier is served here",
    commands: [
      "edgec compile efficientnet-lite0.onnx --task efficientnet-lite0.json --profile phone-8gb -o efficientnet.edgec",
      "edgec serve smollm2.edgec efficientnet.edgec",
    ],
    file: "tasks/efficientnet-lite0.json",
  },
  setUp(place, slot, speed) {
    const { input } = new Images(place, slot, speed);
    return () => input.focus();
  },
};

class Images {
  round = 0;

  /**
   * @param {HTMLElement} place
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(place, slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.picture = new Picture("photo");
    this.status = h("p", { id: "images-status", class: "figures", role: "status" });
    this.classes = h("ol", { id: "classes", class: "results" });
    const options = { id: "images-drop", accept: "image/*", text: "Drop a photo here, paste one" };
    const { element, input } = dropField({ ...options, above: [this.picture.element] }, ([file]) => this.take(file));
    this.input = input;
    frame(place, "images", slot, () => void this.look(), element, this.status, this.classes);
  }

  /** @param {File} file */
  take(file) {
    this.picture.show(file);
    void this.look();
  }

  async look() {
    const { model } = this.slot;
    const { file } = this.picture;
    if (!model || !file) return;
    const round = ++this.round;
    this.status.textContent = "Looking at it";
    try {
      const started = performance.now();
      const detects = model.info.task?.type === "object-detection";
      const found = detects ? await model.detect(file) : await model.classify(file, { topK: 5 });
      if (round !== this.round) return;
      const taken = (performance.now() - started) / 1000;
      const objects = /** @type {Detection[]} */ (detects ? found : []);
      this.picture.outline(objects.map(({ box }) => cornersOfBox(box)));
      this.classes.replaceChildren(...found.map(row));
      for (const index of objects.keys())
        this.picture.link(/** @type {HTMLElement} */ (this.classes.children[index]), index);
      const best = found.length > 0 ? `${name(found[0])}, ${percent(found[0].score)}` : "Nothing that it knows";
      const heading = detects && found.length > 0 ? plural(found.length, "object") : best;
      this.status.textContent = `${heading}; seen in ${seconds(taken)}`;
      this.speed.show(taken, "per image");
    } catch (error) {
      if (round !== this.round) return;
      this.classes.replaceChildren();
      showFailure(this.status, error, this.slot);
    }
    await this.slot.measure();
  }
}

/** @param {Classification | Detection} found */
function row(found) {
  const bar = h("div", { class: "fill" });
  bar.style.setProperty("--share", String(found.score));
  return h(
    "li",
    {},
    h("p", { class: "result-text" }, name(found)),
    h("p", { class: "score" }, percent(found.score)),
    h("div", { class: "track", "aria-hidden": "true" }, bar),
  );
}

/** @param {Classification | Detection} found bundles without labels have numbers instead */
function name({ label, index }) {
  return label === String(index) ? `Class ${index}` : label;
}
