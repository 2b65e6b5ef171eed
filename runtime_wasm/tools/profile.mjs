// Times every kernel call of a bundle that was compiled with --profile-kernels; the same code in Node and in a page.
//
// The runtime is the one that is shipped: WebAssembly.Instance is replaced while it loads the model, so that the module finds
// the import `profile.mark` (docs/runtime-abi.md), and its entry points are seen from outside, too.

import { runJob } from "./scenario.mjs";

const SECTION = "edgec.kernels";
const ROOM = 1 << 16; // marks of one call of an entry point

/**
 * @param {{load: object, options: object, jobs: object[], repeat: number, limits: object}} request as `runJobs` gets it; of one job
 * @returns {Promise<{stats: object, kernels: object, runs: object[][], limits: Record<string, number>}>} the steps of each run as in
 *   compiler/edgec/run/timing.py; `limits` has the fastest time of each probe in seconds
 */
export async function timeKernels(edgec, location, { load, options, jobs: [job], repeat = 1, limits }) {
  const recorder = new Recorder();
  const model = await recorder.during(() => edgec.load(location, { ...load, threads: 1, worker: false }));
  if (!recorder.kernels) {
    await model.dispose();
    throw Object.assign(new Error("the bundle's kernels cannot be timed"), { hint: "compile the model with `--profile-kernels`" });
  }
  const runs = [];
  for (let round = 0; round < repeat; round++) {
    recorder.steps = [];
    await runJob(model, job, options, false);
    runs.push(recorder.steps);
  }
  const stats = await model.stats();
  await model.dispose();
  return { stats, kernels: recorder.kernels, runs, limits: await measureLimits(limits) };
}

class Recorder {
  kernels = null;
  steps = [];
  marks = new Int32Array(ROOM);
  times = new Float64Array(ROOM);
  count = 0;

  mark = (number) => {
    this.marks[this.count] = number;
    this.times[this.count++] = performance.now();
  };

  /** Runs `action` with a WebAssembly.Instance that gives modules their clock. */
  async during(action) {
    const Instance = WebAssembly.Instance;
    const recorder = this;
    WebAssembly.Instance = class extends Instance {
      #exports;

      constructor(module, imports) {
        const [section] = WebAssembly.Module.customSections(module, SECTION);
        super(module, section ? { ...imports, profile: { mark: recorder.mark } } : imports);
        if (!section) return;
        recorder.kernels = JSON.parse(new TextDecoder().decode(section));
        this.#exports = recorder.watched(super.exports);
      }

      get exports() {
        return this.#exports ?? super.exports;
      }
    };
    try {
      return await action();
    } finally {
      WebAssembly.Instance = Instance;
    }
  }

  watched(exports) {
    const entries = Object.keys(this.kernels.entries).map((entry) => [entry, (...args) => this.step(entry, exports[entry], args)]);
    return { ...exports, ...Object.fromEntries(entries) };
  }

  step(entry, run, args) {
    this.count = 0;
    const started = performance.now();
    const result = run(...args);
    const seconds = (performance.now() - started) / 1000;
    const marks = Array.from(this.marks.subarray(0, this.count));
    const times = Array.from(this.times.subarray(0, this.count), (time) => time / 1000);
    this.steps.push({ entry, parameters: args.slice(2), seconds, marks, times });
    return result;
  }
}

/** The fastest of `repeats` calls of each probe of compiler/edgec/run/limits.py, in seconds; those that this engine cannot run are left out. */
async function measureLimits({ modules, probes, repeats }) {
  const instances = {};
  for (const [name, base64] of Object.entries(modules)) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    if (WebAssembly.validate(bytes)) instances[name] = (await WebAssembly.instantiate(bytes)).instance.exports;
  }
  const fastest = {};
  for (const { name, module, export: probe, arguments: args } of probes.filter(({ module }) => instances[module])) {
    for (let round = 0; round < repeats; round++) {
      const started = performance.now();
      instances[module][probe](...args);
      fastest[name] = Math.min(fastest[name] ?? Infinity, (performance.now() - started) / 1000);
      await new Promise((resolve) => setTimeout(resolve)); // optimized code arrives between calls
    }
  }
  return fastest;
}
