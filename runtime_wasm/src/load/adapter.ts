/** The bytes of an adapter: from a URL, a path, or given by the page. */

import { EdgecError, throwIfAborted } from "../errors.js";
import { sha256 } from "../sha256.js";
import { DEFAULT_RETRY, downloadUnknown } from "./download.js";
import { type BundleSource, CustomSource, type FileContent, openSource, resolveLocation } from "./source.js";

export type { FileContent } from "./source.js";

const MAX_BYTES = 2 ** 30;

/** `expected` is the SHA-256 that the page wants, if it wants one. The result is a copy that may go to a worker. */
export async function readAdapter(
  from: string | URL | FileContent,
  expected: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  throwIfAborted(signal);
  const bytes = await content(from, signal);
  const digest = expected === undefined ? undefined : await sha256(bytes);
  if (digest !== expected?.toLowerCase()) {
    throw new EdgecError(
      "hash-mismatch",
      `the adapter has a SHA-256 that begins with ${digest!.slice(0, 16)}, the page expects ${expected!.slice(0, 16)}`,
    );
  }
  return bytes;
}

function content(from: string | URL | FileContent, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const options = { signal, retry: DEFAULT_RETRY };
  if (typeof from === "string" || from instanceof URL) {
    const url = resolveLocation(from);
    const folder = new URL(".", url);
    folder.search = url.search;
    const file = decodeURIComponent(url.pathname.slice(url.pathname.lastIndexOf("/") + 1));
    return downloadUnknown(openSource(folder), file, MAX_BYTES, "the adapter", options);
  }
  if (typeof from !== "object" || from === null) {
    throw new EdgecError("invalid-argument", "`loadAdapter` takes a URL, a path or the bytes of a file");
  }
  const source: BundleSource = { read: async () => from };
  return downloadUnknown(new CustomSource(source), "the adapter", MAX_BYTES, "the adapter", options);
}
