#!/usr/bin/env node
// How long a user waits for a model: over a link of a given speed, then again from the browser's storage.
//
//   node bench/load.mjs --bundle DIR [--megabits 50] [--browsers chromium,firefox] [--threads 1,2] [--rounds 3] [--json] [--check]

import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { inPage, launch } from "../runtime_wasm/tools/browsers.mjs";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { checkBrowser, listed, run, wholeNumber } from "./lib/command.mjs";
import { GrowthWatch } from "./lib/processes.mjs";
import { median } from "./lib/statistics.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const OPTIONS = {
  bundle: { type: "string" },
  megabits: { type: "string", default: "50" },
  browsers: { type: "string", default: "chromium,firefox" },
  threads: { type: "string", default: "1,2" },
  rounds: { type: "string", default: "3" },
  json: { type: "boolean", default: false },
  check: { type: "boolean", default: false },
};
/** Loads from storage after each first load. */
const AGAIN = 3;
const MOST_AFTER_LAST_BYTE = 100; // ms
const LEAST_RATIO = 10;
/** Milliseconds after which an empty tab has the memory that it keeps. */
const SETTLES = 1000;

/** Runs in the page: milliseconds from the start to a model that is ready, to its first token, to the end of `dispose` after that. */
async function loadAndAnswer(edgec, { threads }) {
  const started = performance.now();
  const since = () => performance.now() - started;
  const model = await edgec.load("/bundle/", { threads, contextLength: 1024 });
  const ready = since();
  let firstToken;
  for await (const _piece of model.generate("Hello", { maxTokens: 2, temperature: 0 })) firstToken ??= since();
  const { cache, cachedBytes, downloadedBytes, memoryBytes } = await model.stats();
  const answered = since();
  await model.dispose();
  const dispose = since() - answered;
  return { startedAt: performance.timeOrigin + started, ready, firstToken, dispose, cache, cachedBytes, downloadedBytes, memoryBytes };
}

const lastByteAt = ({ sentAt }) => Math.max(...[...sentAt].flatMap(([path, time]) => (path.startsWith("/bundle/") ? [time] : [])));

/** A first load with an empty profile, then some from its storage. */
async function turn(server, { browser, threads }) {
  const running = await launch(browser);
  try {
    const loads = [];
    for (let load = 0; load < 1 + AGAIN; load++) {
      const page = await running.newPage();
      await page.goto(`${server.origin}/`);
      await new Promise((resolve) => setTimeout(resolve, SETTLES));
      const memory = new GrowthWatch(running.process().pid);
      const { value, error } = await inPage(page, loadAndAnswer, { threads });
      const grown = memory.end();
      if (error) throw new Error(error.message);
      loads.push({ ...value, grown, lastByte: lastByteAt(server) - value.startedAt });
      await page.close();
    }
    return { version: await running.version(), loads };
  } finally {
    await running.close();
  }
}

/** What is measured; throws for what no run can be made of. */
function settings(flags) {
  if (!flags.bundle) throw new Error("give --bundle");
  for (const browser of listed(flags.browsers)) checkBrowser(browser);
  const threads = listed(flags.threads).map((count) => wholeNumber({ threads: count }, "threads", 1));
  const cases = listed(flags.browsers).flatMap((browser) => threads.map((count) => ({ browser, threads: count, turns: [] })));
  return { bundle: flags.bundle, megabits: wholeNumber(flags, "megabits", 1), rounds: wholeNumber(flags, "rounds", 1), cases };
}

async function measure({ bundle, megabits, rounds, cases }) {
  const server = new TestServer({ "/runtime/": join(here, "../runtime_wasm/dist"), "/bundle/": resolve(bundle) });
  await server.start();
  server.bytesPerSecond = (megabits * 1e6) / 8;
  try {
    for (let round = 0; round < rounds; round++) for (const one of cases) one.turns.push(await turn(server, one));
  } finally {
    await server.stop();
  }
  return { megabits, cases: cases.map(conclude) };
}

function conclude({ browser, threads, turns }) {
  const firsts = turns.map(({ loads }) => loads[0]);
  const again = turns.flatMap(({ loads }) => loads.slice(1));
  const middle = (loads, what) => median(loads.map(what));
  const first = {
    seconds: middle(firsts, ({ firstToken }) => firstToken) / 1000,
    readyAfterLastByte: middle(firsts, ({ ready, lastByte }) => ready - lastByte),
    tokenAfterLastByte: middle(firsts, ({ firstToken, lastByte }) => firstToken - lastByte),
    dispose: middle(firsts, ({ dispose }) => dispose),
    downloadedBytes: firsts[0].downloadedBytes,
    memoryBytes: firsts[0].memoryBytes,
    peakBytes: firsts.every(({ grown }) => grown) ? middle(firsts, ({ grown }) => grown.peak) : null,
  };
  const second = {
    seconds: middle(again, ({ firstToken }) => firstToken) / 1000,
    ready: middle(again, ({ ready }) => ready),
    cache: again[0].cache,
    cachedBytes: Math.min(...again.map(({ cachedBytes }) => cachedBytes)),
    downloadedBytes: Math.max(...again.map(({ downloadedBytes }) => downloadedBytes)),
    peakBytes: again.every(({ grown }) => grown) ? middle(again, ({ grown }) => grown.peak) : null,
  };
  return { browser, version: turns[0].version, threads, first, second, ratio: first.seconds / second.seconds };
}

const reached = ({ first, ratio }) => first.tokenAfterLastByte <= MOST_AFTER_LAST_BYTE && ratio >= LEAST_RATIO;

const MiB = (bytes) => (bytes / 2 ** 20).toFixed(0);

function describe({ megabits, cases }) {
  const line = ({ version, threads, first, second, ratio }) =>
    [
      `${version}, ${threads} thread${threads > 1 ? "s" : ""}, ${megabits} Mbit/s`,
      `  first load : ${first.seconds.toFixed(2)} s to the first token; after the last byte ${first.readyAfterLastByte.toFixed(0)} ms to be ready, ` +
        `${first.tokenAfterLastByte.toFixed(0)} ms to the first token (at most ${MOST_AFTER_LAST_BYTE}); ${(first.downloadedBytes / 1e6).toFixed(1)} MB downloaded`,
      `  second load: ${second.seconds.toFixed(2)} s to the first token; ${(second.cachedBytes / 1e6).toFixed(1)} MB from ${second.cache}, ` +
        `${(second.downloadedBytes / 1e6).toFixed(1)} MB downloaded`,
      `  second load ${ratio.toFixed(1)}x faster (at least ${LEAST_RATIO})`,
      ...(first.peakBytes === null || second.peakBytes === null
        ? []
        : [
            `  memory     : ${MiB(first.memoryBytes)} MiB of WebAssembly; the tab grows by at most ${MiB(first.peakBytes)} MiB in the first load and by ` +
              `${MiB(second.peakBytes)} in the second`,
          ]),
    ].join("\n");
  return cases.map(line).join("\n");
}

await run(OPTIONS, async (flags) => {
  const result = await measure(settings(flags));
  console.log(flags.json ? JSON.stringify(result) : describe(result));
  return !flags.check || result.cases.every(reached);
});
