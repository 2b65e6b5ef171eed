// edgec through its public runtime. `copies` models share the threads and do the same at the same time, each by itself: what the
// machine's processors give to work that has nothing in common. Speeds are those of all together.

import * as edgec from "/runtime/edgec.js";

export async function load({ copies = 1, ...options }) {
  const engines = await Promise.all(Array.from({ length: copies }, () => one({ ...options, threads: options.threads / copies })));
  async function together(work) {
    const done = await Promise.all(engines.map(work));
    return { ...done[0], seconds: Math.max(...done.map(({ seconds }) => seconds)) / copies };
  }
  return {
    prefill: (text) => together((engine) => engine.prefill(text)),
    decode: (count) => together((engine) => engine.decode(count)),
    describe: () => engines[0].describe(),
  };
}

async function one({ threads, variant, contextLength }) {
  const model = await edgec.load("/bundle/", { threads, variant, contextLength, cache: "none" });
  let prompt;

  async function complete(maxTokens) {
    const stream = model.generate(prompt, { maxTokens, temperature: 0, ignoreEos: true });
    const started = performance.now();
    let first;
    for await (const _piece of stream) first ??= performance.now();
    const ended = performance.now();
    return { ...(await stream.result), firstSeconds: (first - started) / 1000, restSeconds: (ended - first) / 1000 };
  }

  return {
    async prefill(text) {
      prompt = text;
      await model.reset();
      const { promptTokens, firstSeconds } = await complete(1);
      return { tokens: promptTokens, seconds: firstSeconds };
    },
    async decode(count) {
      const { completionTokens, restSeconds, text } = await complete(count + 1);
      return { tokens: completionTokens - 1, seconds: restSeconds, text };
    },
    async describe() {
      const { variant, threads, memoryBytes, weightBytes } = await model.stats();
      return { variant, threads, memoryBytes, weightBytes };
    },
  };
}
