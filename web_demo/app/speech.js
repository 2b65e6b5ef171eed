/** Speech: what is said in a sound, or where somebody speaks in it. */

import { h, withCode } from "./dom.js";
import { dropField } from "./drop.js";
import { clock, figure, plural, seconds } from "./format.js";
import { frame, showFailure } from "./frame.js";
import { codeOf } from "./runtime.js";
import { Recording, SoundError, peaks, readSound } from "./sound.js";

/** @typedef {import("./slot.js").Slot} Slot */
/** @typedef {import("./sound.js").Sound} Sound */
/** @typedef {import("./speed.js").Speed} Speed */
/** @typedef {import("@edgec/runtime").SpeechSegment} SpeechSegment */

const NAMESPACE = "http://www.w3.org/2000/svg";
const PEAKS = 240;
const LONGEST = 600; // seconds of a recording

/** @type {import("./tools.js").Tool} */
export const speech = {
  name: "speech",
  label: "Speech",
  takes: ({ task }) => task === "transcription" || task === "speech-detection",
  texts: {
    title: "Write down what is said",
    about: "A speech model listens in this tab. Recordings never leave your device.",
    missing: "No speech model is served here",
    commands: [
      "edgec compile ./moonshine-tiny-en --profile laptop-8gb -o moonshine.edgec",
      "edgec serve smollm2.edgec moonshine.edgec",
    ],
  },
  setUp(place, slot, speed) {
    const { record } = new Speech(place, slot, speed);
    return () => record.focus();
  },
};

class Speech {
  /** What is to be heard. @type {Blob | null} */
  blob = null;
  /** @type {Recording | null} */
  recording = null;
  /** @type {AbortController | null} */
  running = null;
  timer = 0;

  /**
   * @param {HTMLElement} place
   * @param {Slot} slot
   * @param {Speed} speed
   */
  constructor(place, slot, speed) {
    this.slot = slot;
    this.speed = speed;
    this.record = h(
      "button",
      { id: "record", class: "primary", type: "button", click: () => void this.toggleRecording() },
      "Record",
    );
    this.stop = h(
      "button",
      { id: "stop-listening", class: "quiet outlined", type: "button", hidden: true, click: () => this.running?.abort() },
      "Stop",
    );
    this.status = h("p", { id: "speech-status", class: "figures", role: "status" });
    this.player = h("audio", { id: "sound", controls: true, "aria-label": "The sound" });
    this.wave = document.createElementNS(NAMESPACE, "svg");
    this.wave.setAttribute("class", "wave");
    this.wave.setAttribute("preserveAspectRatio", "none");
    this.wave.setAttribute("aria-hidden", "true");
    this.heard = h("div", { class: "heard", hidden: true }, this.wave, this.player);
    this.text = h("p", { id: "transcript", class: "transcript", "aria-live": "off" });
    this.segments = h("ol", { id: "segments", class: "results" });
    const options = { id: "speech-drop", accept: "audio/*,.wav", text: "Drop a sound here" };
    const { element } = dropField(options, ([file]) => this.take(file));
    const actions = h("p", { class: "actions" }, this.record, this.stop);
    const parts = [element, actions, this.heard, this.status, this.text, this.segments];
    frame(place, "speech", slot, () => void this.listen(), ...parts);
    slot.addEventListener("change", () => {
      if (!slot.model) this.running?.abort();
    });
  }

  async toggleRecording() {
    const { recording } = this;
    if (recording) {
      this.recording = null;
      clearInterval(this.timer);
      this.record.textContent = "Record";
      this.record.classList.remove("stop");
      return this.take(await recording.stop());
    }
    this.running?.abort();
    this.status.textContent = "Waiting for the microphone";
    this.record.disabled = true;
    try {
      this.recording = await Recording.start();
      this.record.textContent = "Stop recording, 0:00";
      this.record.classList.add("stop");
      this.status.textContent = "Recording";
      this.timer = setInterval(() => this.#tick(), 500);
    } catch (error) {
      this.#fail(error);
    }
    this.record.disabled = false;
    this.record.focus();
  }

  #tick() {
    const taken = this.recording?.seconds ?? 0;
    this.record.textContent = `Stop recording, ${clock(taken)}`;
    if (taken > LONGEST) void this.toggleRecording();
  }

  /** @param {Blob} blob */
  take(blob) {
    this.blob = blob;
    void this.listen();
  }

  async listen() {
    const { model } = this.slot;
    const { blob } = this;
    if (!model || !blob) return;
    this.running?.abort();
    const controller = new AbortController();
    this.running = controller;
    this.text.textContent = "";
    this.segments.replaceChildren();
    this.heard.hidden = true;
    this.status.textContent = "Listening";
    this.stop.hidden = false;
    try {
      const { sample_rate: rate = 16000 } = /** @type {{sample_rate?: number}} */ (model.info.task ?? {});
      const sound = await readSound(blob, rate);
      if (controller.signal.aborted) return;
      if (sound.buffer) this.#showSound(blob, sound.buffer);
      if (model.info.task?.type === "speech-detection") await this.#detect(sound, controller.signal);
      else await this.#transcribe(sound, controller.signal);
    } catch (error) {
      if (this.running !== controller) return;
      if (codeOf(error) === "aborted") this.status.textContent = "Stopped";
      else this.#fail(error);
    } finally {
      if (this.running === controller) {
        this.running = null;
        this.stop.hidden = true;
        await this.slot.measure();
      }
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    if (error instanceof SoundError) this.status.replaceChildren(...withCode(error.message));
    else showFailure(this.status, error, this.slot);
  }

  /**
   * @param {Sound} sound
   * @param {AbortSignal} signal
   */
  async #transcribe({ audio }, signal) {
    const model = /** @type {import("@edgec/runtime").Model} */ (this.slot.model);
    const started = performance.now();
    this.speed.start("times as fast as it is spoken");
    const stream = model.transcribe(audio, { signal });
    for await (const { text } of stream) this.text.append(text);
    const result = await stream.result;
    const taken = (performance.now() - started) / 1000;
    this.speed.end(result.audioSeconds / taken);
    if (result.text.trim() === "") {
      this.status.textContent = "No speech was found in it.";
      return;
    }
    this.status.textContent = `${seconds(result.audioSeconds)} of sound written down in ${seconds(taken)}`;
    if (result.segments.length > 1) this.#list(result.segments, ({ text }) => text.trim());
  }

  /**
   * @param {Sound} sound
   * @param {AbortSignal} signal
   */
  async #detect({ audio, buffer }, signal) {
    const model = /** @type {import("@edgec/runtime").Model} */ (this.slot.model);
    const started = performance.now();
    const found = await model.detectSpeech(audio, { signal });
    const taken = (performance.now() - started) / 1000;
    this.speed.show(taken, "per recording");
    const spoken = found.reduce((sum, { start, end }) => sum + end - start, 0);
    const whole = buffer ? ` of ${seconds(buffer.duration)}` : "";
    this.status.textContent = found.length
      ? `${plural(found.length, "stretch", "stretches")} of speech, ${seconds(spoken)}${whole}`
      : "No speech was found in it.";
    if (buffer) this.wave.append(...found.map(({ start, end }) => bar(start / buffer.duration, end / buffer.duration)));
    this.#list(found, ({ start, end }) => `${figure(end - start)} s`);
  }

  /**
   * Rows that play their stretch of the sound.
   *
   * @template {SpeechSegment} T
   * @param {readonly T[]} segments
   * @param {(segment: T) => string} describe
   */
  #list(segments, describe) {
    const rows = segments.map((segment) => {
      const label = `${clock(segment.start, 1)} to ${clock(segment.end, 1)}`;
      const play = () => {
        this.player.currentTime = segment.start;
        void this.player.play().catch(() => undefined);
      };
      const button = h("button", { class: "quiet outlined", type: "button", click: play }, label);
      return h("li", { class: "stretch" }, button, h("p", { class: "result-text" }, describe(segment)));
    });
    this.segments.replaceChildren(...rows);
  }

  /**
   * @param {Blob} blob
   * @param {AudioBuffer} buffer
   */
  #showSound(blob, buffer) {
    URL.revokeObjectURL(this.player.src);
    this.player.src = URL.createObjectURL(blob);
    const loud = peaks(buffer, PEAKS);
    const most = Math.max(...loud) || 1;
    const line = document.createElementNS(NAMESPACE, "path");
    const bars = loud.map((peak, x) => `M${x + 0.5} ${20 - (19 * peak) / most}V${20.5 + (19 * peak) / most}`);
    line.setAttribute("d", bars.join(""));
    this.wave.setAttribute("viewBox", `0 0 ${PEAKS} 40`);
    this.wave.replaceChildren(line);
    this.heard.hidden = false;
  }
}

/**
 * @param {number} start of 1
 * @param {number} end of 1
 */
function bar(start, end) {
  const shape = document.createElementNS(NAMESPACE, "rect");
  const numbers = { x: start * PEAKS, y: 0, width: (end - start) * PEAKS, height: 40 };
  for (const [name, value] of Object.entries(numbers)) shape.setAttribute(name, value.toFixed(2));
  return shape;
}
