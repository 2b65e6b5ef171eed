// Bundles src/ to dist/ and prints what a page has to load. `--tests` bundles the unit tests to build/test/ instead.
// `--module FILE` counts a model's wasm module too; without it, that of the demo model is taken if it has been compiled.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { brotliCompressSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({ options: { tests: { type: "boolean" }, module: { type: "string" } } });
const common = { absWorkingDir: here, bundle: true, format: "esm", target: "es2022", logLevel: "warning" };

/** Scripts that a page loads for some models only, by what they begin with. */
const SOMETIMES = {
  "@noble/hashes/sha2.js": "only without crypto.subtle",
  "src/text/chat.ts": "chat template, when needed",
  "src/text/tokenizer.ts": "tokenizer, when needed",
  "src/session/embedding.ts": "embeddings, when needed",
  "src/session/pictures.ts": "pictures, when needed",
  "src/session/sounds.ts": "sounds, when needed",
  "src/session/text_tasks.ts": "labels of texts, when needed",
  "src/session/segmentation.ts": "segments of pictures, when needed",
};
const CHAT = ["src/text/chat.ts", "src/text/tokenizer.ts"];

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
function report({ outputs }) {
  const sizes = new Map();
  for (const path of Object.keys(outputs)) {
    const bytes = readFileSync(join(here, "dist", relative("dist.new", path)));
    sizes.set(path, { plain: bytes.length, brotli: brotliCompressSync(bytes).length });
  }
  const kilobytes = (count) => `${(count / 1000).toFixed(1)} kB`.padStart(9);
  for (const [path, { plain, brotli }] of sizes) {
    const note = SOMETIMES[entryOf(outputs[path])] ?? "";
    console.log(`${relative("dist.new", path).padEnd(32)}${kilobytes(plain)}${kilobytes(brotli)} brotli  ${note}`);
  }
  const loaded = (parts) => [...closure(outputs, parts)].reduce((sum, path) => sum + sizes.get(path).brotli, 0);
  const line = (name, size, rest = "") => console.log(`${name.padEnd(41)}${kilobytes(size)} brotli${rest}`);
  const all = Object.keys(SOMETIMES).filter((entry) => !entry.includes("@noble"));
  line("JavaScript in all", loaded(all));
  line("of it for a chat", loaded(CHAT));
  line("of it for pictures and texts", loaded(["src/text/tokenizer.ts", "src/session/pictures.ts"]));
  line("of it for speech", loaded(["src/text/tokenizer.ts", "src/session/sounds.ts"]));
  const module = options.module ?? join(here, "../build/smollm2.edgec/module.relaxed16.wasm");
  if (!existsSync(module)) return;
  const wasm = brotliCompressSync(readFileSync(module)).length;
  const total = loaded(CHAT) + wasm;
  line("for a chat with the model's module", total, ` (${kilobytes(wasm).trim()} of it the module; at most 100 kB)`);
  if (total > 100_000) process.exitCode = 1;
}

/** The file that a script begins with, packages by their name. */
function entryOf({ entryPoint = "" }) {
  return entryPoint.replace(/^.*node_modules\//, "");
}

/** The scripts that are loaded where of the `SOMETIMES` only `parts` are. */
function closure(outputs, parts) {
  const seen = new Set();
  const wanted = Object.keys(outputs).filter((path) => ["edgec", "worker", "thread"].includes(basename(path, ".js")));
  for (let path = wanted.pop(); path; path = wanted.pop()) {
    if (seen.has(path)) continue;
    seen.add(path);
    for (const next of outputs[path].imports.filter(({ external }) => !external)) {
      const entry = entryOf(outputs[next.path]);
      if (next.kind !== "dynamic-import" || !(entry in SOMETIMES) || parts.includes(entry)) wanted.push(next.path);
    }
  }
  return seen;
}
