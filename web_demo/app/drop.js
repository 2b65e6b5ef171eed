/** A field that takes files: dropped on it, pasted while it is in sight, or chosen. */

import { h } from "./dom.js";

/**
 * @param {object} options
 * @param {string} options.id of the field; the file input is `ID-file`
 * @param {string} options.accept types of files, as in `<input accept>`
 * @param {string} options.text before the link that opens the chooser
 * @param {boolean} [options.multiple]
 * @param {Node[]} [options.above] what is shown over the text
 * @param {Node[]} [options.beside] further ways to choose, behind the text
 * @param {(files: File[]) => void} onFiles
 */
export function dropField({ id, accept, text, multiple = false, above = [], beside = [] }, onFiles) {
  const input = h("input", { id: `${id}-file`, class: "visually-hidden", type: "file", accept, multiple });
  const link = h("label", { for: input.id, class: "link" }, multiple ? "choose files" : "choose a file");
  const line = h("p", { class: "drop-text" }, `${text}, or `, link, ...beside);
  const element = h("div", { id, class: "drop" }, input, ...above, line);
  const take = (/** @type {FileList | null | undefined} */ files) => {
    const list = [...(files ?? [])];
    if (list.length > 0) onFiles(multiple ? list : list.slice(0, 1));
  };
  input.addEventListener("change", () => {
    take(input.files);
    input.value = "";
  });
  for (const type of ["dragenter", "dragover"]) {
    element.addEventListener(type, (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"]) element.addEventListener(type, () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer?.files);
  });
  addEventListener("paste", (event) => {
    if (element.checkVisibility()) take(event.clipboardData?.files);
  });
  return { element, input };
}

/** A file that is dropped beside a field would replace the page. */
export function ignoreOtherDrops() {
  for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
}
