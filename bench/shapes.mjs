#!/usr/bin/env node
// Writes the page about all shapes: node bench/shapes.mjs FOLDER docs/benchmarks-shapes.md
// FOLDER has NAME.json (of run.mjs --shape NAME --save) and NAME.compile.json (of timed.py).

import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJson, writePage } from "./lib/command.mjs";
import { summarizeEntries } from "./lib/measure.mjs";
import { plotShapes } from "./lib/plot.mjs";
import { SHAPES } from "./lib/shapes.mjs";
import { shapesPage } from "./lib/shapes_page.mjs";

const [folder, page] = process.argv.slice(2);
const read = (name) => (existsSync(join(folder, name)) ? readJson(join(folder, name)) : undefined);

const results = Object.keys(SHAPES).flatMap((name) => {
  const measured = read(`${name}.json`);
  return measured ? [{ ...measured, entries: summarizeEntries(measured.entries), compile: read(`${name}.compile.json`) }] : [];
});
writePage(page, plotShapes(results), (picture) => shapesPage(results, picture));
