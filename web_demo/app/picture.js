/** A picture of the user's with outlines over it. */

import { h } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";

/** @typedef {readonly (readonly [number, number])[]} Corners in pixels of the picture */

export class Picture {
  /** @type {File | null} */
  file = null;
  /** @type {SVGPolygonElement[]} */
  #outlines = [];

  /** @param {string} id of the `<img>` */
  constructor(id) {
    this.image = h("img", { id, alt: "" });
    this.svg = document.createElementNS(NAMESPACE, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.element = h("div", { class: "picture", hidden: true }, this.image, this.svg);
  }

  /** @param {File} file */
  show(file) {
    this.file = file;
    URL.revokeObjectURL(this.image.src);
    this.image.src = URL.createObjectURL(file);
    this.image.alt = file.name ? `The picture ${file.name}` : "The picture";
    this.element.hidden = false;
    this.outline([]);
  }

  /**
   * Draws the shapes, once the picture's size is known.
   *
   * @param {readonly Corners[]} shapes
   */
  outline(shapes) {
    const { naturalWidth, naturalHeight } = this.image;
    this.svg.setAttribute("viewBox", `0 0 ${naturalWidth || 1} ${naturalHeight || 1}`);
    this.#outlines = shapes.map((corners) => {
      const polygon = document.createElementNS(NAMESPACE, "polygon");
      polygon.setAttribute("points", corners.map((corner) => corner.join(",")).join(" "));
      return polygon;
    });
    this.svg.replaceChildren(...this.#outlines);
  }

  /**
   * Lets an element of a list and the outline of the same number stand out together.
   *
   * @param {HTMLElement} element
   * @param {number} index
   */
  link(element, index) {
    const outline = this.#outlines[index];
    const mark = (/** @type {boolean} */ on) => outline.classList.toggle("marked", on);
    for (const type of ["pointerenter", "focusin"]) element.addEventListener(type, () => mark(true));
    for (const type of ["pointerleave", "focusout"]) element.addEventListener(type, () => mark(false));
    outline.addEventListener("pointerenter", () => element.classList.add("marked"));
    outline.addEventListener("pointerleave", () => element.classList.remove("marked"));
  }
}

/**
 * @param {{x: number, y: number, width: number, height: number}} box
 * @returns {Corners}
 */
export function cornersOfBox({ x, y, width, height }) {
  return [
    [x, y],
    [x + width, y],
    [x + width, y + height],
    [x, y + height],
  ];
}
