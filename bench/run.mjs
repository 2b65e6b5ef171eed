#!/usr/bin/env node
// Measures edgec and other engines on the same model, in turns, in real browsers. README.md says what and how.
//
//   node bench/run.mjs --bundle DIR --gguf FILE [--onnx FILE] [--shape NAME] [--contenders edgec,wllama-2,...] [--rounds 5] [--retries 2]
//       [--browser chromium|firefox] [--native] [--python PYTHON] [--niceness=N] [--json] [--save FILE] [--report docs/benchmarks.md] [--check]
//   node bench/run.mjs --from FILE [--json] [--report docs/benchmarks.md] [--check]

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { CONTENDERS, GOALS, choose } from "./lib/contenders.mjs";
import { codeBytes, scriptsOf } from "./lib/download.mjs";
import { BrowserContender } from "./lib/in_browser.mjs";
import { describeMachine } from "./lib/machine.mjs";
import { judge, measureAll, summarizeEntries } from "./lib/measure.mjs";
import { NativeContender } from "./lib/native.mjs";
import { plot } from "./lib/plot.mjs";
import { markdown, terminal } from "./lib/report.mjs";
import { shapeNamed } from "./lib/shapes.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = join(here, "../runtime_wasm/dist");

/** What is done where no shape says otherwise. */
const WORK = { promptTokens: 512, decodeTokens: 64, contextLength: 1024 };
/** How many tokens a long chat has, for the memory that it would take. */
const CHAT = 2048;
const PEERS = ["wllama-2", "wllama-3", "onnxruntime-web"];
const SHORT_PROMPT = "The lighthouse stood at the end of a long spit of sand";

const OPTIONS = {
  bundle: { type: "string" },
  gguf: { type: "string" },
  onnx: { type: "string" },
  shape: { type: "string" },
  contenders: { type: "string", default: "" },
  rounds: { type: "string", default: "5" },
  retries: { type: "string", default: "2" },
  browser: { type: "string", default: "chromium" },
  native: { type: "boolean", default: false },
  python: { type: "string", default: "python3" },
  niceness: { type: "string" },
  from: { type: "string" },
  json: { type: "boolean", default: false },
  save: { type: "string" },
  report: { type: "string" },
  check: { type: "boolean", default: false },
};

function settings(flags) {
  if (!flags.bundle || !flags.gguf) throw new Error("give --bundle and --gguf, or --from");
  if (!["chromium", "firefox"].includes(flags.browser)) throw new Error(`there is no browser \`${flags.browser}\``);
  const [rounds, retries] = [wholeNumber(flags, "rounds", 1), wholeNumber(flags, "retries", 0)];
  const chosen = choose(flags.contenders ? flags.contenders.split(",") : [], { onnx: flags.onnx !== undefined });
  const native = flags.native ? CONTENDERS.filter(({ engine, id }) => engine === "llama.cpp" && !chosen.some((one) => one.id === id)) : [];
  return { rounds, retries, contenders: [...chosen, ...native] };
}

function wholeNumber(flags, name, least) {
  const value = Number(flags[name]);
  if (!Number.isInteger(value) || value < least) throw new Error(`--${name} is not a whole number, ${least} or more`);
  return value;
}

async function measure(flags) {
  const { rounds, retries, contenders } = settings(flags);
  const { work: doing, ...shape } = flags.shape ? shapeNamed(flags.shape) : { work: WORK };
  const [bundle, gguf] = [resolve(flags.bundle), resolve(flags.gguf)];
  const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
  const peers = join(here, "node_modules");
  const models = { "/bundle/": bundle, "/model.gguf": gguf, ...(flags.onnx ? { "/model.onnx": resolve(flags.onnx) } : {}) };
  const server = new TestServer({ "/bench/": join(here, "pages"), "/peers/": peers, "/runtime/": runtime, ...models });
  const niceness = flags.niceness === undefined ? undefined : Number(flags.niceness);
  const options = { browser: flags.browser, origin: await server.start(), contextLength: doing.contextLength, niceness, python: flags.python, gguf };
  const start = (contender) => (contender.engine === "llama.cpp" ? NativeContender : BrowserContender).start(contender, options);
  const prompt = readFileSync(join(here, "prompt.txt"), "utf8").slice(0, doing.promptCharacters);
  const work = { rounds, retries, prompt, shortPrompt: SHORT_PROMPT, ...doing };
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
      browser: entries.find(({ engine, version }) => engine !== "llama.cpp" && version)?.version ?? flags.browser,
      niceness: niceness ?? 0,
      work: { rounds, ...doing },
      model: { ...pick(manifest, ["edgec", "profile"]), ...pick(manifest.model, ["name", "parameters"]), ...sizes(manifest, doing), ...shape },
      peers: Object.fromEntries(PEERS.map((name) => [name, JSON.parse(readFileSync(join(peers, name, "package.json"), "utf8")).version])),
      entries,
    };
  } finally {
    await server.stop();
  }
}

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

function write(path, text) {
  mkdirSync(dirname(resolve(path)), { recursive: true });
  writeFileSync(path, text);
}

try {
  const { values: flags } = parseArgs({ options: OPTIONS });
  const measured = flags.from ? JSON.parse(readFileSync(flags.from, "utf8")) : await measure(flags);
  if (flags.save) write(flags.save, `${JSON.stringify(measured, null, 1)}\n`);
  const entries = summarizeEntries(measured.entries);
  const result = { ...measured, entries, goals: judge(GOALS, entries) };
  console.log(flags.json ? JSON.stringify(result) : terminal(result));
  if (flags.report) {
    const picture = flags.report.replace(/\.md$/, ".svg");
    write(picture, plot(result));
    write(flags.report, markdown(result, picture.split("/").at(-1)));
  }
  const failed = entries.some(({ failure }) => failure);
  if (failed || (flags.check && result.goals.some(({ reached }) => !reached))) process.exitCode = 1;
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
