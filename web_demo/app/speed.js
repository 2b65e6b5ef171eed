/** How fast one tab's model works, now and a little while back. Fires `change`. */

import { figure, seconds } from "./format.js";

export const KEPT = 60; // samples for the curve
const WINDOW = 6; // pieces over which a live speed is averaged

export class Speed extends EventTarget {
  text = "";
  unit = "";
  /** @type {number[]} */
  samples = [];
  /** Arrival times of the last pieces and their sizes. @type {[number, number][]} */
  #recent = [];

  /** @param {string} unit */
  start(unit) {
    this.unit = unit;
    this.text = "";
    this.samples = [];
    this.#recent = []; // the time before the first piece is no measure of the speed
    this.#changed();
  }

  /** @param {number} amount that has come since the last call */
  add(amount) {
    const now = performance.now();
    this.#recent.push([now, amount]);
    if (this.#recent.length > WINDOW) this.#recent.shift();
    const elapsed = (now - this.#recent[0][0]) / 1000;
    const sum = this.#recent.slice(1).reduce((total, [, count]) => total + count, 0);
    if (elapsed > 0) this.#push(sum / elapsed, figure(sum / elapsed));
  }

  /** @param {number} average the final word */
  end(average) {
    if (average > 0) this.text = figure(average);
    this.#changed();
  }

  /**
   * @param {number} taken seconds
   * @param {string} unit
   */
  show(taken, unit) {
    if (unit !== this.unit) this.samples = [];
    this.unit = unit;
    this.#push(taken, seconds(taken));
  }

  /**
   * @param {number} value
   * @param {string} text
   */
  #push(value, text) {
    this.text = text;
    this.samples.push(value);
    if (this.samples.length > KEPT) this.samples.shift();
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
