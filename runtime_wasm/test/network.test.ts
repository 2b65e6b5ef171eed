import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import type { BundleSource, LoadOptions } from "../src/index.js";
import { type Fault, TestServer } from "../tools/server.mjs";
import { FakeCaches, FakeDirectory, withGlobals, withOpfs } from "./fake_storage.js";
import { FIXTURES, copyBundle, edgec, failsWith, readJson } from "./helpers.js";

const WEIGHTS = /\/weights\//;
let server: InstanceType<typeof TestServer>;
let url: string;

before(async () => {
  server = new TestServer({ "/bundle/": join(FIXTURES, "decoder"), "/other/": join(FIXTURES, "graph") });
  url = `${await server.start()}/bundle`;
});
after(() => server.stop());
afterEach(() => {
  server.faults = [];
  server.requests = [];
});

/** In this thread, so that fake storage is seen; with quick retries. */
function load(options: LoadOptions = {}, from = url): ReturnType<typeof edgec.load> {
  return edgec.load(from, { worker: false, threads: 1, retry: { attempts: 3, delay: 1, stall: 200 }, ...options });
}

async function loads(options: LoadOptions = {}, from = url): Promise<void> {
  const model = await load(options, from);
  assert.equal((await model.generate([1, 2, 3], { maxTokens: 3, temperature: 0 }).result).completionTokens, 3);
  await model.dispose();
}

const withFaults = (...faults: Fault[]): void => {
  server.faults = faults;
};
const weightRequests = (): number => server.requests.filter((path: string) => WEIGHTS.test(path)).length;

test("loads from a folder's URL with or without a slash, and from the manifest's", async () => {
  await loads();
  await loads({}, `${url}/`);
  await loads({}, `${url}/manifest.json?version=1`);
});

test("progress ends with everything", async () => {
  const seen: { phase: string; loadedBytes: number; totalBytes: number }[] = [];
  await (await load({ onProgress: (progress) => seen.push(progress) })).dispose();
  assert.equal(seen[0].phase, "manifest");
  const last = seen.at(-1)!;
  assert.equal(last.phase, "ready");
  assert.equal(last.loadedBytes, last.totalBytes);
  assert.ok(seen.every(({ loadedBytes, totalBytes }) => loadedBytes <= Math.max(totalBytes, 0)));
});

for (const kind of ["truncate", "reset", "stall"] as const) {
  test(`a transfer that breaks once (${kind}) is tried again`, async () => {
    withFaults({ match: WEIGHTS, kind, times: 1 });
    await loads();
    assert.equal(weightRequests(), 2);
  });
}

test("a busy server is asked again, a broken one reported", async () => {
  withFaults({ match: WEIGHTS, kind: "status", status: 503, times: 2 });
  await loads();
  withFaults({ match: WEIGHTS, kind: "status", status: 500 });
  const error = await failsWith("http", load());
  assert.equal(error.status, 500);
  assert.match(error.message, /weights\/.* with status 500/);
});

test("missing files are not asked for twice", async () => {
  withFaults({ match: WEIGHTS, kind: "status", status: 404 });
  const error = await failsWith("file-missing", load());
  assert.equal(error.status, 404);
  assert.equal(weightRequests(), 1);
  withFaults({ match: /manifest/, kind: "status", status: 404 });
  await failsWith("file-missing", load());
});

test("HTML instead of files is named", async () => {
  withFaults({ match: WEIGHTS, kind: "html" });
  assert.match((await failsWith("http", load())).message, /HTML page/);
  withFaults({ match: /manifest/, kind: "html" });
  assert.match((await failsWith("http", load())).message, /`manifest.json` with an HTML page/);
});

test("truncated, zero-filled and swapped files never reach the module", async () => {
  withFaults({ match: WEIGHTS, kind: "truncate" });
  assert.match((await failsWith("length-mismatch", load())).message, /has 624 bytes, the manifest says 1248/);
  withFaults({ match: WEIGHTS, kind: "zero" });
  await failsWith("hash-mismatch", load());
  withFaults({ match: WEIGHTS, kind: "swap", with: "/bundle/tokenizer.json" });
  await failsWith("length-mismatch", load());
  withFaults({ match: /module\.[\w-]+\.wasm/, kind: "swap", with: "/other/module.simd128.wasm" });
  await failsWith("length-mismatch", load());
  withFaults({ match: /module\.[\w-]+\.wasm/, kind: "zero" });
  await failsWith("hash-mismatch", load());
});

test("streams in chunks of any size, too long and too short ones", async () => {
  const chunked = (size: number, change = (bytes: Uint8Array): Uint8Array => bytes): BundleSource => ({
    async read(file) {
      const content = readFileSync(join(FIXTURES, "decoder", file));
      const bytes = file.startsWith("weights/") ? change(content) : content;
      let at = 0;
      const pull = (controller: ReadableStreamDefaultController<Uint8Array>): void => {
        if (at === bytes.length) controller.close();
        else controller.enqueue(bytes.slice(at, (at += Math.min(size, bytes.length - at))));
      };
      return new Response(new ReadableStream({ pull }));
    },
  });
  for (const size of [1, 1000, 1 << 20]) {
    const model = await edgec.load(chunked(size), { worker: false, threads: 1 });
    await model.dispose();
  }
  await failsWith(
    "length-mismatch",
    edgec.load(
      chunked(100, (bytes) => bytes.subarray(1)),
      { worker: false },
    ),
  );
  await failsWith(
    "length-mismatch",
    edgec.load(
      chunked(100, (bytes) => Uint8Array.from([...bytes, 0])),
      { worker: false },
    ),
  );
  await failsWith(
    "hash-mismatch",
    edgec.load(
      chunked(100, (bytes) => Uint8Array.from(bytes).reverse()),
      { worker: false },
    ),
  );
});

test("a server that is gone", async () => {
  const error = await failsWith("network", load({}, "http://127.0.0.1:9/x.edgec"));
  assert.match(error.hint ?? "", /connection/);
});

test("a server that takes a request and never answers", async () => {
  withFaults({ match: WEIGHTS, kind: "silent", times: 1 });
  await loads();
  withFaults({ match: /manifest/, kind: "silent" });
  assert.match((await failsWith("network", load())).message, /`manifest.json` has stalled/);
});

test("a stalled download ends", async () => {
  withFaults({ match: WEIGHTS, kind: "stall" });
  assert.match((await failsWith("network", load())).message, /stalled/);
});

const SETTINGS = { cache: "opfs", variant: "simd128" } as const; // whatever else this Node could run

test("abort in mid-download, then a normal load that takes up what is there", async () => {
  const directory = new FakeDirectory();
  await withOpfs(directory, async () => {
    withFaults({ match: WEIGHTS, kind: "stall" });
    const controller = new AbortController();
    const abortOnce = (): void => {
      // What came before is stored meanwhile.
      if (directory.files.size < 2) setTimeout(abortOnce, 5);
      else controller.abort();
    };
    const onProgress = ({ phase, loadedBytes }: { phase: string; loadedBytes: number }): void => {
      if (phase === "download" && loadedBytes > 4500) abortOnce();
    };
    const error = await failsWith(
      "aborted",
      load({ ...SETTINGS, signal: controller.signal, onProgress, retry: { attempts: 1, delay: 1, stall: 60_000 } }),
    );
    assert.equal(error.name, "AbortError");
    assert.equal(directory.files.size, 2, "the module and the tokenizer were complete");

    server.faults = [];
    server.requests = [];
    await loads(SETTINGS);
    assert.deepEqual(
      server.requests.filter((path: string) => !WEIGHTS.test(path)),
      ["/bundle/manifest.json"],
    );
  });
  const controller = new AbortController();
  controller.abort();
  await failsWith("aborted", load({ signal: controller.signal }));
});

for (const [name, features] of [
  ["pages", { writables: true }],
  ["workers", { writables: true, accessHandles: true }],
  ["workers of old Safari", { accessHandles: true }],
  ["workers of Firefox", { writables: true, accessHandles: true, handlesLock: true }],
] as const) {
  test(`OPFS in ${name}: the second load downloads the manifest alone; damage is found and mended`, async () => {
    const directory = new FakeDirectory(features);
    await withOpfs(directory, async () => {
      await loads({ cache: "opfs" });
      assert.equal(directory.files.size, 3 + 1, "and the index");
      server.requests = [];
      const model = await load({ cache: "opfs" });
      const stats = await model.stats();
      assert.deepEqual(server.requests, ["/bundle/manifest.json"]);
      assert.equal(stats.cache, "opfs");
      assert.equal(stats.downloadedBytes, 0);
      assert.equal(stats.cachedBytes, 5365);
      await model.dispose();

      for (const damage of [(bytes: Uint8Array) => bytes.subarray(1), (bytes: Uint8Array) => bytes.fill(0)]) {
        for (const [name, bytes] of directory.files) directory.files.set(name, damage(bytes));
        server.requests = [];
        await loads({ cache: "opfs" });
        assert.equal(server.requests.length, 4);
      }
      await edgec.clearCache();
      assert.equal(directory.files.size, 0);
    });
  });

  test(`a full disk costs the cache, not the load (${name})`, async () => {
    const directory = new FakeDirectory(features);
    directory.quota = 2000;
    await withOpfs(directory, () => loads({ cache: "opfs" }));
    assert.ok([...directory.files.values()].reduce((sum, file) => sum + file.length, 0) <= 2000);
    directory.quota = Infinity;
    await withOpfs(directory, () => loads({ cache: "opfs" }));
    assert.equal(directory.files.size, 3 + 1);
  });
}

test("what the runtime stores itself stays out of the HTTP cache", async () => {
  const modes = new Set<unknown>();
  const original = globalThis.fetch;
  const spy = (url: URL, init: RequestInit): Promise<Response> => {
    if (WEIGHTS.test(url.pathname)) modes.add(init.cache);
    return original(url, init);
  };
  await withGlobals({ fetch: spy }, async () => {
    await withOpfs(new FakeDirectory(), () => loads({ cache: "opfs" }));
    assert.deepEqual([...modes], ["no-store"]);
    await loads({ cache: "none" });
    assert.deepEqual([...modes], ["no-store", "default"]);
  });
});

test("the Cache API serves where OPFS does not, and none at all is fine", async () => {
  const caches = new FakeCaches();
  await withGlobals(
    { caches, navigator: { storage: { getDirectory: () => Promise.reject(new DOMException("no", "SecurityError")) } } },
    async () => {
      await loads({ cache: "cache-api" });
      assert.equal(caches.files.size, 3 + 1);
      server.requests = [];
      await loads({ cache: "cache-api" });
      assert.equal(server.requests.length, 1);
      await loads({ cache: "opfs" });
    },
  );
});

test("a new version of a bundle takes the place of the old one; files of others stay", async () => {
  const directory = new FakeDirectory();
  const folder = copyBundle("decoder");
  const changing = new TestServer({ "/bundle/": folder });
  const address = `${await changing.start()}/bundle`;
  try {
    await withOpfs(directory, async () => {
      await loads({ cache: "opfs" });
      await loads({ cache: "opfs" }, address);
      const old = [...directory.files.keys()];

      const tokenizer = Buffer.from(
        JSON.stringify({ ...readJson<object>(join(folder, "tokenizer.json")), version: "2" }),
      );
      const manifest = readJson<{ files: Record<string, object> }>(join(folder, "manifest.json"));
      manifest.files["tokenizer.json"] = {
        bytes: tokenizer.length,
        sha256: createHash("sha256").update(tokenizer).digest("hex"),
      };
      writeFileSync(join(folder, "tokenizer.json"), tokenizer);
      writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
      await loads({ cache: "opfs" }, address);
      assert.equal(directory.files.size, old.length + 1, "the first server still has the old tokenizer");

      rmSync(join(folder, "manifest.json"));
      writeFileSync(join(folder, "manifest.json"), readFileSync(join(FIXTURES, "decoder/manifest.json")));
      writeFileSync(join(folder, "tokenizer.json"), readFileSync(join(FIXTURES, "decoder/tokenizer.json")));
      await loads({ cache: "opfs" }, address);
      assert.deepEqual([...directory.files.keys()].sort(), old.sort());
    });
  } finally {
    await changing.stop();
  }
});

test("the manifest's hash, if the page gives it", async () => {
  await failsWith("hash-mismatch", load({ manifestSha256: "0".repeat(64) }));
  const digest = createHash("sha256")
    .update(readFileSync(join(FIXTURES, "decoder/manifest.json")))
    .digest("hex");
  await loads({ manifestSha256: digest.toUpperCase() });
});

test("a worker reports the same errors", async () => {
  withFaults({ match: WEIGHTS, kind: "zero" });
  const error = await failsWith("hash-mismatch", load({ worker: true }));
  assert.match(error.file ?? "", /^weights\//);
  server.faults = [];
  await loads({ worker: true });
});

test("verify: the same verdicts as for a directory, but for extra files", async () => {
  await edgec.verify(url);
  withFaults({ match: /tokenizer/, kind: "status", status: 404 });
  await failsWith("file-missing", edgec.verify(url));
});

test("a directory: extra, missing, shortened and damaged files", async () => {
  const folder = copyBundle("decoder");
  await edgec.verify(folder);
  writeFileSync(join(folder, "notes.txt"), "x");
  await failsWith("file-unexpected", edgec.verify(folder));
  rmSync(join(folder, "notes.txt"));
  writeFileSync(join(folder, "tokenizer.json"), "{}");
  await failsWith("length-mismatch", edgec.verify(folder));
  await failsWith("length-mismatch", load({}, folder));
  rmSync(join(folder, "tokenizer.json"));
  await failsWith("file-missing", edgec.verify(folder));
  await failsWith("file-missing", load({}, folder));
  await failsWith("file-missing", load({}, join(folder, "nowhere")));
});
