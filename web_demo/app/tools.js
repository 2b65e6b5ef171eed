/** What the page can do: a table from what a bundle is for to the panel that shows it. A new panel is a file and a line here. */

import { chat } from "./chat.js";
import { gallery } from "./gallery.js";
import { images } from "./images.js";
import { reading } from "./reading.js";
import { search } from "./search.js";
import { speech } from "./speech.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */

/**
 * @typedef {object} Tool
 * @property {string} name in the address; the ids of its elements begin with it
 * @property {string} label of its tab
 * @property {(bundle: {kind: unknown, task: unknown}) => boolean} takes whether bundles of this kind and task are for it
 * @property {import("./start.js").Texts} texts
 * @property {(place: HTMLElement, slot: Slot, speed: Speed) => () => void} setUp fills `place`; gives what moves the focus there
 */

/** @type {readonly Tool[]} */
export const TOOLS = [chat, search, images, reading, gallery, speech];
