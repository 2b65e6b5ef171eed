// onnxruntime-web's WebAssembly build, in the page itself: its proxy worker would only add copies.

import * as ort from "/peers/onnxruntime-web/dist/ort.wasm.min.mjs";
import { loadCase, measure } from "/bench/case.mjs";

export async function load({ threads, precision, model, workload }) {
  const { inputs, outputs, sizes } = await loadCase(workload);
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = "/peers/onnxruntime-web/dist/";
  const session = await ort.InferenceSession.create(`/graphs/models/${model}/${precision}.onnx`, {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
    freeDimensionOverrides: sizes, // the shapes are known here, so it may plan for them
  });
  const tensors = () => Object.fromEntries(inputs.map(({ name, dtype, data, shape }) => [name, new ort.Tensor(dtype, data, shape)]));

  return {
    run: (seconds) => measure(() => session.run(tensors()), outputs, seconds),
    async describe() {
      return { variant: precision, threads: ort.env.wasm.numThreads };
    },
  };
}
