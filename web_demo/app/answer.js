/**
 * Tidy text: paragraphs, lists, code and bold as models like to mark them, set as elements. Nothing is ever parsed as HTML.
 */

import { h } from "./dom.js";

/**
 * @typedef {{kind: "paragraph" | "heading" | "code", text: string} | {kind: "list", first: number | null, items: string[], text: string}} Block
 */

const ITEM = /^\s*(?:[-*•]|(\d{1,3})[.)])\s+(.*)$/;

/**
 * @param {string} text
 * @returns {Block[]}
 */
export function blocks(text) {
  /** @type {Block[]} */
  const found = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length;) {
    const start = at;
    if (lines[at].trim() === "") {
      at++;
    } else if (/^\s*```/.test(lines[at])) {
      do at++;
      while (at < lines.length && !/^\s*```\s*$/.test(lines[at]));
      found.push({ kind: "code", text: lines.slice(start + 1, at).join("\n") });
      at++;
    } else if (ITEM.test(lines[at])) {
      at = list(lines, at, found);
    } else if (/^#{1,6}\s/.test(lines[at])) {
      found.push({ kind: "heading", text: lines[at++].replace(/^#+\s+/, "") });
    } else {
      do at++;
      while (
        at < lines.length &&
        lines[at].trim() !== "" &&
        !/^\s*```|^#{1,6}\s/.test(lines[at]) &&
        !ITEM.test(lines[at])
      );
      found.push({ kind: "paragraph", text: lines.slice(start, at).join("\n").trim() });
    }
  }
  return found;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {Block[]} found
 * @returns {number} the line after the list
 */
function list(lines, at, found) {
  const first = ITEM.exec(lines[at]);
  const ordered = first?.[1] !== undefined;
  const start = at;
  /** @type {string[]} */
  const items = [];
  for (; at < lines.length; at++) {
    const match = ITEM.exec(lines[at]);
    if (match) {
      if ((match[1] !== undefined) !== ordered) break;
      items.push(match[2]);
    } else if (lines[at].trim() === "") {
      if (!ITEM.test(lines[at + 1] ?? "")) break;
    } else if (/^\s{2,}\S/.test(lines[at])) {
      items[items.length - 1] += `\n${lines[at].trim()}`;
    } else {
      break;
    }
  }
  found.push({
    kind: "list",
    first: ordered ? Number(first?.[1]) : null,
    items,
    text: lines.slice(start, at).join("\n"),
  });
  return at;
}

/** Shows a growing text; blocks that have not changed keep their elements. */
export class Answer {
  /** @type {string[]} */
  #shown = [];

  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
  }

  /** @param {string} text */
  show(text) {
    const wanted = blocks(text);
    const keys = wanted.map(({ kind, text: content }) => `${kind}:${content}`);
    const same = keys.findIndex((key, index) => key !== this.#shown[index]);
    const from = same < 0 ? keys.length : same;
    while (this.element.childNodes.length > from) this.element.lastChild?.remove();
    this.element.append(...wanted.slice(from).map(toElement));
    this.#shown = keys;
  }
}

/** @param {Block} block */
function toElement(block) {
  switch (block.kind) {
    case "code":
      return h("pre", { tabIndex: 0 }, h("code", {}, block.text));
    case "heading":
      return h("p", { class: "heading" }, ...inline(block.text));
    case "paragraph":
      return h("p", {}, ...inline(block.text));
    case "list": {
      const items = block.items.map((item) => h("li", {}, ...inline(item)));
      return block.first === null ? h("ul", {}, ...items) : h("ol", { start: block.first }, ...items);
    }
  }
}

/**
 * @param {string} text
 * @returns {Node[]}
 */
function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (part.startsWith("`") && part.length > 2) return h("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 4) return h("strong", {}, part.slice(2, -2));
    return document.createTextNode(part);
  });
}
