import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { LoadOptions, Model } from "../src/index.js";
import type { FileCache } from "../src/load/cache.js";
import { Stores } from "../src/load/stores.js";
import { TestServer } from "../tools/server.mjs";
import { FakeDirectory, type FakeFeatures, withOpfs } from "./fake_storage.js";
import { copyInManyFiles, edgec, failsWith, sha256Of } from "./helpers.js";

const WEIGHTS = /\/weights\//;
const { folder, weightFiles } = copyInManyFiles();
const ALL = 2 + weightFiles; // the module and the tokenizer too
const server = new TestServer({ "/bundle/": folder });
const url = `${await server.start()}/bundle`;
test.after(() => server.stop());
test.afterEach(() => {
  server.faults = [];
  server.requests = [];
});

const load = (options: LoadOptions = {}): Promise<Model> =>
  edgec.load(url, { worker: false, threads: 1, variant: "simd128", cache: "opfs", ...options });

const answer = async (model: Model): Promise<string> =>
  (await model.generate([1, 2, 3], { maxTokens: 3, temperature: 0, hashLogits: true }).result).logitsSha256!;

const expected = answer(await load({ cache: "none" }));

async function loads(options: LoadOptions = {}): Promise<void> {
  const model = await load(options);
  assert.equal(await answer(model), await expected);
  await model.dispose();
}

const stored = ({ files }: FakeDirectory): [string, Uint8Array][] =>
  [...files].filter(([name]) => name !== "index.json");

function assertWhole(directory: FakeDirectory, count = ALL): void {
  for (const [name, bytes] of stored(directory)) assert.equal(sha256Of(bytes), name);
  assert.equal(stored(directory).length, count);
}

/** Something that others can wait for. */
function latch(): { opened: Promise<void>; open: () => void } {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

test("the first token waits for no store; dispose does", async () => {
  const directory = new FakeDirectory();
  const { opened, open } = latch();
  directory.beforeWrite = () => opened;
  await withOpfs(directory, async () => {
    const model = await load();
    assert.equal(await answer(model), await expected);
    assert.equal(directory.writes, 0);
    let disposed = false;
    const disposal = model.dispose().then(() => (disposed = true));
    await failsWith("disposed", model.stats());
    await sleep(20);
    assert.ok(!disposed);
    open();
    await disposal;
  });
  assertWhole(directory);
});

test("an abort during the background store: the load ends at once, the store later; the next load takes it up", async () => {
  const directory = new FakeDirectory();
  const { opened, open } = latch();
  directory.beforeWrite = () => opened;
  await withOpfs(directory, async () => {
    server.faults = [{ match: WEIGHTS, kind: "stall" }];
    const controller = new AbortController();
    const loading = load({ signal: controller.signal });
    while (directory.files.size === 0) await sleep(1);
    controller.abort();
    await failsWith("aborted", loading);
    assert.equal(directory.writes, 0);
    open();
    server.faults = [];
    while (directory.writes < 2) await sleep(1);
    server.requests = [];
    await loads();
    assert.deepEqual(
      server.requests.filter((path) => !WEIGHTS.test(path)),
      ["/bundle/manifest.json"],
      "module and tokenizer were complete",
    );
  });
  assertWhole(directory);
});

test("an abort while the cache is being looked through", async () => {
  const directory = new FakeDirectory();
  await withOpfs(directory, async () => {
    const controller = new AbortController();
    directory.keys = async function* () {
      controller.abort();
      yield* [];
    };
    await failsWith("aborted", load({ signal: controller.signal }));
  });
  assert.deepEqual(server.requests, ["/bundle/manifest.json"]);
});

test("after a load, its signal stops neither the model nor the store", async () => {
  const directory = new FakeDirectory();
  const { opened, open } = latch();
  directory.beforeWrite = () => opened;
  await withOpfs(directory, async () => {
    const controller = new AbortController();
    const model = await load({ signal: controller.signal });
    controller.abort();
    open();
    assert.equal(await answer(model), await expected);
    await model.dispose();
  });
  assertWhole(directory);
});

test("a store that fails costs that file and those after it, and leaves nothing begun", async () => {
  const directory = new FakeDirectory();
  let count = 0;
  directory.beforeWrite = () => {
    if (++count >= 4) throw new DOMException("the disk is broken", "UnknownError");
  };
  await withOpfs(directory, async () => {
    await loads();
    assertWhole(directory, 3);
    directory.beforeWrite = () => undefined;
    server.requests = [];
    await loads();
    assert.equal(server.requests.length, 1 + ALL - 3);
  });
  assertWhole(directory);
});

const PLACES: Record<string, FakeFeatures> = {
  pages: { writables: true },
  workers: { writables: true, accessHandles: true },
  "workers of old Safari": { accessHandles: true },
};

for (const [place, features] of Object.entries(PLACES)) {
  test(`tabs that load the same files at once: ${place}`, async () => {
    const directory = new FakeDirectory(features);
    directory.beforeWrite = () => sleep(2);
    await withOpfs(directory, async () => {
      await Promise.all([loads(), loads(), loads()]);
      assertWhole(directory);
      await Promise.all([loads(), loads()]);
      server.requests = [];
      await Promise.all([loads(), loads()]);
      assert.equal(server.requests.length, 2, "the manifest, twice");
    });
  });

  test(`a bit that has flipped in the cache: ${place}`, async () => {
    const directory = new FakeDirectory(features);
    await withOpfs(directory, async () => {
      await loads();
      for (const [, bytes] of stored(directory)) {
        bytes[bytes.length >> 1] ^= 1;
        server.requests = [];
        await loads();
        assert.equal(server.requests.length, 2, "the manifest and that file");
        assertWhole(directory);
      }
    });
  });
}

test("a file that another tab has open is left to it; the others are stored", async () => {
  const directory = new FakeDirectory({ accessHandles: true });
  await withOpfs(directory, async () => {
    await loads();
    const [name, bytes] = stored(directory)[3];
    const file = (await directory.getFileHandle(name)) as { createSyncAccessHandle(): Promise<{ close(): void }> };
    for (const other of directory.files.keys()) if (other !== name) directory.files.delete(other);
    directory.files.set(name, bytes.subarray(1)); // half written
    const handle = await file.createSyncAccessHandle();
    await loads();
    handle.close();
    assert.equal(directory.files.get(name)!.length, bytes.length - 1);
    directory.files.delete(name);
    assertWhole(directory, ALL - 1);
  });
});

test("storage that never answers costs a download", async () => {
  const directory = new FakeDirectory();
  await withOpfs(directory, async () => {
    await loads();
    const getFileHandle = directory.getFileHandle.bind(directory);
    directory.getFileHandle = (name, options) =>
      options?.create ? getFileHandle(name, options) : new Promise(() => undefined);
    server.requests = [];
    const model = await load();
    assert.equal(await answer(model), await expected);
  });
  assert.equal(server.requests.length, 1 + ALL);
});

test("a store that never ends is given up, and its memory with it", async () => {
  const puts: string[] = [];
  const cache = {
    put: (key: string) => {
      puts.push(key);
      return key === "stuck" ? new Promise(() => undefined) : Promise.resolve();
    },
  } as unknown as FileCache;
  const stores = new Stores(cache, 10);
  const freed = ["good", "stuck", "late"].map((key) => stores.put(key, new Uint8Array(1)));
  assert.deepEqual(await Promise.all(freed), [true, false, true]);
  await stores.settled();
  assert.deepEqual(puts, ["good", "stuck"]);
});
