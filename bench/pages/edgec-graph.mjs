// A graph in edgec, through its public runtime.

import * as edgec from "/runtime/edgec.js";
import { loadCase, measure } from "/bench/case.mjs";

export async function load({ threads, variant, model: name, workload }) {
  const { inputs, outputs } = await loadCase(workload);
  const model = await edgec.load(`/graphs/models/${name}/bundle.edgec/`, { threads, variant, cache: "none" });
  const feeds = Object.fromEntries(inputs.map(({ name, data, shape }) => [name, { data, shape }]));

  return {
    run: (seconds) => measure(() => model.run(feeds), outputs, seconds),
    async describe() {
      const { variant, threads, memoryBytes, weightBytes } = await model.stats();
      return { variant, threads, memoryBytes, weightBytes };
    },
  };
}
