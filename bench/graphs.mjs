#!/usr/bin/env node
// Measures edgec and onnxruntime-web on the same graphs, in turns, in real browsers. README.md says what and how.
//
//   node bench/graphs.mjs --models DIR [--only minilm-128,yolox] [--contenders edgec,ort-web,...] [--threads 1,2] [--rounds 5] [--retries 2]
//       [--seconds 1] [--browser chromium|firefox] [--native] [--python PYTHON] [--niceness=N]
//       [--json] [--save FILE] [--report docs/benchmarks-graphs.md] [--check]
//   node bench/graphs.mjs --from FILE [--json] [--report docs/benchmarks-graphs.md] [--check]

import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { SHARED_OPTIONS, benchmark, checkIds, listed, readJson, sharedSettings } from "./lib/command.mjs";
import { graphMarkdown, graphPlot, graphTerminal } from "./lib/graph_report.mjs";
import { chooseKinds, conclude, contendersOf, turn } from "./lib/graphs.mjs";
import { BrowserContender } from "./lib/in_browser.mjs";
import { describeMachine } from "./lib/machine.mjs";
import { measureAll } from "./lib/measure.mjs";
import { NativeContender } from "./lib/native.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const peers = join(here, "node_modules");
const TABLE = readJson(join(here, "graphs.json"));

const OPTIONS = {
  models: { type: "string" },
  only: { type: "string", default: "" },
  threads: { type: "string", default: "1" },
  seconds: { type: "string", default: "1" },
  ...SHARED_OPTIONS,
};

function settings(flags) {
  if (!flags.models) throw new Error("give --models, the folder that make_graphs.py made, or --from");
  const only = listed(flags.only);
  checkIds(only, TABLE.workloads);
  const threads = listed(flags.threads).map(Number);
  if (!threads.length || threads.some((count) => !Number.isInteger(count) || count < 1)) throw new Error("--threads is a list such as 1,2");
  const seconds = Number(flags.seconds);
  if (!(seconds > 0)) throw new Error("--seconds is not a number above 0");
  const workloads = TABLE.workloads.filter(({ id }) => !only.length || only.includes(id));
  return { ...sharedSettings(flags), workloads, threads, seconds, kinds: chooseKinds(listed(flags.contenders), flags.native) };
}

async function measure(flags) {
  const { workloads, kinds, threads, seconds, rounds, retries, niceness } = settings(flags);
  const models = resolve(flags.models);
  const edgec = bundleFacts(models);
  const mounts = { "/bench/": join(here, "pages"), "/peers/": peers, "/runtime/": join(here, "../runtime_wasm/dist"), "/graphs/": models };
  const server = new TestServer(mounts);
  const origin = await server.start();
  const machine = describeMachine();
  const say = (note) => console.error(note);
  const results = [];
  try {
    for (const workload of workloads) {
      const folder = join(models, "workloads", workload.id);
      if (!existsSync(join(folder, "case.json"))) {
        say(`${workload.id}: skipped: make_graphs.py did not find its model`);
        results.push({ ...workload, skipped: "make_graphs.py did not find its model" });
        continue;
      }
      const inBrowser = { browser: flags.browser, origin, load: { model: workload.model, workload: workload.id }, niceness };
      const script = ({ precision, threads }) => [join(here, "native_graph.py"), join(models, "models", workload.model, `${precision}.onnx`), folder, threads];
      const start = (contender) =>
        contender.engine === "onnxruntime"
          ? NativeContender.start(contender, { python: flags.python, script: script(contender), niceness })
          : BrowserContender.start(contender, inBrowser);
      const contenders = contendersOf(TABLE.models[workload.model], kinds, threads);
      const work = { turn, unit: "per second", rounds, retries, seconds };
      results.push({ ...workload, entries: await measureAll(contenders, start, work, (note) => say(`${workload.id}: ${note}`)) });
    }
  } finally {
    await server.stop();
  }
  const entries = results.flatMap(({ entries = [] }) => entries);
  const versionOf = (engine) => entries.find((entry) => entry.engine === engine && entry.version)?.version;
  return {
    date: new Date().toISOString().slice(0, 10),
    machine,
    browser: versionOf("edgec") ?? versionOf("onnxruntime-web") ?? flags.browser,
    niceness: niceness ?? 0,
    work: { rounds, seconds, threads },
    edgec,
    peers: { "onnxruntime-web": readJson(join(peers, "onnxruntime-web", "package.json")).version, onnxruntime: versionOf("onnxruntime") },
    workloads: results,
  };
}

/** Compiler and profile of the bundles, which make_graphs.py makes alike. */
function bundleFacts(models) {
  const manifests = Object.keys(TABLE.models).map((model) => join(models, "models", model, "bundle.edgec", "manifest.json"));
  const found = manifests.find(existsSync);
  if (!found) throw new Error(`${models} has no bundles; make_graphs.py makes them`);
  const { edgec, profile } = readJson(found);
  return { version: edgec, profile };
}

const concludeAll = (measured) => ({ ...measured, workloads: measured.workloads.map((each) => conclude(each, measured.work.threads)) });

function outcome({ workloads }) {
  const compared = workloads.filter(({ skipped }) => !skipped);
  return { entries: compared.flatMap(({ entries }) => entries), verdicts: compared.flatMap(({ verdicts }) => verdicts) };
}

await benchmark(OPTIONS, { measure, conclude: concludeAll, terminal: graphTerminal, plot: graphPlot, page: graphMarkdown, outcome });
