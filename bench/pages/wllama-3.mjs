// wllama 3: llama.cpp's server compiled by Emscripten, driven by completion requests.

import { Wllama } from "/peers/wllama-3/esm/index.min.js";

export async function load({ threads, contextLength }) {
  const silent = { debug() {}, log() {}, warn() {}, error: console.error };
  const engine = new Wllama({ default: "/peers/wllama-3/esm/wasm/wllama.wasm" }, { logger: silent, suppressNativeLog: true });
  engine.setCompat(null); // its default would ask a CDN
  const blob = await (await fetch("/model.gguf")).blob();
  const batch = { n_batch: 512, n_ubatch: 512, n_parallel: 1 };
  await engine.loadModel([blob], { n_ctx: contextLength, n_threads: threads, n_gpu_layers: 0, warmup: false, ...batch });
  let prompt;

  async function complete(maxTokens, cachePrompt) {
    const greedy = { temperature: 0, temp: 0, top_k: 1, ignore_eos: true, cache_prompt: cachePrompt };
    const started = performance.now();
    const stream = await engine.createCompletion({ prompt, max_tokens: maxTokens, stream: true, ...greedy });
    let first;
    let text = "";
    let timings;
    for await (const chunk of stream) {
      first ??= performance.now();
      text += chunk.choices[0]?.text ?? "";
      timings = chunk.timings ?? timings;
    }
    const ended = performance.now();
    return { text, timings, firstSeconds: (first - started) / 1000, restSeconds: (ended - first) / 1000 };
  }

  return {
    async prefill(text) {
      prompt = text;
      const { timings, firstSeconds } = await complete(1, false);
      return { tokens: timings.prompt_n, seconds: firstSeconds };
    },
    async decode(count) {
      const { text, timings, restSeconds } = await complete(count + 1, true);
      return { tokens: timings.predicted_n - 1, seconds: restSeconds, text };
    },
    async describe() {
      return { variant: engine.isMultithread() ? "threads" : "single", threads: engine.getNumThreads() };
    },
  };
}
