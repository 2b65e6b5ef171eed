/** One tab's model on its way from the server or this device's storage into memory, and back. */

import { addStoredBundle, storedBundles } from "./memory.js";
import { codeOf } from "./runtime.js";

/** @typedef {import("./bundles.js").Entry} Entry */
/** @typedef {import("./runtime.js").Model} Model */
/** @typedef {import("./runtime.js").Runtime} Runtime */
/** @typedef {import("./runtime.js").Stats} Stats */

/**
 * @typedef {object} Progress
 * @property {"manifest" | "download" | "start" | "ready"} phase
 * @property {number} loadedBytes
 * @property {number} totalBytes
 * @property {number} bytesPerSecond
 */

/** @typedef {{result: import("@edgec/runtime").SelfTest | null}} Checked null until the self-test has ended */

/** @typedef {"absent" | "idle" | "loading" | "ready"} State */

/** Fires `change` whenever any of its fields has changed. */
export class Slot extends EventTarget {
  /** @type {State} */
  state;
  /** @type {Entry | null} */
  entry;
  /** @type {Model | null} */
  model = null;
  /** @type {Stats | null} */
  stats = null;
  /** @type {Progress} */
  progress = { phase: "manifest", loadedBytes: 0, totalBytes: 0, bytesPerSecond: 0 };
  /** One object for each model, and another one when it has been tested. @type {Checked | null} */
  checked = null;
  /** Why the last load failed. @type {unknown} */
  error = null;
  /** @type {AbortController | null} */
  #controller = null;

  /**
   * @param {Entry[]} entries
   * @param {() => Runtime} runtime
   * @param {() => number | undefined} threads undefined leaves the number to the runtime
   */
  constructor(entries, runtime, threads) {
    super();
    this.entries = entries;
    this.entry = entries[0] ?? null;
    this.state = this.entry ? "idle" : "absent";
    this.runtime = runtime;
    this.threads = threads;
  }

  /** The entry's place in the list. */
  get index() {
    return this.entries.findIndex((entry) => entry === this.entry);
  }

  /** Whether a load needs no network. */
  get stored() {
    return this.entry !== null && storedBundles().has(storedAs(this.entry));
  }

  /** @param {Entry} entry */
  choose(entry) {
    if (this.state === "loading") this.cancel();
    this.unload();
    this.entry = entry;
    this.error = null;
    this.#changed();
  }

  async load() {
    const { entry } = this;
    if (!entry || this.state === "loading" || this.state === "ready") return;
    const controller = new AbortController();
    this.#controller = controller;
    this.state = "loading";
    this.error = null;
    this.progress = { phase: "manifest", loadedBytes: 0, totalBytes: 0, bytesPerSecond: 0 };
    this.#changed();
    const started = performance.now();
    try {
      const model = await this.runtime().load(entry.url, {
        threads: this.threads(),
        depth: entry.depth ?? undefined,
        signal: controller.signal,
        onProgress: ({ phase, loadedBytes, totalBytes }) => {
          const bytesPerSecond = (1000 * loadedBytes) / Math.max(1, performance.now() - started);
          this.progress = { phase, loadedBytes, totalBytes, bytesPerSecond };
          this.#changed();
        },
      });
      if (controller.signal.aborted) return void model.dispose();
      this.model = model;
      this.stats = await model.stats();
      this.checked = { result: null };
      this.state = "ready";
      if (this.stats.cache !== "none") addStoredBundle(storedAs(entry));
      void this.#check(model);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.state = "idle";
      this.error = error;
    }
    this.#changed();
  }

  /**
   * Does this browser compute what the compiler did?
   *
   * @param {Model} model
   */
  async #check(model) {
    try {
      const result = await model.selfTest();
      if (model !== this.model) return;
      this.checked = { result };
      this.#changed();
    } catch (error) {
      if (model === this.model) this.noticeFailure(error);
    }
  }

  cancel() {
    if (this.state !== "loading") return;
    this.#controller?.abort();
    this.state = "idle";
    this.#changed();
  }

  unload() {
    if (this.state !== "ready") return;
    void this.model?.dispose();
    this.model = null;
    this.stats = null;
    this.checked = null;
    this.state = "idle";
    this.#changed();
  }

  /** Takes up new settings. */
  async reload() {
    if (this.state !== "ready") return;
    this.unload();
    await this.load();
  }

  /** Asks the model for its figures again, after it has worked. */
  async measure() {
    try {
      this.stats = (await this.model?.stats()) ?? null;
    } catch {
      return; // it was unloaded meanwhile
    }
    this.#changed();
  }

  /**
   * After some errors the model is of no use any more.
   *
   * @param {unknown} error
   */
  noticeFailure(error) {
    const code = codeOf(error);
    if (this.state !== "ready" || !(code === "trap" || code === "worker-failed" || code === "out-of-memory")) return;
    this.unload();
    this.error = error;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Names the files of a bundle that an entry needs.
 *
 * @param {Entry} entry
 */
const storedAs = ({ url, depth }) => (depth ? `${url}#${depth}` : url);
