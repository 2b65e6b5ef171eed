/** What tools have in common: their models' name on top, and that they are hidden without a model. */

import { h, withCode } from "./dom.js";
import { describe } from "./runtime.js";

/** @typedef {import("./slot.js").Slot} Slot */

/**
 * @param {HTMLElement} place
 * @param {string} name of the tool
 * @param {Slot} slot
 * @param {() => void} onModel called when another model has come into memory
 * @param {...(Node | string)} children
 */
export function frame(place, name, slot, onModel, ...children) {
  const title = h("h2", { id: `${name}-name` });
  place.append(h("div", { class: "toolbar" }, title), ...children);
  /** @type {unknown} */
  let last = null;
  slot.addEventListener("change", () => {
    const { model, entry } = slot;
    place.hidden = !model;
    if (model && model !== last) {
      title.textContent = entry?.name ?? "";
      onModel();
    }
    last = model;
  });
}

/**
 * @param {HTMLElement} status
 * @param {unknown} error
 * @param {Slot} slot
 */
export function showFailure(status, error, slot) {
  status.replaceChildren(...withCode(describe(error)));
  slot.noticeFailure(error);
}
