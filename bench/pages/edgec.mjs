// edgec through its public runtime.

import * as edgec from "/runtime/edgec.js";

export async function load({ threads, variant, contextLength }) {
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
