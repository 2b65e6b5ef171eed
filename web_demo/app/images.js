/** Image classification: drop, paste or choose a photo, see the five best classes. */

import { byId, h, withCode } from "./dom.js";
import { percent, seconds } from "./format.js";
import { describe } from "./runtime.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */

/**
 * @param {Slot} slot
 * @param {Speed} speed
 * @returns {() => void} puts the focus where one starts
 */
export function setUpImages(slot, speed) {
  const images = new Images(slot, speed);
  return () => images.input.focus();
}

class Images {
  /** @type {Blob | null} */
  photo = null;
  address = "";
  round = 0;
  /** @type {unknown} */
  lastModel = null;

  /**
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.input = byId("file", HTMLInputElement);
    this.drop = byId("drop", HTMLElement);
    this.preview = byId("photo", HTMLImageElement);
    this.status = byId("images-status", HTMLElement);
    this.classes = byId("classes", HTMLElement);
    this.#listen();
    slot.addEventListener("change", () => this.#onSlot());
  }

  #listen() {
    this.input.addEventListener("change", () => {
      this.take(this.input.files?.[0]);
      this.input.value = "";
    });
    for (const type of ["dragenter", "dragover"]) {
      this.drop.addEventListener(type, (event) => {
        event.preventDefault();
        this.drop.classList.add("over");
      });
    }
    for (const type of ["dragleave", "drop"])
      this.drop.addEventListener(type, () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.take(event.dataTransfer?.files[0]);
    });
    // A photo that is dropped beside the field would replace the page.
    for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
    addEventListener("paste", (event) => {
      if (byId("images", HTMLElement).hidden) return;
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (file) this.take(file);
    });
  }

  #onSlot() {
    const { model, entry } = this.slot;
    byId("images-tool", HTMLElement).hidden = !model;
    if (model && model !== this.lastModel) {
      byId("images-name", HTMLElement).textContent = entry?.name ?? "";
      void this.classify();
    }
    this.lastModel = model;
  }

  /** @param {File | undefined} file */
  take(file) {
    if (!file) return;
    this.photo = file;
    URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(file);
    this.preview.src = this.address;
    this.preview.alt = file.name ? `The photo ${file.name}` : "The photo";
    this.preview.hidden = false;
    this.drop.classList.add("filled");
    void this.classify();
  }

  async classify() {
    const { model } = this.slot;
    if (!model || !this.photo) return;
    const round = ++this.round;
    this.status.textContent = "Looking at it";
    try {
      const started = performance.now();
      const found = await model.classify(this.photo, { topK: 5 });
      if (round !== this.round) return;
      const taken = (performance.now() - started) / 1000;
      this.classes.replaceChildren(...found.map(row));
      this.status.textContent = `${name(found[0])}, ${percent(found[0].score)}; seen in ${seconds(taken)}`;
      this.speed.show(taken, "per image");
    } catch (error) {
      if (round !== this.round) return;
      this.classes.replaceChildren();
      this.status.replaceChildren(...withCode(describe(error)));
      this.slot.noticeFailure(error);
    }
    await this.slot.measure();
  }
}

/** @param {import("@edgec/runtime").Classification} found */
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

/** @param {import("@edgec/runtime").Classification} found bundles without labels have numbers instead */
function name({ label, index }) {
  return label === String(index) ? `Class ${index}` : label;
}
