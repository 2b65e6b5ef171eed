/** What is served beside the page: `bundles.json`, as `edgec serve` or a static host gives it. */

import { TOOLS } from "./tools.js";

/**
 * @typedef {object} Entry
 * @property {string} name of the model
 * @property {string} url absolute, ends in "/"
 * @property {number} bytes of all its files that are needed
 * @property {number | null} depth bits to load of the nested codes of its weights; null where they are not nested
 * @property {string} profile the device class that it was compiled for, or ""
 * @property {string | null} report address of the compiler's report
 */

/** @typedef {Record<string, Entry[]>} Listing by the tool's name */

/**
 * @param {string} [address]
 * @returns {Promise<Listing>}
 */
export async function readListing(address = "bundles.json") {
  const url = new URL(address, document.baseURI);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`\`${address}\` was answered with status ${response.status}`);
  return sortOut(await response.json(), url);
}

/**
 * @param {unknown} json
 * @param {URL} base what the addresses in it are relative to
 * @returns {Listing}
 */
export function sortOut(json, base) {
  /** @type {Listing} */
  const listing = noBundles();
  const rows = /** @type {{bundles?: unknown}} */ (json)?.bundles;
  if (!Array.isArray(rows)) throw new Error("`bundles.json` has no list `bundles`");
  for (const row of rows) {
    const tool = TOOLS.find(({ takes }) => takes({ kind: row?.kind, task: row?.task }));
    if (!tool || typeof row.url !== "string") continue;
    const url = new URL(row.url.endsWith("/") ? row.url : `${row.url}/`, base);
    if (url.origin !== base.origin) continue; // the page's policy would refuse it anyway
    const name = typeof row.name === "string" ? row.name : url.pathname;
    for (const { bits, bytes } of depths(row))
      listing[tool.name].push({
        name: bits ? `${name}, ${bits} bits` : name,
        url: url.href,
        bytes: typeof bytes === "number" ? bytes : 0,
        depth: bits ?? null,
        profile: typeof row.profile === "string" ? row.profile : "",
        report: typeof row.report === "string" ? new URL(row.report, base).href : null,
      });
  }
  return listing;
}

/**
 * What may be loaded of a bundle: one row for each depth of nested codes, or one for all of it.
 *
 * @param {{bytes?: unknown, depths?: unknown}} row
 * @returns {{bits?: number, bytes?: unknown}[]}
 */
function depths(row) {
  const nested = Array.isArray(row.depths) ? row.depths.filter((depth) => typeof depth?.bits === "number") : [];
  return nested.length ? nested : [{ bytes: row.bytes }];
}

/** @returns {Listing} */
export function noBundles() {
  return Object.fromEntries(TOOLS.map(({ name }) => [name, []]));
}
