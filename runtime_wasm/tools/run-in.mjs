#!/usr/bin/env node
// Runs a list of jobs on a bundle in Node or a real browser and prints what came out as JSON.
//
//   node tools/run-in.mjs --engine node|chromium|firefox --bundle DIR --prompts FILE [--variant V] [--threads N] [--depth BITS] [--json]
//       [--max-tokens 64] [--temperature 0] [--seed 0] [--ignore-eos] [--no-hash] [--no-outputs] [--repeat 1] [--no-isolation] [--inline]
//   node tools/run-in.mjs ... --limits FILE --json
//
// Of FILEs, "-" reads standard input. --prompts has a JSON list of jobs (see scenario.mjs). --limits times the kernels of the first job,
// and the machine with the probes of that file (see profile.mjs). Without --json a table is printed.

import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));

/** Firefox rounds times to 20 microseconds; Chromium to 5, whatever one asks for. */
const FINE_CLOCK = { "privacy.reduceTimerPrecision": false };

const { values: flags } = parseArgs({
  options: {
    engine: { type: "string", default: "node" },
    bundle: { type: "string" },
    prompts: { type: "string" },
    limits: { type: "string" },
    variant: { type: "string" },
    threads: { type: "string" },
    depth: { type: "string" },
    "max-tokens": { type: "string", default: "64" },
    temperature: { type: "string", default: "0" },
    seed: { type: "string", default: "0" },
    repeat: { type: "string", default: "1" },
    "ignore-eos": { type: "boolean", default: false },
    "no-hash": { type: "boolean", default: false },
    "no-outputs": { type: "boolean", default: false },
    "no-isolation": { type: "boolean", default: false },
    inline: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});

function request() {
  if (!flags.bundle || !flags.prompts) throw new Error("give --bundle and --prompts");
  const read = (path) => JSON.parse(readFileSync(path === "-" ? 0 : path, "utf8"));
  const jobs = read(flags.prompts);
  if (!Array.isArray(jobs)) throw new Error("--prompts is not a JSON list");
  return {
    load: {
      variant: flags.variant,
      threads: flags.threads ? Number(flags.threads) : undefined,
      depth: flags.depth ? Number(flags.depth) : undefined,
      worker: !flags.inline,
      cache: "none",
    },
    options: {
      maxTokens: Number(flags["max-tokens"]),
      temperature: Number(flags.temperature),
      seed: Number(flags.seed),
      ignoreEos: flags["ignore-eos"],
      hashLogits: !flags["no-hash"],
    },
    jobs,
    repeat: Number(flags.repeat),
    keepOutputs: !flags["no-outputs"],
    ...(flags.limits ? { limits: read(flags.limits) } : {}),
  };
}

async function inNode(job) {
  const edgec = await import("../dist/edgec.js");
  const { runJobs } = await import("./scenario.mjs");
  const { timeKernels } = await import("./profile.mjs");
  const work = job.limits ? timeKernels : runJobs;
  return { engine: "node", version: process.version, ...(await work(edgec, resolve(flags.bundle), job)) };
}

async function inBrowser(name, job) {
  const { TestServer } = await import("./server.mjs");
  const { launch, inPage } = await import("./browsers.mjs");
  const server = new TestServer({
    "/bundle/": resolve(flags.bundle),
    "/runtime/": join(here, "../dist"),
    "/tools/": here,
  });
  server.isolation = !flags["no-isolation"];
  const origin = await server.start();
  const browser = await launch(name, { preferences: job.limits ? FINE_CLOCK : {} });
  try {
    const page = await browser.newPage();
    await page.goto(`${origin}/`);
    const body = async (edgec, job) => {
      const { runJobs } = await import("/tools/scenario.mjs");
      const { timeKernels } = await import("/tools/profile.mjs");
      const work = job.limits ? timeKernels : runJobs;
      return { isolated: crossOriginIsolated, ...(await work(edgec, "/bundle/", job)) };
    };
    const { value, error } = await inPage(page, body, job);
    if (error) throw Object.assign(new Error(error.message), error);
    return { engine: name, version: await browser.version(), ...value };
  } finally {
    await browser.close();
    await server.stop();
  }
}

function table({ engine, version, stats, results, loadSeconds }) {
  console.log(
    `${engine} ${version}  ${stats.variant}  ${stats.threads} thread(s)  loaded in ${loadSeconds.toFixed(2)} s  ${(stats.memoryBytes / 2 ** 20).toFixed(0)} MiB`,
  );
  for (const result of results) {
    if (result.tokenIds) {
      const speed = `prefill ${result.prefillTokensPerSecond.toFixed(1)} tok/s, decode ${result.decodeTokensPerSecond.toFixed(1)} tok/s`;
      console.log(
        `${JSON.stringify(result.text)}  ${speed}${result.logitsSha256 ? `  logits ${result.logitsSha256.slice(0, 16)}` : ""}`,
      );
    } else {
      const { vectors, outputs, ...rest } = result;
      const summary =
        vectors?.map((vector) => vector.slice(0, 4)) ??
        (outputs && Object.entries(outputs).map(([name, { shape, sha256 }]) => [name, shape, sha256.slice(0, 16)]));
      console.log(JSON.stringify(summary ? { ...rest, summary } : rest));
    }
  }
}

try {
  const job = request();
  if (!["node", "chromium", "firefox"].includes(flags.engine))
    throw new Error(`there is no engine \`${flags.engine}\``);
  const outcome = flags.engine === "node" ? await inNode(job) : await inBrowser(flags.engine, job);
  if (flags.json) console.log(JSON.stringify(outcome));
  else table(outcome);
} catch (error) {
  const { code, message, hint } = error;
  if (flags.json) console.log(JSON.stringify({ error: { code, message, hint } }));
  console.error(`error: ${message}${hint ? `\n  hint: ${hint}` : ""}`);
  process.exitCode = 1;
}
