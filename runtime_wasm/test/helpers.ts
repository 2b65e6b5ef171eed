/** What several tests need. Tests run from build/test/, two folders below the package. */

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { after } from "node:test";
import type * as Edgec from "../src/index.js";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const FIXTURES = join(ROOT, "test/fixtures");

/** The built package, as users get it. */
export const edgec: typeof Edgec = await import(new URL("../../dist/edgec.js", import.meta.url).href);

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, "utf8")) as T;
}

/** A copy of a fixture bundle that the test may damage. */
export function copyBundle(kind: "decoder" | "graph"): string {
  const folder = mkdtempSync(join(tmpdir(), "edgec-test-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  cpSync(join(FIXTURES, kind), folder, { recursive: true });
  return folder;
}

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
