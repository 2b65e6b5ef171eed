// The runtime's text code by itself: ids, texts, pieces of a stream, rendered chats.
//   node text.mjs RUNTIME_FOLDER < [{"tokenizer", "texts", "rendered", "ids"} or {"template", "chats", ...}, ...]

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const folder = resolve(process.argv[2]);
const { build } = createRequire(join(folder, "package.json"))("esbuild");
const source = ["tokenizer", "chat", "stream"].map((name) => `export * from "./src/text/${name}.js";`).join("\n");
const { outputFiles } = await build({
  stdin: { contents: source, resolveDir: folder },
  bundle: true,
  format: "esm",
  platform: "neutral",
  mainFields: ["module", "main"],
  write: false,
  logLevel: "error",
});
const code = Buffer.from(outputFiles[0].contents).toString("base64");
const { ChatTemplate, TextStream, Tokenizer } = await import(`data:text/javascript;base64,${code}`);

const attempt = (action) => {
  try {
    return action();
  } catch (error) {
    return { error: error.code ?? "crash", message: error.message };
  }
};

function streamed(tokenizer, ids) {
  const stream = new TextStream(tokenizer);
  return [...ids.map((id) => stream.push(id)), stream.finish()];
}

function ofTokenizer({ tokenizer: json, texts, rendered, ids }) {
  const tokenizer = new Tokenizer(new TextEncoder().encode(json));
  return {
    raw: texts.map((text) => attempt(() => tokenizer.encode(text))),
    plain: texts.map((text) => attempt(() => tokenizer.encodePlain(text))),
    rendered: rendered.map((text) => attempt(() => tokenizer.encodeRendered(text))),
    decoded: ids.map((some) => attempt(() => tokenizer.decode(some))),
    pieces: ids.map((some) => attempt(() => streamed(tokenizer, some))),
  };
}

function ofTemplate({ template, chats, specialTokens, controlTokens }) {
  return chats.map((messages) =>
    attempt(() => new ChatTemplate(template).render(messages, { specialTokens, controlTokens })),
  );
}

const jobs = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(jobs.map((job) => ("tokenizer" in job ? ofTokenizer(job) : ofTemplate(job)))));
