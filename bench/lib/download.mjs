// What a page has to load before its model can run, apart from the model itself.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";

const cache = new Map();

/** Size of a file as a server with brotli would send it. */
export function brotliBytes(path) {
  if (!cache.has(path)) cache.set(path, brotliCompressSync(readFileSync(path)).length);
  return cache.get(path);
}

/** @param {string[]} files code, any paths twice count once */
export function codeBytes(files) {
  return [...new Set(files)].filter((path) => /\.(m?js|wasm)$/.test(path)).reduce((sum, path) => sum + brotliBytes(path), 0);
}

/** Every script of a folder, also those that a page loads only when it needs them. */
export function scriptsOf(folder) {
  return readdirSync(folder)
    .filter((name) => name.endsWith(".js"))
    .map((name) => join(folder, name));
}
