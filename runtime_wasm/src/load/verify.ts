/** `edgec verify` in JavaScript: every check of docs/bundle-format.md without running anything. */

import { MANIFEST_FILE } from "../bundle/manifest.js";
import { EdgecError } from "../errors.js";
import { DEFAULT_RETRY, download, downloadManifest } from "./download.js";
import { readManifest } from "./loader.js";
import { type BundleSource, CustomSource, type Source, openSource, resolveLocation } from "./source.js";

/** Throws the first finding as an `EdgecError`. Extra files are found where the source can list them: in local directories. */
export async function verify(
  from: string | URL | BundleSource,
  options: { manifestSha256?: string; signal?: AbortSignal } = {},
): Promise<void> {
  const source: Source =
    typeof from === "string" || from instanceof URL ? openSource(resolveLocation(from)) : new CustomSource(from);
  const retry = DEFAULT_RETRY;
  const manifest = await readManifest(await downloadManifest(source, { ...options, retry }), options.manifestSha256);
  const files = Object.keys(manifest.files).sort();
  if (source.list) await checkListing(source, manifest.files);
  for (const file of files) await download(source, file, manifest.files[file], { ...options, retry });
}

async function checkListing(source: Source, files: Record<string, { bytes: number }>): Promise<void> {
  const present = await source.list!();
  const extra = [...present.keys()].sort().find((name) => name !== MANIFEST_FILE && !files[name]);
  if (extra !== undefined)
    throw new EdgecError("file-unexpected", `\`${extra}\` does not belong in the bundle`, { file: extra });
  const wanted = Object.keys(files).sort();
  for (const file of wanted)
    if (!present.has(file)) throw new EdgecError("file-missing", `\`${file}\` is missing`, { file });
  for (const file of wanted)
    if (present.get(file) === null)
      throw new EdgecError("file-unexpected", `\`${file}\` is not a plain file`, { file });
  for (const file of wanted) {
    const length = present.get(file);
    if (length !== files[file].bytes) {
      throw new EdgecError(
        "length-mismatch",
        `\`${file}\` has ${length} bytes, the manifest says ${files[file].bytes}`,
        { file },
      );
    }
  }
}
