/** The device and precision panel: what runs now, what the model is, what the device can do, what is stored. */

import { canThread, cores, deviceFacts, storageFacts, threadsName, threadsNote } from "./device.js";
import { byId, facts, fill, h, withCode } from "./dom.js";
import { bytes, count, figure, percent, seconds } from "./format.js";
import { forgetStoredBundles, recall, remember } from "./memory.js";
import { planFacts } from "./plan.js";
import { sparkline } from "./sparkline.js";
import { KEPT } from "./speed.js";

/** @typedef {import("./runtime.js").Runtime} Runtime */
/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */

const MOST_THREADS = 16;

export class Panel {
  shown = "";
  /** What is shown of the model. @type {import("./slot.js").Checked | null} */
  drawn = null;
  #frame = 0;

  /**
   * @param {Runtime} runtime
   * @param {Record<string, {slot: Slot, speed: Speed}>} tools
   */
  constructor(runtime, tools) {
    this.shown = Object.keys(tools)[0];
    this.runtime = runtime;
    this.tools = tools;
    this.readout = byId("readout", HTMLElement);
    this.model = byId("model-facts", HTMLElement);
    for (const { slot, speed } of Object.values(tools)) {
      slot.addEventListener("change", () => this.#soon());
      speed.addEventListener("change", () => this.#soon());
    }
    this.#setUpThreads();
    this.#setUpStorage();
    void deviceFacts(runtime).then((rows) => facts(byId("device-facts", HTMLElement), rows));
    this.#soon();
  }

  /** @param {string} name of a tool */
  show(name) {
    this.shown = name;
    this.#soon();
  }

  #setUpThreads() {
    const select = byId("threads", HTMLSelectElement);
    const most = canThread ? Math.min(cores, MOST_THREADS) : 1;
    select.append(h("option", { value: "" }, "Automatic"));
    for (let threads = 1; threads <= most; threads++)
      select.append(h("option", { value: String(threads) }, String(threads)));
    select.disabled = most === 1;
    const chosen = recall("threads") ?? "";
    select.value = [...select.options].some(({ value }) => value === chosen) ? chosen : "";
    byId("threads-note", HTMLElement).replaceChildren(...withCode(threadsNote()));
    select.addEventListener("change", async () => {
      remember("threads", select.value || null);
      for (const { slot } of Object.values(this.tools)) await slot.reload();
    });
  }

  #setUpStorage() {
    const status = byId("storage-status", HTMLElement);
    byId("forget", HTMLButtonElement).addEventListener("click", async () => {
      await this.runtime.clearCache();
      forgetStoredBundles();
      status.textContent = "The models are no longer stored. Those in memory stay until this tab is closed.";
      for (const { slot } of Object.values(this.tools)) slot.dispatchEvent(new Event("change"));
      await this.#showStorage();
    });
    for (const { slot } of Object.values(this.tools)) {
      let state = slot.state;
      slot.addEventListener("change", () => {
        if (slot.state === "ready" && state !== "ready") void this.#showStorage();
        state = slot.state;
      });
    }
    void this.#showStorage();
  }

  async #showStorage() {
    facts(byId("storage-facts", HTMLElement), await storageFacts());
  }

  /** Draws at most once per frame. */
  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const { slot, speed } = this.tools[this.shown];
      this.#drawReadout(slot, speed);
      this.#drawModel(slot);
    });
  }

  /**
   * @param {Slot} slot
   * @param {Speed} speed
   */
  #drawReadout({ stats }, speed) {
    const list = h("dl", { class: "facts" });
    const memory = Object.values(this.tools).reduce((sum, { slot }) => sum + (slot.stats?.memoryBytes ?? 0), 0);
    facts(list, [
      ["Memory in use", memory ? bytes(memory) : "none"],
      [
        "Runs on",
        stats
          ? `${stats.variant.startsWith("relaxed") ? "relaxed SIMD" : "plain SIMD"}, ${threadsName(stats.threads)}`
          : null,
      ],
      ["Conversation", stats?.contextLength ? `${stats.cachedTokens} of ${stats.contextLength} tokens` : null],
    ]);
    fill(
      this.readout,
      speed.text
        ? h("p", { class: "speed" }, h("strong", {}, speed.text), " ", h("span", {}, speed.unit))
        : h("p", { class: "note" }, "Nothing has run yet."),
      speed.samples.length > 1 && sparkline(speed.samples, KEPT),
      list,
    );
  }

  /** @param {Slot} slot */
  #drawModel(slot) {
    const { model, stats, entry, checked } = slot;
    if (!model || !stats) {
      this.drawn = null;
      this.model.replaceChildren(h("p", { class: "note" }, "Not in memory."));
      return;
    }
    if (checked === this.drawn) return;
    this.drawn = checked;
    const { info } = model;
    const plan = planFacts(info);
    const list = h("dl", { class: "facts" });
    facts(list, [
      ["Name", info.model.name],
      ["Architecture", info.model.architecture],
      ["Parameters", info.model.parameters ? count(info.model.parameters) : null],
      ["License", info.model.license],
      ["Compiled for", info.profile],
      [
        "Weights",
        `${bytes(stats.weightBytes)}${info.model.parameters ? `, ${figure((8 * stats.weightBytes) / info.model.parameters)} bits each` : ""}`,
      ],
      ["Depth", entry?.depth ? `${entry.depth} bits of nested codes` : null],
      ["Activations", plan.activationBits ? `${plan.activationBits} bits` : null],
      ["KV cache", plan.kvBits ? `${plan.kvBits} bits` : null],
      ["Context", info.context_length ? `${info.context_length} tokens` : null],
      ["Planned speed", plan.predicted > 1 ? `${figure(plan.predicted)} tokens per second on ${info.profile}` : null],
      ["Self-test", selfTestResult(checked?.result ?? null)],
      [
        "Loaded in",
        `${seconds(stats.loadSeconds)}, ${stats.downloadedBytes ? `${bytes(stats.downloadedBytes)} downloaded` : "from this device"}`,
      ],
    ]);
    const unload = h("button", { class: "quiet outlined", type: "button", click: () => slot.unload() }, "Unload");
    const report = entry?.report
      ? h("a", { href: entry.report, target: "_blank", rel: "noopener" }, "Compiler's report")
      : null;
    const reasons = plan.reasons.length
      ? h(
          "details",
          {},
          h("summary", {}, "Why"),
          h("ul", { class: "reasons" }, ...plan.reasons.map((reason) => h("li", {}, reason))),
        )
      : null;
    fill(
      this.model,
      plan.weights.length > 0 && bitsBar(plan.weights),
      list,
      reasons,
      h("p", { class: "actions" }, unload, report),
    );
  }
}

/** @param {import("@edgec/runtime").SelfTest | null} result */
function selfTestResult(result) {
  if (!result || result.passed === null) return null;
  if (result.passed) return "the compiler's numbers, to the bit";
  const text = `${result.differences.length} of ${result.compared} results differ from the compiler's`;
  return h("strong", { class: "wrong" }, text);
}

/** @param {{bits: number, share: number}[]} weights */
function bitsBar(weights) {
  const parts = weights.map(({ bits, share }) => {
    const part = h("div", { class: `bits bits-${bits}` });
    part.style.setProperty("--share", String(share));
    return part;
  });
  const legend = weights.map(({ bits, share }) =>
    h("li", { class: `bits-${bits}` }, `${bits} bits `, h("span", {}, percent(share))),
  );
  return h(
    "div",
    { class: "precision" },
    h("div", { class: "bits-bar", "aria-hidden": "true" }, ...parts),
    h("ul", { "aria-label": "Weights by precision" }, ...legend),
  );
}
