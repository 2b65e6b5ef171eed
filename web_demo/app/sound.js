/** Sounds: decoded by the browser, or recorded from the microphone. */

const RATES = { least: 8000, most: 96000 }; // that every browser decodes to

/** A sentence for the user. */
export class SoundError extends Error {}

/**
 * @typedef {object} Sound
 * @property {AudioBuffer | null} buffer what the browser has made of it; some WAV files are known to the runtime alone
 * @property {Uint8Array | AudioBuffer} audio for the model: WAV files as they are, so that it hears the same everywhere
 */

/**
 * @param {Blob} blob
 * @param {number} rate samples a second that the model wants
 * @returns {Promise<Sound>}
 */
export async function readSound(blob, rate) {
  const name = blob instanceof File && blob.name ? `\`${blob.name}\`` : "This";
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const context = new OfflineAudioContext(1, 1, Math.min(Math.max(rate, RATES.least), RATES.most));
  const buffer = await context.decodeAudioData(bytes.slice().buffer).catch(() => null);
  if (String.fromCharCode(...bytes.subarray(0, 4)) === "RIFF") return { buffer, audio: bytes };
  if (!buffer) throw new SoundError(`${name} is no sound that this browser can read. WAV files always work.`);
  if (buffer.length === 0) throw new SoundError(`${name} has no sound in it.`);
  return { buffer, audio: buffer };
}

/** @type {Record<string, string>} */
const REFUSALS = {
  NotAllowedError: "The microphone is not allowed here. Allow it for this page in the browser's settings, or choose a file.",
  NotFoundError: "No microphone was found. Choose a file instead.",
  NotReadableError: "The microphone is in use by something else, or switched off.",
};

export class Recording {
  /** @type {Blob[]} */
  #parts = [];

  /** @param {MediaRecorder} recorder */
  constructor(recorder) {
    this.recorder = recorder;
    this.startedAt = performance.now();
    recorder.addEventListener("dataavailable", ({ data }) => this.#parts.push(data));
    recorder.start(1000);
  }

  /** Asks for the microphone. Throws `SoundError`. */
  static async start() {
    if (!navigator.mediaDevices || typeof MediaRecorder !== "function")
      throw new SoundError("Browsers give a page the microphone on https or localhost only. Choose a file instead.");
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      return new Recording(new MediaRecorder(stream));
    } catch (error) {
      const { name, message } = /** @type {DOMException} */ (error);
      throw new SoundError(REFUSALS[name] ?? `The microphone cannot be used: ${message}`);
    }
  }

  get seconds() {
    return (performance.now() - this.startedAt) / 1000;
  }

  /** @returns {Promise<Blob>} */
  async stop() {
    const stopped = new Promise((resolve) => this.recorder.addEventListener("stop", resolve, { once: true }));
    this.recorder.stop();
    for (const track of this.recorder.stream.getTracks()) track.stop();
    await stopped;
    return new Blob(this.#parts, { type: this.recorder.mimeType });
  }
}

/**
 * @param {AudioBuffer} buffer
 * @param {number} count
 * @returns {number[]} the loudest sample of each of `count` stretches
 */
export function peaks(buffer, count) {
  const samples = buffer.getChannelData(0);
  return Array.from({ length: count }, (_, index) => {
    let most = 0;
    const end = Math.floor(((index + 1) * samples.length) / count);
    for (let at = Math.floor((index * samples.length) / count); at < end; at++)
      most = Math.max(most, Math.abs(samples[at]));
    return most;
  });
}
