// What the command lines of run.mjs, graphs.mjs, shapes.mjs and load.mjs share.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { parseArgs } from "node:util";

export const SHARED_OPTIONS = {
  contenders: { type: "string", default: "" },
  rounds: { type: "string", default: "5" },
  retries: { type: "string", default: "2" },
  browser: { type: "string", default: "chromium" },
  native: { type: "boolean", default: false },
  python: { type: "string", default: "python3" },
  niceness: { type: "string" },
  from: { type: "string" },
  json: { type: "boolean", default: false },
  save: { type: "string" },
  report: { type: "string" },
  check: { type: "boolean", default: false },
};

const BROWSERS = ["chromium", "firefox"];

export const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));

/** Calls `action` with the flags; it returns whether all went well. What it throws is told in a line. */
export async function run(options, action) {
  try {
    const { values: flags } = parseArgs({ options });
    if (!(await action(flags))) process.exitCode = 1;
  } catch (error) {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  }
}

/**
 * A benchmark with SHARED_OPTIONS.
 * @param {object} steps `measure(flags)` gives what --save keeps, `conclude` the result of that; `terminal(result)`, `plot(result)` and
 *   `page(result, picture)` show it, and `outcome(result)` lists its entries and verdicts
 */
export async function benchmark(options, { measure, conclude, terminal, plot, page, outcome }) {
  await run(options, async (flags) => {
    const measured = flags.from ? readJson(flags.from) : await measure(flags);
    if (flags.save) write(flags.save, `${JSON.stringify(measured, null, 1)}\n`);
    const result = conclude(measured);
    console.log(flags.json ? JSON.stringify(result) : terminal(result));
    if (flags.report) writePage(flags.report, plot(result), (picture) => page(result, picture));
    const { entries, verdicts } = outcome(result);
    return !entries.some(({ failure }) => failure) && !(flags.check && verdicts.some(({ reached }) => !reached));
  });
}

/** `{rounds, retries, niceness}` of the flags; throws for what no run can be made of. */
export function sharedSettings(flags, browsers = BROWSERS) {
  checkBrowser(flags.browser, browsers);
  const niceness = flags.niceness === undefined ? undefined : Number(flags.niceness);
  return { rounds: wholeNumber(flags, "rounds", 1), retries: wholeNumber(flags, "retries", 0), niceness };
}

export function checkBrowser(name, browsers = BROWSERS) {
  if (!browsers.includes(name)) throw new Error(`there is no browser \`${name}\``);
}

export function wholeNumber(flags, name, least) {
  const value = Number(flags[name]);
  if (!Number.isInteger(value) || value < least) throw new Error(`--${name} is not a whole number, ${least} or more`);
  return value;
}

/** What was given, between commas. */
export const listed = (text) => (text ? text.split(",") : []);

/** Throws where one of the ids is none of the known things'. */
export function checkIds(ids, known) {
  const unknown = ids.filter((id) => !known.some((one) => one.id === id));
  if (unknown.length) throw new Error(`there is no \`${unknown.join("`, `")}\`; there are ${known.map(({ id }) => id).join(", ")}`);
}

function write(path, text) {
  mkdirSync(dirname(resolve(path)), { recursive: true });
  writeFileSync(path, text);
}

/** A page and the plot beside it; `page` makes the text from the plot's file name. */
export function writePage(path, plot, page) {
  const picture = path.replace(/\.md$/, ".svg");
  write(picture, plot);
  write(path, page(basename(picture)));
}
