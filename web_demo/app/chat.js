/** The chat: a transcript that grows while the model writes. */

import { Answer } from "./answer.js";
import { h, withCode } from "./dom.js";
import { figure, plural, seconds } from "./format.js";
import { frame } from "./frame.js";
import { codeOf, describe } from "./runtime.js";
import { Settings } from "./settings.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./speed.js").Speed} Speed */
/** @typedef {import("@edgec/runtime").GenerationStream} GenerationStream */

const STARTERS = [
  "What is the capital of France?",
  "Explain in two sentences why the sky is blue.",
  "Write a polite reply that moves a meeting to Thursday.",
];

/** @type {import("./tools.js").Tool} */
export const chat = {
  name: "chat",
  label: "Chat",
  takes: ({ kind }) => kind === "decoder",
  texts: {
    title: "A language model, in this tab",
    about: "It answers on your own device, with or without a network. Nothing you write is sent anywhere.",
    missing: "No language model is served here",
    commands: [
      "edgec compile SmolLM2-135M-Instruct.Q4_1.gguf --profile phone-8gb -o smollm2.edgec",
      "edgec serve smollm2.edgec",
    ],
  },
  setUp(place, slot, speed) {
    const { question } = new Chat(place, slot, speed);
    return () => question.focus();
  },
};

class Chat {
  /** @type {{role: "user" | "assistant", content: string}[]} */
  messages = [];
  /** @type {AbortController | null} */
  running = null;
  /** Address of the bundle that the conversation belongs to. */
  bundle = "";

  /**
   * @param {HTMLElement} place
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(place, slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.log = h("div", { id: "log", class: "log", role: "log", "aria-live": "off", "aria-label": "Conversation" });
    this.status = h("p", { id: "chat-status", class: "visually-hidden", role: "status" });
    const hint = { rows: 1, placeholder: "Write a message", enterkeyhint: "send" };
    this.question = h("textarea", { id: "question", ...hint });
    this.sendButton = h("button", { id: "send", class: "primary", type: "submit" }, "Send");
    const quiet = { class: "quiet", type: "button", disabled: true };
    this.regenerateButton = h("button", { id: "regenerate", ...quiet, click: () => this.regenerate() }, "Regenerate");
    this.clearButton = h("button", { id: "clear", ...quiet, click: () => this.#startAnew() }, "Clear");
    const form = h("form", { id: "settings", autocomplete: "off" });
    this.settings = new Settings(form);
    const chips = STARTERS.map((text) =>
      h("li", {}, h("button", { class: "chip", type: "button", click: () => this.send(text) }, text)),
    );
    this.welcome = h(
      "div",
      { id: "welcome", class: "welcome" },
      h("p", {}, "Ask something. The answer is computed here; nothing you write leaves this device."),
      h("ul", { id: "starters", class: "chips" }, ...chips),
    );
    const summary = h("summary", {}, "System prompt and sampling");
    const settings = h("details", { class: "settings" }, summary, form);
    const parts = [settings, this.welcome, this.log, this.#composer(), this.status];
    frame(place, "chat", slot, () => this.#onModel(), ...parts);
    place
      .querySelector(".toolbar")
      ?.append(h("div", { class: "actions" }, this.regenerateButton, this.clearButton));
    place.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
    slot.addEventListener("change", () => {
      if (!slot.model) this.stop();
    });
  }

  #composer() {
    const keys = [["Enter"], " sends, ", ["Shift"], "+", ["Enter"], " starts a line, ", ["Esc"], " stops the answer"];
    const composer = h(
      "form",
      { id: "composer", class: "composer" },
      h("label", { for: "question", class: "visually-hidden" }, "Your message"),
      this.question,
      this.sendButton,
      h("p", { class: "keys" }, ...keys.map((key) => (Array.isArray(key) ? h("kbd", {}, key[0]) : key))),
    );
    composer.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.send(this.question.value);
    });
    this.question.addEventListener("input", () => this.#fit());
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.running) this.send(this.question.value);
    });
    return composer;
  }

  #onModel() {
    const { model, entry } = this.slot;
    if (model && this.bundle !== entry?.url) {
      this.clear();
      this.settings.setDefaults(model.info.generation);
      this.settings.system.disabled = !model.info.chat;
    }
    this.bundle = entry?.url ?? "";
  }

  #startAnew() {
    this.clear();
    this.question.focus();
  }

  #fit() {
    this.question.style.height = "auto";
    this.question.style.height = `${this.question.scrollHeight + 2}px`;
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    this.messages = [];
    this.log.replaceChildren();
    this.status.textContent = "";
    this.#update();
  }

  /** @param {string} text */
  send(text) {
    if (this.running || !this.slot.model || text.trim() === "") return;
    this.messages.push({ role: "user", content: text.trim() });
    this.log.append(turn("user", "You", h("p", {}, text.trim())));
    this.question.value = "";
    this.#fit();
    this.question.focus({ preventScroll: true });
    void this.answer();
  }

  regenerate() {
    if (this.running) return;
    const last = this.messages.at(-1);
    if (last?.role === "assistant") this.messages.pop();
    if (this.log.lastElementChild?.classList.contains("assistant")) this.log.lastElementChild.remove();
    void this.answer();
  }

  async answer() {
    const { model } = this.slot;
    if (!model || this.messages.length === 0) return;
    const controller = new AbortController();
    this.running = controller;
    const body = h("div", { class: "answer" });
    const meter = h("p", { class: "figures" }, "Reading");
    const row = turn("assistant", "Model", body, meter);
    row.setAttribute("aria-busy", "true");
    this.log.append(row);
    this.status.textContent = "The model is answering";
    this.#update();
    this.#follow(true);

    const live = new LiveAnswer(body, meter, this.speed, () => this.#follow(false));
    let ending = "";
    try {
      const stream = this.#start(controller.signal);
      for await (const piece of stream) live.add(piece.text, piece.tokenIds.length);
      ending = live.finish(await stream.result);
    } catch (error) {
      if (codeOf(error) === "aborted" || controller.signal.aborted) ending = live.stop();
      else this.#fail(row, error);
    }
    if (live.text !== "") this.messages.push({ role: "assistant", content: live.text });
    row.setAttribute("aria-busy", "false");
    this.running = null;
    meter.textContent = ending;
    this.status.textContent = live.text ? `The model: ${live.text}` : ending;
    this.#update();
    this.#follow(false);
    await this.slot.measure();
  }

  /**
   * @param {AbortSignal} signal
   * @returns {GenerationStream}
   */
  #start(signal) {
    const model = /** @type {import("@edgec/runtime").Model} */ (this.slot.model);
    const options = { ...this.settings.options(), signal };
    if (!model.info.chat) return model.generate(this.messages.map(({ content }) => content).join(""), options);
    const system = this.settings.system.value.trim();
    return model.chat([...(system ? [{ role: "system", content: system }] : []), ...this.messages], options);
  }

  /**
   * @param {HTMLElement} row
   * @param {unknown} error
   */
  #fail(row, error) {
    const full = codeOf(error) === "context-full";
    const text = full
      ? "The conversation has become longer than this model can hold. Clear it to go on."
      : describe(error);
    row.querySelector(".turn-body")?.append(h("p", { class: "failure", role: "alert" }, ...withCode(text)));
    this.slot.noticeFailure(error);
  }

  #update() {
    const busy = this.running !== null;
    this.welcome.hidden = this.messages.length > 0;
    this.sendButton.textContent = busy ? "Stop" : "Send";
    this.sendButton.classList.toggle("stop", busy);
    this.regenerateButton.disabled = busy || this.messages.length === 0;
    this.clearButton.disabled = this.messages.length === 0;
  }

  /**
   * Keeps the end in sight, unless the reader has scrolled away from it.
   *
   * @param {boolean} always
   */
  #follow(always) {
    const page = document.documentElement;
    const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 160;
    if (always || atEnd) page.scrollTop = page.scrollHeight;
  }
}

/**
 * @param {"user" | "assistant"} role
 * @param {string} name
 * @param {...HTMLElement} content
 */
function turn(role, name, ...content) {
  return h(
    "article",
    { class: `turn ${role}` },
    h("h3", { class: "who" }, name),
    h("div", { class: "turn-body" }, ...content),
  );
}

/** Shows an answer as it comes, once per frame, with its speed. */
class LiveAnswer {
  text = "";
  #tokens = 0;
  #started = performance.now();
  #first = 0;
  #frame = 0;

  /**
   * @param {HTMLElement} body
   * @param {HTMLElement} meter
   * @param {Speed} speed
   * @param {() => void} onGrow
   */
  constructor(body, meter, speed, onGrow) {
    this.view = new Answer(body);
    this.meter = meter;
    this.speed = speed;
    this.onGrow = onGrow;
    this.speed.start("tokens per second");
  }

  /**
   * @param {string} text
   * @param {number} tokens
   */
  add(text, tokens) {
    this.text += text;
    this.#tokens += tokens;
    this.speed.add(tokens);
    if (!this.#first) this.#first = performance.now();
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    this.view.show(this.text);
    const rate = this.#rate();
    this.meter.textContent = `${plural(this.#tokens, "token")}${rate ? `, ${figure(rate)} per second` : ""}`;
    this.onGrow();
  }

  #rate() {
    const elapsed = (performance.now() - this.#first) / 1000;
    return this.#tokens > 1 && elapsed > 0 ? (this.#tokens - 1) / elapsed : 0;
  }

  /** @param {import("@edgec/runtime").Generation} result */
  finish(result) {
    this.#end();
    this.speed.end(result.decodeTokensPerSecond);
    const parts = [plural(result.completionTokens, "token")];
    if (result.decodeTokensPerSecond) parts.push(`${figure(result.decodeTokensPerSecond)} per second`);
    parts.push(`first after ${seconds((this.#first - this.#started) / 1000)}`);
    if (result.finishReason === "length") parts.push("cut at the longest answer");
    return parts.join(", ");
  }

  stop() {
    const rate = this.#first ? this.#rate() : 0;
    this.#end();
    this.speed.end(rate);
    return [`Stopped after ${plural(this.#tokens, "token")}`, rate ? `${figure(rate)} per second` : ""]
      .filter(Boolean)
      .join(", ");
  }

  #end() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.view.show(this.text);
  }
}
