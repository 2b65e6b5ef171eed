// The same tests in Chromium and Firefox, against the bundles that a browser really loads.
//
//   node tests/browser/suite.mjs --engine chromium|firefox --decoder DIR --graph DIR [--only TEXT] [--json]

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { inPage, launch } from "../../runtime_wasm/tools/browsers.mjs";
import { TestServer } from "../../runtime_wasm/tools/server.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { values: flags } = parseArgs({
  options: {
    engine: { type: "string", default: "chromium" },
    decoder: { type: "string", default: join(root, "runtime_wasm/test/fixtures/decoder") },
    graph: { type: "string", default: join(root, "runtime_wasm/test/fixtures/graph") },
    only: { type: "string", default: "" },
    json: { type: "boolean", default: false },
  },
});

const server = new TestServer({
  "/decoder/": resolve(flags.decoder),
  "/graph/": resolve(flags.graph),
  "/speech/": join(root, "runtime_wasm/test/fixtures/speech"),
  "/runtime/": join(root, "runtime_wasm/dist"),
});
const WEIGHTS = /\/decoder\/weights\//;
const QUICK = { attempts: 2, delay: 1, stall: 60_000 };
const CHAT = {
  messages: [{ role: "user", content: "What is the capital of France?" }],
  options: { temperature: 0, maxTokens: 16, hashLogits: true },
};

/** Loads, answers, disposes; in the page. */
const answer = async (edgec, { from = "/decoder/", load, messages, options }) => {
  const model = await edgec.load(from, load);
  const stream = model.chat(messages, options);
  let text = "";
  for await (const piece of stream) text += piece;
  const result = await stream.result;
  const stats = await model.stats();
  await model.dispose();
  return { text, result, stats };
};

/** What Node says to the same question. */
async function expected() {
  const edgec = await import("../../runtime_wasm/dist/edgec.js");
  const { result } = await answer(edgec, {
    ...CHAT,
    from: resolve(flags.decoder),
    load: { worker: false, threads: 1, variant: "simd128" },
  });
  return { tokenIds: result.tokenIds, text: result.text, logitsSha256: result.logitsSha256 };
}

function same(value, wanted) {
  const { tokenIds, text, logitsSha256 } = value.result;
  assert.deepEqual({ tokenIds, text, logitsSha256 }, wanted);
  assert.equal(value.text, wanted.text);
}

/** In the page: the names in OPFS; fails where a file's content is not that of its name. */
const storedFiles = async () => {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("edgec");
  const names = [];
  for await (const [name, handle] of folder.entries()) {
    const digest = await crypto.subtle.digest("SHA-256", await (await handle.getFile()).arrayBuffer());
    const hex = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (name === hex) names.push(name);
    else if (name !== "index.json") throw new Error(`${name} has the hash ${hex}`);
  }
  return names;
};

const requestsFor = (pattern) => server.requests.filter((path) => pattern.test(path)).length;

/** name -> test; each gets a fresh page. */
const TESTS = {
  "answers in a worker with threads, as Node does": async (run, wanted) => {
    const value = await run(answer, { ...CHAT, load: { threads: 2 } });
    same(value, wanted);
    assert.match(value.stats.variant, /^relaxed(16)?-threads$/);
    assert.equal(value.stats.threads, 2);
  },

  "every variant computes the same": async (run, wanted) => {
    for (const [variant, threads] of [
      ["simd128", 1],
      ["relaxed", 1],
      ["relaxed16", 1],
      ["simd128-threads", 2],
      ["relaxed-threads", 1],
      ["relaxed16-threads", 2],
    ]) {
      const value = await run(answer, { ...CHAT, load: { variant, threads } });
      same(value, wanted);
      assert.equal(value.stats.variant, variant);
    }
  },

  "answers without a worker": async (run, wanted) => {
    const value = await run(answer, { ...CHAT, load: { worker: false } });
    same(value, wanted);
    assert.match(value.stats.variant, /^relaxed(16)?$/);
  },

  "answers without cross-origin isolation": async (run, wanted) => {
    const value = await run(answer, { ...CHAT, load: {} });
    same(value, wanted);
    assert.match(value.stats.variant, /^relaxed(16)?$/);
    assert.equal(value.stats.threads, 1);
    const { error } = await run.raw(answer, { ...CHAT, load: { variant: "relaxed-threads" } });
    assert.equal(error?.code, "unsupported-browser");
  },

  "the second load comes from OPFS": async (run, wanted) => {
    same(await run(answer, { ...CHAT, load: { threads: 1 } }), wanted);
    server.requests = [];
    const value = await run(answer, { ...CHAT, load: { threads: 1 } });
    same(value, wanted);
    assert.equal(value.stats.cache, "opfs");
    assert.equal(value.stats.downloadedBytes, 0);
    assert.equal(requestsFor(/^\/decoder\//), 1, "the manifest alone");
  },

  "damaged files in OPFS are fetched again": async (run, wanted) => {
    await run(answer, { ...CHAT, load: { threads: 1 } });
    const damaged = await run(async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("edgec");
      let count = 0;
      for await (const handle of folder.values()) {
        const { size } = await handle.getFile();
        const writer = await handle.createWritable();
        await writer.write(new Uint8Array(count % 2 ? size : size - 1));
        await writer.close();
        count++;
      }
      return count;
    });
    assert.ok(damaged >= 3 + 1, "the files and the index");
    server.requests = [];
    const value = await run(answer, { ...CHAT, load: { threads: 1 } });
    same(value, wanted);
    assert.equal(value.stats.cachedBytes, 0);
    assert.equal(requestsFor(WEIGHTS), await weightFiles());
    await run(async (edgec) => edgec.clearCache());
    assert.equal(
      await run(
        async () =>
          (await Array.fromAsync((await (await navigator.storage.getDirectory()).getDirectoryHandle("edgec")).keys()))
            .length,
      ),
      0,
    );
  },

  "a bit that has flipped in OPFS: that file is fetched again": async (run, wanted) => {
    await run(answer, { ...CHAT, load: { threads: 1 } });
    const weights = (await (await fetch(`${server.origin}/decoder/manifest.json`)).json()).weights[0].file;
    await run(async (_, name) => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("edgec");
      const handle = await folder.getFileHandle(name);
      const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
      bytes[bytes.length >> 1] ^= 1;
      const writer = await handle.createWritable();
      await writer.write(bytes);
      await writer.close();
    }, weights.slice("weights/".length, -".bin".length));
    server.requests = [];
    same(await run(answer, { ...CHAT, load: { threads: 1 } }), wanted);
    assert.deepEqual(server.requests.filter((path) => path.startsWith("/decoder/")), ["/decoder/manifest.json", `/decoder/${weights}`]);
    await run(storedFiles);
  },

  "a model that is disposed of at once has stored its files": async (run, wanted) => {
    await run(async (edgec) => (await edgec.load("/decoder/", { threads: 1 })).dispose());
    assert.ok((await run(storedFiles)).length >= 3);
    server.requests = [];
    same(await run(answer, { ...CHAT, load: { threads: 1 } }), wanted);
    assert.equal(requestsFor(/^\/decoder\//), 1, "the manifest alone");
  },

  "tabs that load the same files at once": async (run, wanted) => {
    for (let round = 0; round < 3; round++) {
      const values = await run(
        async (edgec, { body, job }) => {
          const answer = eval(body);
          return Promise.all([1, 2, 3].map(() => answer(edgec, job)));
        },
        { body: `(${answer})`, job: { ...CHAT, load: { threads: 1 } } },
      );
      for (const value of values) same(value, wanted);
      assert.ok((await run(storedFiles)).length >= 3);
    }
    server.requests = [];
    same(await run(answer, { ...CHAT, load: { threads: 1 } }), wanted);
    assert.equal(requestsFor(/^\/decoder\//), 1, "the manifest alone");
  },

  "the first token waits for no store; dispose does": async (run, wanted) => {
    const value = await run(async (edgec, { messages, options }) => {
      const original = FileSystemFileHandle.prototype.createWritable;
      let open;
      const opened = new Promise((resolve) => (open = resolve));
      FileSystemFileHandle.prototype.createWritable = async function () {
        await opened;
        return original.call(this);
      };
      const model = await edgec.load("/decoder/", { worker: false });
      const result = await model.chat(messages, options).result;
      let disposed = false;
      const disposal = model.dispose().then(() => (disposed = true));
      await new Promise((resolve) => setTimeout(resolve, 50));
      const early = disposed;
      open();
      await disposal;
      return { text: result.text, result, early };
    }, CHAT);
    same(value, wanted);
    assert.equal(value.early, false);
    assert.ok((await run(storedFiles)).length >= 3);
  },

  "a store that fails leaves nothing, and costs nothing but the cache": async (run, wanted) => {
    const value = await run(async (edgec, { messages, options }) => {
      FileSystemFileHandle.prototype.createWritable = () => Promise.reject(new DOMException("full", "QuotaExceededError"));
      const model = await edgec.load("/decoder/", { worker: false });
      const result = await model.chat(messages, options).result;
      await model.dispose();
      return { text: result.text, result };
    }, CHAT);
    same(value, wanted);
    assert.deepEqual(await run(storedFiles), []);
  },

  "no OPFS: the Cache API serves; no storage at all is fine": async (run, wanted) => {
    const without = async (edgec, job) => {
      StorageManager.prototype.getDirectory = () => Promise.reject(new DOMException("no", "SecurityError"));
      if (job.noCaches) Object.defineProperty(globalThis, "caches", { value: undefined, configurable: true });
      const model = await edgec.load("/decoder/", { worker: false });
      const stream = model.chat(job.messages, job.options);
      const result = await stream.result;
      return { text: result.text, result, stats: await model.stats() };
    };
    for (const [cache, downloads, noCaches] of [
      ["cache-api", true, false],
      ["cache-api", false, false],
      ["none", true, true],
    ]) {
      const value = await run(without, { ...CHAT, noCaches });
      same(value, wanted);
      assert.equal(value.stats.cache, cache);
      assert.equal(value.stats.downloadedBytes > 0, downloads);
    }
  },

  "bad weights: truncated, zero-filled, swapped, 404, 500, HTML; then a normal load": async (run, wanted) => {
    const cases = [
      [{ kind: "truncate" }, "length-mismatch"],
      [{ kind: "zero" }, "hash-mismatch"],
      [{ kind: "swap", with: "/decoder/tokenizer.json" }, "length-mismatch"],
      [{ kind: "status", status: 404 }, "file-missing"],
      [{ kind: "status", status: 500 }, "http"],
      [{ kind: "html" }, "http"],
      [{ kind: "reset" }, "network|length-mismatch"],
    ];
    for (const [fault, code] of cases) {
      server.faults = [{ match: WEIGHTS, ...fault }];
      const { error } = await run.raw(answer, { ...CHAT, load: { retry: QUICK } });
      assert.match(error?.code ?? "none", new RegExp(`^(${code})$`), JSON.stringify([fault, error]));
      assert.ok(error.message.includes("weights/"), error.message);
    }
    server.faults = [];
    same(await run(answer, { ...CHAT, load: {} }), wanted);
  },

  "a transfer that breaks once is tried again": async (run, wanted) => {
    server.faults = [{ match: WEIGHTS, kind: "reset", times: 1 }];
    same(await run(answer, { ...CHAT, load: { retry: QUICK } }), wanted);
  },

  "abort in mid-download, then a normal load": async (run, wanted) => {
    server.faults = [{ match: WEIGHTS, kind: "stall" }];
    const error = await run(async (edgec) => {
      const controller = new AbortController();
      const loaded = edgec.load("/decoder/", {
        signal: controller.signal,
        onProgress: ({ phase, file }) => {
          if (phase === "download" && file.startsWith("weights/")) setTimeout(() => controller.abort(), 500);
        },
      });
      return loaded.then(
        () => "loaded",
        ({ name, code }) => `${name} ${code}`,
      );
    });
    assert.equal(error, "AbortError aborted");
    server.faults = [];
    server.requests = [];
    same(await run(answer, { ...CHAT, load: {} }), wanted);
    assert.deepEqual(
      server.requests.filter((path) => /^\/decoder\/(module|tokenizer)/.test(path)),
      [],
      "these were complete",
    );
  },

  "abort in mid-answer, then a normal answer": async (run, wanted) => {
    const value = await run(async (edgec, { messages, options }) => {
      const model = await edgec.load("/decoder/");
      const controller = new AbortController();
      const cut = model.chat(messages, { ...options, maxTokens: 64, ignoreEos: true, signal: controller.signal });
      let pieces = 0;
      const code = await (async () => {
        for await (const _ of cut) if (++pieces === 3) controller.abort();
      })().then(
        () => "ended",
        (error) => error.code,
      );
      const result = await model.chat(messages, options).result;
      await model.dispose();
      const after = await model.stats().catch((error) => error.code);
      return { code, after, text: result.text, result };
    }, CHAT);
    same(value, wanted);
    assert.equal(value.code, "aborted");
    assert.equal(value.after, "disposed");
  },

  "sounds become text, as in Python": async (run) => {
    const { waves, long } = JSON.parse(readFileSync(join(root, "runtime_wasm/test/fixtures/audio.json"), "utf8"));
    const value = await run(
      async (edgec, { wav, samples }) => {
        const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
        const model = await edgec.load("/speech/", { threads: 2 });
        const stream = model.transcribe(new Float32Array(bytes(samples).buffer));
        let text = "";
        for await (const piece of stream) text += piece;
        const { segments } = await stream.result;
        const file = await model.transcribe(new Blob([bytes(wav)])).text();
        const buffer = new AudioBuffer({ length: 800, numberOfChannels: 2, sampleRate: 16000 });
        const { audioSeconds } = await model.transcribe(buffer).result;
        await model.dispose();
        return { text, segments, file, audioSeconds };
      },
      { wav: waves[0].wav, samples: long.samples },
    );
    assert.equal(value.text, long.text);
    assert.deepEqual(value.segments, long.segments);
    assert.ok(value.file.length > 0);
    assert.equal(value.audioSeconds, 0.05);
  },

  "graphs run, with and without threads": async (run) => {
    for (const threads of [1, 3]) {
      const { y, z } = await run(async (edgec, threads) => {
        const model = await edgec.load("/graph/", { threads });
        const { y, z } = await model.run({
          x: { data: Float32Array.from({ length: 12 }, (_, i) => i), shape: [3, 4] },
        });
        await model.dispose();
        return { y: Array.from(y.data), z: Array.from(z.data) };
      }, threads);
      assert.deepEqual(z, [0, 1, 2]);
      assert.deepEqual(
        y.map((value, i) => value - 2 * i),
        [
          ...y.slice(0, 4).map((value, i) => value - 2 * i),
          ...y.slice(0, 4).map((value, i) => value - 2 * i),
          ...y.slice(0, 4).map((value, i) => value - 2 * i),
        ],
      );
    }
  },

  "images of every kind are the same pixels": async (run) => {
    const scores = await run(async (edgec) => {
      const manifest = await (await fetch("/graph/manifest.json")).json();
      manifest.inputs[0].shape = [1, 2, 2, "batch"];
      const image = {
        width: 2,
        height: 2,
        layout: "NHWC",
        channels: "RGB",
        fit: "stretch",
        interpolation: "bilinear",
        mean: [0, 0, 0],
        std: [1, 1, 1],
      };
      manifest.task = { type: "image-classification", image, labels: null, scores: "probabilities" };
      const source = {
        read: (file) => (file === "manifest.json" ? new Blob([JSON.stringify(manifest)]) : fetch(`/graph/${file}`)),
      };
      const model = await edgec.load(source, { threads: 1 });

      const canvas = Object.assign(document.createElement("canvas"), { width: 2, height: 2 });
      const context = canvas.getContext("2d");
      const data = Uint8ClampedArray.from([255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 10, 20, 30, 255]);
      context.putImageData(new ImageData(data, 2, 2), 0, 0);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      const url = URL.createObjectURL(blob);
      const element = Object.assign(new Image(), { src: url });
      await element.decode();
      const inputs = [
        new ImageData(data, 2, 2),
        { width: 2, height: 2, data },
        canvas,
        blob,
        element,
        await createImageBitmap(blob),
        url,
      ];
      const results = [];
      for (const input of inputs) results.push(await model.classify(input, { topK: 12 }));
      const broken = await model.classify(new Blob(["no image"])).catch((error) => error.code);
      await model.dispose();
      return [...results, broken];
    });
    assert.equal(scores.pop(), "image");
    assert.equal(scores.length, 7);
    for (const result of scores) assert.deepEqual(result, scores[0]);
    assert.equal(scores[0].length, 12);
  },

  "a page without crypto.subtle still checks every hash": async (run, wanted) => {
    const body = async (edgec, { messages, options }) => {
      Object.defineProperty(crypto, "subtle", { value: undefined });
      const model = await edgec.load("/decoder/", {
        worker: false,
        cache: "none",
        retry: { attempts: 1, delay: 1, stall: 60_000 },
      });
      const result = await model.chat(messages, options).result;
      return { text: result.text, result };
    };
    same(await run(body, CHAT), wanted);
    server.faults = [{ match: WEIGHTS, kind: "zero" }];
    assert.equal((await run.raw(body, CHAT)).error?.code, "hash-mismatch");
  },

  "a content security policy that forbids WebAssembly is named": async (run) => {
    const { error } = await run.raw(answer, { ...CHAT, load: { threads: 1 } });
    assert.equal(error?.code, "unsupported-browser", JSON.stringify(error));
    assert.match(error.hint, /wasm-unsafe-eval/);
  },

  "a worker's script that is not there is named": async (run) => {
    const { error } = await run.raw(answer, { ...CHAT, load: { workerUrl: "/runtime/nowhere.js" } });
    assert.equal(error?.code, "worker-failed");
    const thread = await run.raw(answer, { ...CHAT, load: { threads: 2, threadUrl: "/runtime/nowhere.js" } });
    assert.equal(thread.error?.code, "worker-failed");
  },
};

const SETTINGS = {
  "answers without cross-origin isolation": { isolation: false },
  "a content security policy that forbids WebAssembly is named": {
    headers: { "Content-Security-Policy": "script-src 'self'; worker-src 'self'" },
  },
};

async function weightFiles() {
  const manifest = await (await fetch(`${server.origin}/decoder/manifest.json`)).json();
  server.requests.pop();
  return new Set(manifest.weights.map(({ file }) => file)).size;
}

async function runTest(browser, name, wanted) {
  server.faults = [];
  server.requests = [];
  server.isolation = SETTINGS[name]?.isolation ?? true;
  server.headers = SETTINGS[name]?.headers ?? {};
  const page = await browser.newPage();
  try {
    await page.goto(`${server.origin}/`);
    const raw = (body, argument) => inPage(page, body, argument);
    const run = async (body, argument) => {
      const { value, error } = await raw(body, argument);
      assert.ok(!error, JSON.stringify(error));
      return value;
    };
    run.raw = raw;
    await run(async (edgec) => edgec.clearCache());
    server.requests = [];
    await TESTS[name](run, wanted);
  } finally {
    await page.close();
  }
}

await server.start();
const browser = await launch(flags.engine);
const results = {};
try {
  const wanted = await expected();
  for (const name of Object.keys(TESTS).filter((test) => test.includes(flags.only))) {
    const started = performance.now();
    try {
      await runTest(browser, name, wanted);
      results[name] = "passed";
    } catch (error) {
      results[name] = error.stack;
    }
    if (!flags.json)
      console.log(
        `${results[name] === "passed" ? "ok  " : "FAIL"} ${name} (${Math.round(performance.now() - started)} ms)${results[name] === "passed" ? "" : `\n${results[name]}`}`,
      );
  }
  if (flags.json) console.log(JSON.stringify({ engine: flags.engine, version: await browser.version(), results }));
} finally {
  await browser.close();
  await server.stop();
}
process.exitCode = Object.values(results).every((result) => result === "passed") ? 0 : 1;
