// onnxruntime-web: its WebAssembly provider on a decoder whose keys and values go in and out of every run, as in transformers.js.

import { Tokenizer } from "/peers/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import * as ort from "/peers/onnxruntime-web-1.23/dist/ort.wasm.min.mjs";

export async function load({ threads }) {
  Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: "/peers/onnxruntime-web-1.23/dist/" });
  const [model, definition] = await Promise.all([fetch("/model.onnx"), fetch("/bundle/tokenizer.json")]);
  const tokenizer = new Tokenizer(await definition.json(), { clean_up_tokenization_spaces: false });
  const session = await ort.InferenceSession.create(await model.arrayBuffer(), { executionProviders: ["wasm"] });
  let [position, last, cache] = [0, 0, {}];

  function empty() {
    const caches = session.inputMetadata.filter(({ name }) => name.startsWith("past."));
    return Object.fromEntries(caches.map(({ name, shape: [one, heads, , size] }) => [name, new ort.Tensor("float32", [], [one, heads, 0, size])]));
  }

  async function step(ids) {
    position += ids.length;
    const { logits, ...present } = await session.run({
      input_ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      seqlens_k: new ort.Tensor("int32", [position - 1], [1]),
      total_sequence_length: new ort.Tensor("int32", [position], []),
      ...cache,
    });
    cache = Object.fromEntries(Object.entries(present).map(([name, tensor]) => [name.replace("present", "past"), tensor]));
    last = largest(logits.data);
  }

  return {
    async prefill(text) {
      [position, cache] = [0, empty()];
      const started = performance.now();
      const { ids } = tokenizer.encode(text, { add_special_tokens: false });
      await step(ids);
      return { tokens: ids.length, seconds: (performance.now() - started) / 1000 };
    },
    async decode(count) {
      const ids = [];
      const started = performance.now();
      while (ids.length < count) {
        ids.push(last);
        await step([last]);
      }
      const seconds = (performance.now() - started) / 1000;
      return { tokens: count, seconds, text: tokenizer.decode(ids) };
    },
    async describe() {
      return { variant: "wasm", threads: ort.env.wasm.numThreads };
    },
  };
}

function largest(values) {
  let best = 0;
  for (let index = 1; index < values.length; index++) if (values[index] > values[best]) best = index;
  return best;
}
