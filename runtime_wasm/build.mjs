// Bundles src/ to dist/ and prints what a page has to load. `--tests` bundles the unit tests to build/test/ instead.
// `--module FILE` counts a model's wasm module too; without it, that of the demo model is taken if it has been compiled.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { brotliCompressSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({ options: { tests: { type: "boolean" }, module: { type: "string" } } });
const common = { absWorkingDir: here, bundle: true, format: "esm", target: "es2022", logLevel: "warning" };

if (options.tests) await buildTests();
else await buildRuntime();

async function buildTests() {
  const files = readdirSync(join(here, "test")).filter((name) => name.endsWith(".test.ts"));
  rmSync(join(here, "build/test"), { recursive: true, force: true });
  await build({
    ...common,
    entryPoints: files.map((name) => `test/${name}`),
    outdir: "build/test",
    outExtension: { ".js": ".mjs" },
    platform: "node",
    packages: "external",
    external: ["../../dist/*"],
    sourcemap: "inline",
  });
}

async function buildRuntime() {
  const fresh = join(here, "dist.new");
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh);
  const result = await build({
    ...common,
    entryPoints: { edgec: "src/index.ts", worker: "src/worker.ts", thread: "src/thread.ts" },
    outdir: fresh,
    splitting: true,
    chunkNames: "[name]-[hash]", // beside worker.js and thread.js, which are found relative to their caller,
    minify: true,
    metafile: true,
    legalComments: "none",
    platform: "browser",
  });
  const tsc = join(here, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, "-p", here, "--emitDeclarationOnly", "--outDir", join(fresh, "types")], {
    stdio: "inherit",
  });
  writeFileSync(join(fresh, "THIRD_PARTY_LICENSES.txt"), licenses());
  rmSync(join(here, "dist"), { recursive: true, force: true });
  renameSync(fresh, join(here, "dist"));
  report(result.metafile);
}

/** What the bundled packages ask to be passed on. */
function licenses() {
  const { dependencies } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
  const parts = Object.keys(dependencies).map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, "LICENSE"), "utf8").trim()}\n`;
  });
  return parts.join(`\n${"-".repeat(80)}\n\n`);
}

/** @param {import("esbuild").Metafile} metafile */
function report(metafile) {
  let total = 0;
  const rows = [];
  for (const [path, { inputs }] of Object.entries(metafile.outputs)) {
    const name = relative("dist.new", path);
    const bytes = readFileSync(join(here, "dist", name));
    const brotli = brotliCompressSync(bytes).length;
    const onlyFallback =
      Object.keys(inputs).length > 0 && Object.keys(inputs).every((input) => input.includes("@noble/hashes"));
    if (!onlyFallback) total += brotli;
    rows.push([name, bytes.length, brotli, onlyFallback ? "only without crypto.subtle" : describe(inputs)]);
  }
  const kilobytes = (count) => `${(count / 1000).toFixed(1)} kB`.padStart(9);
  for (const [name, bytes, brotli, note] of rows)
    console.log(`${name.padEnd(32)}${kilobytes(bytes)}${kilobytes(brotli)} brotli  ${note}`);
  console.log(`${"JavaScript in all".padEnd(41)}${kilobytes(total)} brotli`);
  const module = options.module ?? join(here, "../build/smollm2.edgec/module.relaxed16.wasm");
  if (!existsSync(module)) return;
  const wasm = brotliCompressSync(readFileSync(module)).length;
  console.log(
    `${"with the model's module".padEnd(41)}${kilobytes(total + wasm)} brotli (${kilobytes(wasm).trim()} of it the module; at most 100 kB)`,
  );
  if (total + wasm > 150_000) process.exitCode = 1;
}

function describe(inputs) {
  if (Object.keys(inputs).some((input) => input.includes("@huggingface/jinja"))) return "chat template, when needed";
  if (Object.keys(inputs).some((input) => input.includes("@huggingface/tokenizers"))) return "tokenizer, when needed";
  return "";
}
