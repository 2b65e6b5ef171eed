// node verify_all.mjs RUNTIME DIR: the JavaScript verdict on every bundle that damaged_bundles.py wrote, as JSON.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [runtime, folder] = process.argv.slice(2);
const edgec = await import(pathToFileURL(runtime).href);
const verdicts = {};
for (const { case: name } of JSON.parse(readFileSync(join(folder, "expected.json"), "utf8"))) {
  try {
    await edgec.verify(join(folder, `${name}.edgec`));
    verdicts[name] = null;
  } catch (error) {
    verdicts[name] = error.code ?? String(error);
  }
}
console.log(JSON.stringify(verdicts));
