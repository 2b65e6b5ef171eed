/** What several tests need. Tests run from build/test/, two folders below the package. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { after } from "node:test";
import type { Manifest } from "../src/bundle/manifest.js";
import type * as Edgec from "../src/index.js";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const FIXTURES = join(ROOT, "test/fixtures");

/** The built package, as users get it. */
export const edgec: typeof Edgec = await import(new URL("../../dist/edgec.js", import.meta.url).href);

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, "utf8")) as T;
}

/** A copy of a fixture bundle that the test may damage. */
export function copyBundle(kind: "decoder" | "graph" | "graphs"): string {
  const folder = mkdtempSync(join(tmpdir(), "edgec-test-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  cpSync(join(FIXTURES, kind), folder, { recursive: true });
  return folder;
}

/** A copy of the decoder whose weights are many files, one per segment. */
export function copyInManyFiles(): { folder: string; weightFiles: number } {
  const folder = copyBundle("decoder");
  const manifest = readJson<Manifest>(join(folder, "manifest.json"));
  const [{ file, segments }] = manifest.weights;
  const bytes = readFileSync(join(folder, file));
  rmSync(join(folder, file));
  delete manifest.files[file];
  let at = 0;
  const weights = segments.map((segment) => {
    const part = bytes.subarray(at, (at += segment.length));
    const sha256 = sha256Of(part);
    const name = `weights/${sha256}.bin`;
    writeFileSync(join(folder, name), part);
    manifest.files[name] = { bytes: part.length, sha256 };
    return { file: name, segments: [segment] };
  });
  writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...manifest, weights }));
  return { folder, weightFiles: new Set(weights.map((weight) => weight.file)).size };
}

export const sha256Of = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Asserts that `promise` fails with an `EdgecError` of this code, and returns it. */
export async function failsWith(code: string, promise: Promise<unknown>): Promise<Edgec.EdgecError> {
  let caught: unknown;
  try {
    await promise;
  } catch (error) {
    caught = error;
  }
  assert.ok(caught, `nothing failed, expected \`${code}\``);
  const error = caught as Edgec.EdgecError;
  assert.equal(error.code, code, `${error.message} (${error.stack})`);
  assert.doesNotMatch(error.message, /\.$/);
  return error;
}
