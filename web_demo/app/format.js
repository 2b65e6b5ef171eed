/** Numbers for people. */

const THOUSANDS = ["", " k", " M", " G"];

/** @param {number} count bytes, in decimal units as stores and networks count */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const power = Math.min(Math.floor(Math.log10(count) / 3), 3);
  return `${figure(count / 1000 ** power)} ${["B", "kB", "MB", "GB"][power]}`;
}

/** @param {number} value three significant digits, none after the point from 100 on */
export function figure(value) {
  if (!Number.isFinite(value)) return "0";
  const digits = value >= 100 || value === 0 ? 0 : value >= 10 ? 1 : 2;
  return value.toFixed(digits);
}

/** @param {number} value for example parameters: `135 M` */
export function count(value) {
  const power = value < 1000 ? 0 : Math.min(Math.floor(Math.log10(value) / 3), 3);
  return power === 0 ? String(value) : `${figure(value / 1000 ** power)}${THOUSANDS[power]}`;
}

/** @param {number} value */
export function seconds(value) {
  return value < 1 ? `${Math.max(1, Math.round(value * 1000))} ms` : `${figure(value)} s`;
}

/** @param {number} value of 1 */
export function percent(value) {
  const hundredths = value * 100;
  return hundredths > 0 && hundredths < 0.1 ? "< 0.1 %" : `${hundredths.toFixed(hundredths < 99.95 ? 1 : 0)} %`;
}

/**
 * @param {number} value
 * @param {string} one
 * @param {string} [many]
 */
export function plural(value, one, many = `${one}s`) {
  return `${value} ${value === 1 ? one : many}`;
}

/**
 * @param {number} value seconds
 * @param {number} [digits] after the point
 * @returns {string} minutes and seconds: `2:07`
 */
export function clock(value, digits = 0) {
  const scale = 10 ** digits;
  const whole = Math.floor(value * scale) / scale;
  const minutes = Math.floor(whole / 60);
  return `${minutes}:${(whole - 60 * minutes).toFixed(digits).padStart(digits ? digits + 3 : 2, "0")}`;
}
