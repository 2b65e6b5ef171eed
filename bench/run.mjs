#!/usr/bin/env node
// Measures edgec and other engines on the same model, in turns, in real browsers. README.md says what and how.
//
//   node bench/run.mjs --bundle DIR --gguf FILE [--onnx FILE] [--shape NAME] [--contenders edgec,wllama-2,...] [--rounds 5] [--retries 2]
//       [--browser chromium|firefox|both] [--native] [--python PYTHON] [--niceness=N] [--json] [--save FILE] [--report docs/benchmarks.md] [--check]
//   node bench/run.mjs --from FILE [--json] [--report docs/benchmarks.md] [--check]

import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { SHARED_OPTIONS, benchmark, listed, readJson, sharedSettings } from "./lib/command.mjs";
import { CONTENDERS, GOALS, choose } from "./lib/contenders.mjs";
import { codeBytes, scriptsOf } from "./lib/download.mjs";
import { BrowserContender } from "./lib/in_browser.mjs";
import { describeMachine } from "./lib/machine.mjs";
import { judge, measureAll, summarizeEntries } from "./lib/measure.mjs";
import { NativeContender } from "./lib/native.mjs";
import { plot } from "./lib/plot.mjs";
import { markdown, terminal } from "./lib/report.mjs";
import { shapeNamed } from "./lib/shapes.mjs";
import { turn } from "./lib/tokens.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = join(here, "../runtime_wasm/dist");

/** What is done where no shape says otherwise. */
const WORK = { promptTokens: 512, decodeTokens: 64, contextLength: 1024 };
/** How many tokens a long chat has, for the memory that it would take. */
const CHAT = 2048;
/** Engines, and the packages that they are in. */
const PEERS = { "wllama-2": "wllama-2", "wllama-3": "wllama-3", "onnxruntime-web": "onnxruntime-web-1.23" };
const SHORT_PROMPT = "The lighthouse stood at the end of a long spit of sand";

const OPTIONS = {
  bundle: { type: "string" },
  gguf: { type: "string" },
  onnx: { type: "string" },
  shape: { type: "string" },
  ...SHARED_OPTIONS,
};

function settings(flags) {
  if (!flags.bundle || !flags.gguf) throw new Error("give --bundle and --gguf, or --from");
  const shared = sharedSettings(flags, ["chromium", "firefox", "both"]);
  const browser = flags.browser === "both" ? "chromium" : flags.browser;
  const chosen = choose(listed(flags.contenders), { onnx: flags.onnx !== undefined, both: flags.browser === "both" });
  const native = flags.native ? CONTENDERS.filter(({ engine, id }) => engine === "llama.cpp" && !chosen.some((one) => one.id === id)) : [];
  return { ...shared, browser, contenders: [...chosen, ...native] };
}

async function measure(flags) {
  const { rounds, retries, niceness, browser, contenders } = settings(flags);
  const { work: doing, ...shape } = flags.shape ? shapeNamed(flags.shape) : { work: WORK };
  const { contextLength, promptCharacters } = doing;
  const [bundle, gguf] = [resolve(flags.bundle), resolve(flags.gguf)];
  const manifest = readJson(join(bundle, "manifest.json"));
  const peers = join(here, "node_modules");
  const models = { "/bundle/": bundle, "/model.gguf": gguf, ...(flags.onnx ? { "/model.onnx": resolve(flags.onnx) } : {}) };
  const server = new TestServer({ "/bench/": join(here, "pages"), "/peers/": peers, "/runtime/": runtime, ...models });
  const inBrowser = { browser, origin: await server.start(), load: { contextLength }, niceness };
  const native = ({ threads }) => ({ python: flags.python, script: [join(here, "native.py"), gguf, threads, contextLength], niceness });
  const start = (contender) =>
    contender.engine === "llama.cpp" ? NativeContender.start(contender, native(contender)) : BrowserContender.start(contender, inBrowser);
  const prompt = readFileSync(join(here, "prompt.txt"), "utf8").slice(0, promptCharacters);
  const work = { turn, unit: "tok/s", rounds, retries, prompt, shortPrompt: SHORT_PROMPT, ...doing };
  const machine = describeMachine();
  const say = (note) => console.error(note);
  const onWarm = (entry) => {
    const asked = server.requests.splice(0).filter((path) => /^\/(peers|runtime|bundle)\//.test(path)).map((path) => server.file(path));
    if (entry.engine !== "llama.cpp") entry.codeBytes = codeBytes(entry.engine === "edgec" ? [...asked, ...scriptsOf(runtime)] : asked);
  };
  try {
    const entries = await measureAll(contenders, start, work, say, onWarm);
    return {
      date: new Date().toISOString().slice(0, 10),
      machine,
      browser: versionOf(entries, ({ engine, browser: own }) => engine !== "llama.cpp" && !own) ?? browser,
      firefox: versionOf(entries, ({ browser: own }) => own === "firefox"),
      niceness: niceness ?? 0,
      work: { rounds, ...doing },
      model: { ...pick(manifest, ["edgec", "profile"]), ...pick(manifest.model, ["name", "parameters"]), ...sizes(manifest, doing), ...shape },
      peers: Object.fromEntries(Object.entries(PEERS).map(([engine, name]) => [engine, readJson(join(peers, name, "package.json")).version])),
      entries,
    };
  } finally {
    await server.stop();
  }
}

const versionOf = (entries, which) => entries.find((entry) => which(entry) && entry.version)?.version;

const pick = (object, names) => Object.fromEntries(names.map((name) => [name, object[name]]));

function sizes({ memory, kv, files, weights, context_length }, { promptTokens, decodeTokens }) {
  const weightFiles = new Set(weights.map(({ file }) => file));
  const downloadBytes = [...weightFiles].reduce((sum, file) => sum + files[file].bytes, 0);
  // Memory grows by a page of keys and values when a turn reaches it.
  const kvOf = (tokens) => Math.ceil(tokens / kv.page_tokens) * kv.page_bytes;
  const chatTokens = Math.min(CHAT, context_length);
  const chatBytes = memory.kv.offset + kvOf(chatTokens);
  return { downloadBytes, weightBytes: memory.weights.bytes, kvBytes: kvOf(promptTokens + decodeTokens), kvBits: kv.bits, chatTokens, chatBytes };
}

function conclude(measured) {
  const entries = summarizeEntries(measured.entries);
  return { ...measured, entries, goals: judge(GOALS, entries) };
}

const outcome = ({ entries, goals }) => ({ entries, verdicts: goals });

await benchmark(OPTIONS, { measure, conclude, terminal, plot, page: markdown, outcome });
