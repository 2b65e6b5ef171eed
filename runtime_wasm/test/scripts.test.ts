import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

const DIST = fileURLToPath(new URL("../../dist/", import.meta.url));

/** What a script loads at once, or with everything that it may ask for later. */
function scriptsOf(entry: string, later: boolean): Map<string, string> {
  const found = new Map<string, string>();
  const wanted = [entry];
  for (let name = wanted.pop(); name; name = wanted.pop()) {
    if (found.has(name)) continue;
    const text = readFileSync(DIST + name, "utf8");
    found.set(name, text);
    const pattern = later ? /["']\.\/([\w-]+\.js)["']/g : /(?:from|import)\s*["']\.\/([\w-]+\.js)["']/g;
    wanted.push(...[...text.matchAll(pattern)].map(([, next]) => next));
  }
  return found;
}

/** A message in the code that reads pictures, and one in the code that reads sounds. */
const MARKS = ["the detector's output has the shape", "the audio is not a WAV file"];

test("the worker fetches the code of a task only for models that have it", () => {
  const holds = (scripts: Map<string, string>, mark: string): boolean =>
    [...scripts.values()].some((text) => text.includes(mark));
  for (const entry of ["worker.js", "edgec.js"]) {
    for (const mark of MARKS) {
      assert.equal(holds(scriptsOf(entry, false), mark), false, `${entry}: ${mark}`);
      assert.equal(holds(scriptsOf(entry, true), mark), true, `${entry}: ${mark}`);
    }
  }
});
