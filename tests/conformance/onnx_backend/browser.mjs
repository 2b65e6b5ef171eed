// Runs compiled cases of ONNX's suite in one page of a real browser: `node browser.mjs --engine chromium --folder DIR`.
//
// DIR holds `jobs.json`, a list of {bundle, sets: [{name: {array, shape, data}}]}, and the bundles. Prints, per job, {sets: [{name:
// {dtype, shape, data}}]} or {error}. `array` is the name of a typed array, `data` its bytes in base64.

import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "../../../runtime_wasm");
const { TestServer } = await import(`${root}/tools/server.mjs`);
const { launch, inPage } = await import(`${root}/tools/browsers.mjs`);

const { values: flags } = parseArgs({ options: { engine: { type: "string" }, folder: { type: "string" } } });
const folder = resolve(flags.folder);
const jobs = JSON.parse(readFileSync(join(folder, "jobs.json"), "utf8"));

/** In the page. */
async function runCases(edgec, jobs) {
  const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
  const toBase64 = (data) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  };
  const map = (object, convert) => Object.fromEntries(Object.entries(object).map(([k, v]) => [k, convert(v)]));
  const results = [];
  for (const { bundle, sets } of jobs) {
    try {
      const model = await edgec.load(`/bundles/${bundle}/`, { worker: false, cache: "none", threads: 1 });
      const found = [];
      for (const inputs of sets) {
        const feed = map(inputs, ({ array, shape, data }) => ({ shape, data: new globalThis[array](fromBase64(data)) }));
        const outputs = await model.run(feed);
        found.push(map(outputs, ({ dtype, shape, data }) => ({ dtype, shape, data: toBase64(data) })));
      }
      await model.dispose();
      results.push({ sets: found });
    } catch (error) {
      results.push({ error: `${error.code ?? error.name}: ${error.message}` });
    }
  }
  return results;
}

const server = new TestServer({ "/bundles/": folder, "/runtime/": join(root, "dist") });
const origin = await server.start();
const browser = await launch(flags.engine);
try {
  const page = await browser.newPage();
  await page.goto(`${origin}/`);
  const { value, error } = await inPage(page, runCases, jobs);
  if (error) throw new Error(error.message);
  console.log(JSON.stringify(value));
} finally {
  await browser.close();
  await server.stop();
}
