#!/usr/bin/env node
// Measures edgec and other engines on the same model, in turns, in real browsers. README.md says what and how.
//
//   node bench/run.mjs --bundle DIR --gguf FILE [--contenders edgec,wllama-2,...] [--rounds 5] [--retries 2] [--browser chromium|firefox]
//       [--native] [--python PYTHON] [--niceness=N] [--json] [--save FILE] [--report docs/benchmarks.md] [--check]
//   node bench/run.mjs --from FILE [--json] [--report docs/benchmarks.md] [--check]

import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { TestServer } from "../runtime_wasm/tools/server.mjs";
import { SHARED_OPTIONS, listed, sharedSettings, write } from "./lib/command.mjs";
import { CONTENDERS, GOALS, choose } from "./lib/contenders.mjs";
import { codeBytes, scriptsOf } from "./lib/download.mjs";
import { BrowserContender } from "./lib/in_browser.mjs";
import { describeMachine } from "./lib/machine.mjs";
import { judge, measureAll, summarizeEntries } from "./lib/measure.mjs";
import { NativeContender } from "./lib/native.mjs";
import { plot } from "./lib/plot.mjs";
import { markdown, terminal } from "./lib/report.mjs";
import { turn } from "./lib/tokens.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = join(here, "../runtime_wasm/dist");

const PROMPT_TOKENS = 512;
const DECODE_TOKENS = 64;
const CONTEXT = 1024;
const SHORT_PROMPT = "The lighthouse stood at the end of a long spit of sand";

const OPTIONS = {
  bundle: { type: "string" },
  gguf: { type: "string" },
  ...SHARED_OPTIONS,
};

function settings(flags) {
  if (!flags.bundle || !flags.gguf) throw new Error("give --bundle and --gguf, or --from");
  const chosen = choose(listed(flags.contenders));
  const native = flags.native ? CONTENDERS.filter(({ engine, id }) => engine === "llama.cpp" && !chosen.some((one) => one.id === id)) : [];
  return { ...sharedSettings(flags), contenders: [...chosen, ...native] };
}

async function measure(flags) {
  const { rounds, retries, niceness, contenders } = settings(flags);
  const [bundle, gguf] = [resolve(flags.bundle), resolve(flags.gguf)];
  const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
  const peers = join(here, "node_modules");
  const server = new TestServer({ "/bench/": join(here, "pages"), "/peers/": peers, "/runtime/": runtime, "/bundle/": bundle, "/model.gguf": gguf });
  const inBrowser = { browser: flags.browser, origin: await server.start(), load: { contextLength: CONTEXT }, niceness };
  const native = ({ threads }) => ({ python: flags.python, script: [join(here, "native.py"), gguf, threads, CONTEXT], niceness });
  const start = (contender) =>
    contender.engine === "llama.cpp" ? NativeContender.start(contender, native(contender)) : BrowserContender.start(contender, inBrowser);
  const prompt = readFileSync(join(here, "prompt.txt"), "utf8");
  const work = { turn, unit: "tok/s", rounds, retries, prompt, shortPrompt: SHORT_PROMPT, promptTokens: PROMPT_TOKENS, decodeTokens: DECODE_TOKENS };
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
      work: { rounds, promptTokens: PROMPT_TOKENS, decodeTokens: DECODE_TOKENS, contextLength: CONTEXT },
      model: { ...pick(manifest, ["edgec", "profile"]), ...pick(manifest.model, ["name", "parameters"]), ...sizes(manifest) },
      peers: Object.fromEntries(["wllama-2", "wllama-3"].map((name) => [name, JSON.parse(readFileSync(join(peers, name, "package.json"), "utf8")).version])),
      entries,
    };
  } finally {
    await server.stop();
  }
}

const pick = (object, names) => Object.fromEntries(names.map((name) => [name, object[name]]));

function sizes({ memory, kv, files, weights }) {
  const weightFiles = new Set(weights.map(({ file }) => file));
  const downloadBytes = [...weightFiles].reduce((sum, file) => sum + files[file].bytes, 0);
  // Memory grows by a page of keys and values when a turn reaches it.
  const kvBytes = Math.ceil((PROMPT_TOKENS + DECODE_TOKENS) / kv.page_tokens) * kv.page_bytes;
  return { downloadBytes, weightBytes: memory.weights.bytes, kvBytes, kvBits: kv.bits };
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
