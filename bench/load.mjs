#!/usr/bin/env node
// How long a user waits for a model: over a link of a given speed, then again from the browser's storage.
//
//   node bench/load.mjs --bundle DIR [--megabits 50] [--browser chromium|firefox] [--threads 1] [--json]

import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { inPage, launch } from "../runtime_wasm/tools/browsers.mjs";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { run } from "./lib/command.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const OPTIONS = {
  bundle: { type: "string" },
  megabits: { type: "string", default: "50" },
  browser: { type: "string", default: "chromium" },
  threads: { type: "string", default: "1" },
  json: { type: "boolean", default: false },
};

/** Runs in the page: milliseconds from the start to the last byte, to a model that is ready, to its first token. */
async function loadAndAnswer(edgec, { threads }) {
  const started = performance.now();
  const since = () => performance.now() - started;
  let lastByte = 0;
  let seen = 0;
  const model = await edgec.load("/bundle/", {
    threads,
    contextLength: 1024,
    onProgress({ loadedBytes }) {
      if (loadedBytes !== seen) [seen, lastByte] = [loadedBytes, since()];
    },
  });
  const ready = since();
  let firstToken;
  for await (const _piece of model.generate("Hello", { maxTokens: 2, temperature: 0 })) firstToken ??= since();
  const { cache, cachedBytes, downloadedBytes } = await model.stats();
  await model.dispose();
  return { lastByte, ready, firstToken, cache, cachedBytes, downloadedBytes };
}

async function measure({ bundle, megabits, browser, threads }) {
  const server = new TestServer({ "/runtime/": join(here, "../runtime_wasm/dist"), "/bundle/": resolve(bundle) });
  const origin = await server.start();
  server.bytesPerSecond = (Number(megabits) * 1e6) / 8;
  const running = await launch(browser);
  try {
    const turns = [];
    for (let turn = 0; turn < 4; turn++) {
      const page = await running.newPage();
      await page.goto(`${origin}/`);
      const { value, error } = await inPage(page, loadAndAnswer, { threads: Number(threads) });
      if (error) throw new Error(error.message);
      turns.push(value);
      await page.close();
    }
    const [first, ...again] = turns;
    const second = again.sort((a, b) => a.firstToken - b.firstToken)[1];
    return { browser: await running.version(), megabits: Number(megabits), first, second };
  } finally {
    await running.close();
    await server.stop();
  }
}

function describe({ browser, megabits, first, second }) {
  const line = (name, { lastByte, ready, firstToken, cache, downloadedBytes, cachedBytes }) =>
    `${name}: ${(firstToken / 1000).toFixed(2)} s to the first token (last byte + ${(firstToken - lastByte).toFixed(0)} ms, of these ` +
    `${(ready - lastByte).toFixed(0)} to be ready); ${(downloadedBytes / 1e6).toFixed(1)} MB from the network, ${(cachedBytes / 1e6).toFixed(1)} MB from ${cache}`;
  const ratio = first.firstToken / second.firstToken;
  return [`${browser}, ${megabits} Mbit/s`, line("first load ", first), line("second load", second), `second load ${ratio.toFixed(1)}x faster`].join("\n");
}

await run(OPTIONS, async (flags) => {
  if (!flags.bundle) throw new Error("give --bundle");
  const result = await measure(flags);
  console.log(flags.json ? JSON.stringify(result) : describe(result));
  return true;
});
