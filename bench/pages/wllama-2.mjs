// wllama 2: llama.cpp compiled by Emscripten, driven token by token.

import { Wllama } from "/peers/wllama-2/esm/index.min.js";

const FILES = "/peers/wllama-2/esm";

export async function load({ threads, contextLength }) {
  const wasm = (kind) => `${FILES}/${kind}/wllama.wasm`;
  const paths = { "single-thread/wllama.wasm": wasm("single-thread"), "multi-thread/wllama.wasm": wasm("multi-thread") };
  const silent = { debug() {}, log() {}, warn() {}, error: console.error };
  const engine = new Wllama(paths, { logger: silent, suppressNativeLog: true });
  const blob = await (await fetch("/model.gguf")).blob();
  await engine.loadModel([blob], { n_ctx: contextLength, n_batch: 512, n_threads: threads });
  let last;

  return {
    async prefill(text) {
      await engine.samplingInit({ temp: 0 });
      await engine.kvClear();
      const started = performance.now();
      const ids = await engine.tokenize(text);
      await engine.decode(ids, {});
      last = await engine.samplingSample();
      return { tokens: ids.length, seconds: (performance.now() - started) / 1000 };
    },
    async decode(count) {
      const ids = [];
      const started = performance.now();
      while (ids.length < count) {
        ids.push(last.token);
        await engine.samplingAccept([last.token]);
        await engine.decode([last.token], {});
        last = await engine.samplingSample();
      }
      const seconds = (performance.now() - started) / 1000;
      return { tokens: count, seconds, text: await engine.detokenize(ids, true) };
    },
    async describe() {
      return { variant: engine.isMultithread() ? "threads" : "single", threads: engine.getNumThreads() };
    },
  };
}
