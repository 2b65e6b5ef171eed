/** Elements: found by id with the type that is expected, or made. */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`#${id} is not in the page`);
  return element;
}

/**
 * @typedef {Node | string | null | undefined | false} Child
 */

/**
 * Makes an element. `class`, `aria-*`, `data-*` and such become attributes, functions become listeners, the rest properties.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (typeof value === "function") element.addEventListener(name, /** @type {EventListener} */ (value));
    else if (name in element && !name.includes("-")) Object.assign(element, { [name]: value });
    else element.setAttribute(name, String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Replaces what is in an element; children that are nothing are left out.
 *
 * @param {HTMLElement} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
}

/**
 * Text with `literals` in backticks set as code.
 *
 * @param {string} text
 * @returns {Node[]}
 */
export function withCode(text) {
  return text
    .split(/`([^`]+)`/)
    .map((part, index) => (index % 2 ? h("code", {}, part) : document.createTextNode(part)));
}

/**
 * Rows of a `<dl>`; rows without a value are left out.
 *
 * @param {HTMLElement} list
 * @param {readonly (readonly [string, Child])[]} rows
 */
export function facts(list, rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  list.replaceChildren(...shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
