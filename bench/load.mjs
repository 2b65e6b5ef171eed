#!/usr/bin/env node
// How long a user waits for a model: over a link of a given speed, then again from the browser's storage.
//
//   node bench/load.mjs --bundle DIR [--megabits 50] [--browsers chromium,firefox] [--threads 1,2] [--rounds 3] [--niceness N] [--json] [--check]

import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "../runtime_wasm/tools/browsers.mjs";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { checkBrowser, listed, run, wholeNumber } from "./lib/command.mjs";
import { GrowthWatch, prioritize } from "./lib/processes.mjs";
import { median } from "./lib/statistics.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const OPTIONS = {
  bundle: { type: "string" },
  megabits: { type: "string", default: "50" },
  browsers: { type: "string", default: "chromium,firefox" },
  threads: { type: "string", default: "1,2" },
  rounds: { type: "string", default: "3" },
  niceness: { type: "string" },
  json: { type: "boolean", default: false },
  check: { type: "boolean", default: false },
};
/** Loads from storage after each first load. */
const AGAIN = 3;
const MOST_AFTER_LAST_BYTE = 100; // ms
const LEAST_RATIO = 10;
const MOST_GROWTH = 1.15; // of the tab, of its WebAssembly memory

/** Hears what the page posts. */
class LoadServer extends TestServer {
  #waiting = new Map();

  /** The next body that comes to a path. */
  heard(path) {
    return new Promise((resolve) => this.#waiting.set(path, resolve));
  }

  async answer(request, response) {
    const hear = request.method === "POST" && this.#waiting.get(request.url);
    if (!hear) return super.answer(request, response);
    let body = "";
    for await (const chunk of request) body += chunk;
    hear(JSON.parse(body));
    response.end();
  }
}

/** A tab without DevTools, which keep up to 100 MB of what it downloads in its memory. Returns how to close it. */
async function openTab(running, browser, url) {
  if (browser === "firefox") {
    const page = await running.newPage();
    await page.goto(url);
    return () => page.close();
  }
  const devtools = await running.target().createCDPSession();
  const { targetId } = await devtools.send("Target.createTarget", { url });
  return () => devtools.send("Target.closeTarget", { targetId });
}

/** What the page measures, see pages/load.html, and by how much its process has `grown` meanwhile. */
async function inTab(running, server, { browser, niceness }, what) {
  const [start, done] = [server.heard("/start"), server.heard("/done")];
  const close = await openTab(running, browser, `${server.origin}/load/load.html?case=${encodeURIComponent(JSON.stringify(what))}`);
  const early = await Promise.race([start, done]); // it may fail before it starts
  if (niceness !== undefined) prioritize(running.process().pid, niceness);
  const memory = new GrowthWatch(running.process().pid);
  const { value, error } = early ?? (await done);
  const grown = memory.end();
  await close();
  if (error) throw new Error(error);
  return { ...value, grown };
}

const lastByteAt = ({ sentAt }) => Math.max(...[...sentAt].flatMap(([path, time]) => (path.startsWith("/bundle/") ? [time] : [])));

/** A first load with an empty profile, then some from its storage, then a tab that has the same memory and nothing else. */
async function turn(server, one) {
  const { browser, threads } = one;
  const running = await launch(browser);
  try {
    const loads = [];
    for (let load = 0; load < 1 + AGAIN; load++) {
      const measured = await inTab(running, server, one, { threads });
      loads.push({ ...measured, lastByte: lastByteAt(server) - measured.startedAt });
    }
    const bare = await inTab(running, server, one, { bytes: loads[0].memoryBytes });
    return { version: await running.version(), loads, bare };
  } finally {
    await running.close();
  }
}

/** What is measured; throws for what no run can be made of. */
function settings(flags) {
  if (!flags.bundle) throw new Error("give --bundle");
  for (const browser of listed(flags.browsers)) checkBrowser(browser);
  const threads = listed(flags.threads).map((count) => wholeNumber({ threads: count }, "threads", 1));
  const niceness = flags.niceness === undefined ? undefined : Number(flags.niceness);
  const cases = listed(flags.browsers).flatMap((browser) => threads.map((count) => ({ browser, threads: count, niceness, turns: [] })));
  return { bundle: flags.bundle, megabits: wholeNumber(flags, "megabits", 1), rounds: wholeNumber(flags, "rounds", 1), cases };
}

async function measure({ bundle, megabits, rounds, cases }) {
  const server = new LoadServer({ "/runtime/": join(here, "../runtime_wasm/dist"), "/bundle/": resolve(bundle), "/load/": join(here, "pages") });
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
  const peak = (tabs) => (tabs.every(({ grown }) => grown) ? middle(tabs, ({ grown }) => grown.peak) : null);
  const first = {
    seconds: middle(firsts, ({ firstToken }) => firstToken) / 1000,
    readyAfterLastByte: middle(firsts, ({ ready, lastByte }) => ready - lastByte),
    tokenAfterLastByte: middle(firsts, ({ firstToken, lastByte }) => firstToken - lastByte),
    dispose: middle(firsts, ({ dispose }) => dispose),
    downloadedBytes: firsts[0].downloadedBytes,
    memoryBytes: firsts[0].memoryBytes,
    peakBytes: peak(firsts),
  };
  const second = {
    seconds: middle(again, ({ firstToken }) => firstToken) / 1000,
    ready: middle(again, ({ ready }) => ready),
    cache: again[0].cache,
    cachedBytes: Math.min(...again.map(({ cachedBytes }) => cachedBytes)),
    downloadedBytes: Math.max(...again.map(({ downloadedBytes }) => downloadedBytes)),
    peakBytes: peak(again),
  };
  const bareBytes = peak(turns.map(({ bare }) => bare));
  return { browser, version: turns[0].version, threads, first, second, ratio: first.seconds / second.seconds, bareBytes };
}

const growth = ({ first, second }) => Math.max(first.peakBytes, second.peakBytes) / first.memoryBytes;
const reached = (one) => one.first.tokenAfterLastByte <= MOST_AFTER_LAST_BYTE && one.ratio >= LEAST_RATIO && growth(one) <= MOST_GROWTH;

const MiB = (bytes) => (bytes / 2 ** 20).toFixed(0);

function describe({ megabits, cases }) {
  const line = (one) => {
    const { version, threads, first, second, ratio, bareBytes } = one;
    return [
      `${version}, ${threads} thread${threads > 1 ? "s" : ""}, ${megabits} Mbit/s`,
      `  first load : ${first.seconds.toFixed(2)} s to the first token; after the last byte ${first.readyAfterLastByte.toFixed(0)} ms to be ready, ` +
        `${first.tokenAfterLastByte.toFixed(0)} ms to the first token (at most ${MOST_AFTER_LAST_BYTE}); ${(first.downloadedBytes / 1e6).toFixed(1)} MB downloaded`,
      `  second load: ${second.seconds.toFixed(2)} s to the first token; ${(second.cachedBytes / 1e6).toFixed(1)} MB from ${second.cache}, ` +
        `${(second.downloadedBytes / 1e6).toFixed(1)} MB downloaded`,
      `  second load ${ratio.toFixed(1)}x faster (at least ${LEAST_RATIO})`,
      ...(first.peakBytes === null
        ? []
        : [
            `  memory     : ${MiB(first.memoryBytes)} MiB of WebAssembly; the tab grows by at most ${MiB(first.peakBytes)} MiB in the first load and by ` +
              `${MiB(second.peakBytes)} in the second, ${growth(one).toFixed(2)}x (at most ${MOST_GROWTH}); one with that memory alone by ${MiB(bareBytes)}`,
          ]),
    ].join("\n");
  };
  return cases.map(line).join("\n");
}

await run(OPTIONS, async (flags) => {
  const result = await measure(settings(flags));
  console.log(flags.json ? JSON.stringify(result) : describe(result));
  return !flags.check || result.cases.every(reached);
});
