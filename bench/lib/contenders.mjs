// Who is measured. Each engine is a module in pages/ with the same interface, see README.md.

import { checkIds } from "./command.mjs";

/**
 * @typedef {object} Contender
 * @property {string} id
 * @property {"edgec" | "wllama-2" | "wllama-3" | "onnxruntime-web" | "llama.cpp"} engine
 * @property {string} [page] its module in pages/, where the engine's name is not that
 * @property {string} label
 * @property {number} threads
 * @property {number} [copies] models that share the threads and do the same work at the same time
 * @property {number} [decodeTokens] instead of the work's, for one that would take minutes
 * @property {string} [variant] edgec's module, see docs/bundle-format.md; otherwise it chooses
 * @property {"firefox"} [browser] where it runs, whatever the others do
 * @property {string} [beside] the same in the browser of the others
 */

/** @type {readonly Contender[]} */
export const CONTENDERS = [
  { id: "edgec", engine: "edgec", label: "edgec", threads: 1 },
  { id: "edgec-simd128", engine: "edgec", label: "edgec, plain SIMD", threads: 1, variant: "simd128" },
  { id: "edgec-2t", engine: "edgec", label: "edgec", threads: 2 },
  { id: "edgec-copies", engine: "edgec", label: "edgec, two copies", threads: 2, copies: 2 },
  { id: "wllama-2", engine: "wllama-2", label: "wllama 2", threads: 1 },
  { id: "wllama-2-2t", engine: "wllama-2", label: "wllama 2", threads: 2 },
  { id: "wllama-3", engine: "wllama-3", label: "wllama 3", threads: 1 },
  { id: "wllama-3-2t", engine: "wllama-3", label: "wllama 3", threads: 2 },
  { id: "onnxruntime-web", engine: "onnxruntime-web", page: "onnxruntime-web-decoder", label: "onnxruntime-web", threads: 1, decodeTokens: 4 },
  { id: "onnxruntime-web-2t", engine: "onnxruntime-web", page: "onnxruntime-web-decoder", label: "onnxruntime-web", threads: 2, decodeTokens: 4 },
  { id: "edgec-firefox", engine: "edgec", label: "edgec", threads: 1, browser: "firefox", beside: "edgec" },
  { id: "edgec-simd128-firefox", engine: "edgec", label: "edgec, plain SIMD", threads: 1, variant: "simd128", browser: "firefox", beside: "edgec-simd128" },
  { id: "edgec-2t-firefox", engine: "edgec", label: "edgec", threads: 2, browser: "firefox", beside: "edgec-2t" },
  { id: "wllama-2-firefox", engine: "wllama-2", label: "wllama 2", threads: 1, browser: "firefox", beside: "wllama-2" },
  { id: "wllama-2-2t-firefox", engine: "wllama-2", label: "wllama 2", threads: 2, browser: "firefox", beside: "wllama-2-2t" },
  { id: "llama.cpp", engine: "llama.cpp", label: "llama.cpp, native", threads: 1 },
  { id: "llama.cpp-2t", engine: "llama.cpp", label: "llama.cpp, native", threads: 2 },
];

const WLLAMA = ["wllama-2", "wllama-3"];

/**
 * What is asked of edgec: the quotient of two contenders' speeds in one measure. `over` with several ids means the fastest of them.
 * @type {readonly {name: string, measure: "prefill" | "decode" | "decodeShort", of: string, over: string[], atLeast: number}[]}
 */
export const GOALS = [
  { name: "prefill against wllama, 1 thread", measure: "prefill", of: "edgec", over: WLLAMA, atLeast: 10 },
  { name: "decode against wllama, 1 thread", measure: "decode", of: "edgec", over: WLLAMA, atLeast: 5 },
  { name: "decode, short context, against wllama, 1 thread", measure: "decodeShort", of: "edgec", over: WLLAMA, atLeast: 5 },
  { name: "prefill, plain SIMD, against wllama, 1 thread", measure: "prefill", of: "edgec-simd128", over: WLLAMA, atLeast: 5 },
  { name: "decode, plain SIMD, against wllama, 1 thread", measure: "decode", of: "edgec-simd128", over: WLLAMA, atLeast: 3 },
  { name: "prefill against native llama.cpp, 1 thread", measure: "prefill", of: "edgec", over: ["llama.cpp"], atLeast: 0.5 },
  { name: "decode against native llama.cpp, 1 thread", measure: "decode", of: "edgec", over: ["llama.cpp"], atLeast: 1 },
  { name: "decode against native llama.cpp, 2 threads", measure: "decode", of: "edgec-2t", over: ["llama.cpp-2t"], atLeast: 0.9 },
  { name: "prefill against onnxruntime-web, 1 thread", measure: "prefill", of: "edgec", over: ["onnxruntime-web"], atLeast: 5 },
  { name: "prefill, Firefox against Chromium", measure: "prefill", of: "edgec-firefox", over: ["edgec"], atLeast: 1 / 1.3 },
  { name: "decode, Firefox against Chromium", measure: "decode", of: "edgec-firefox", over: ["edgec"], atLeast: 1 / 1.3 },
  { name: "prefill, 2 threads against 1", measure: "prefill", of: "edgec-2t", over: ["edgec"], atLeast: 1.5 },
  { name: "prefill, 2 threads against two copies of 1 thread", measure: "prefill", of: "edgec-2t", over: ["edgec-copies"], atLeast: 0.9 },
];

/**
 * @param {string[]} ids empty: everybody who runs in a browser and whose model is there
 * @param {{onnx?: boolean, both?: boolean}} options whether there is an ONNX file, and whether those with a browser of their own take part
 */
export function choose(ids, { onnx = false, both = false } = {}) {
  checkIds(ids, CONTENDERS);
  const lacking = onnx ? [] : CONTENDERS.filter(({ engine }) => engine === "onnxruntime-web").map(({ id }) => id);
  if (ids.some((id) => lacking.includes(id))) throw new Error("onnxruntime-web needs --onnx");
  const usual = ({ id, engine, browser }) => engine !== "llama.cpp" && !lacking.includes(id) && (both || !browser);
  return CONTENDERS.filter((one) => (ids.length ? ids.includes(one.id) : usual(one)));
}
