/** Sound as mono samples at a model's rate, and where to cut it, see docs/tasks.md. Twin of `edgec/run/tasks/audio.py`. */

import { EdgecError } from "../errors.js";
import { readWav } from "./wav.js";

/** Samples from -1 to 1 of each channel, all of the same length. */
export interface RawAudio {
  channels: readonly (Float32Array | Float64Array)[];
  sampleRate: number;
}

/** Raw samples, or the bytes of a WAV file. */
export type AudioInput = RawAudio | Uint8Array | ArrayBuffer | Blob;

const CROSSINGS = 32; // of the filter, on each side
const CUTOFF = 0.945; // of the lower rate's half
const FRAMES_PER_SECOND = 50; // of the loudness by which a cut is chosen
const SINE = Array.from({ length: 11 }, (_, i) => {
  let factorial = 1;
  for (let j = 2; j <= 2 * i + 1; j++) factorial *= j;
  return (i % 2 ? -1 : 1) / factorial;
});

/** Mono samples at `rate`. */
export async function readAudio(audio: AudioInput, rate: number): Promise<Float32Array> {
  const raw = isRaw(audio) ? audio : readWav(await toBytes(audio));
  const { channels, sampleRate } = raw;
  const length = channels[0]?.length;
  if (length === undefined || channels.some((channel) => channel.length !== length))
    throw new EdgecError("invalid-argument", "the audio has no channel, or channels of different lengths");
  if (!Number.isInteger(sampleRate) || sampleRate < 1)
    throw new EdgecError("invalid-argument", `a sound cannot have ${sampleRate} samples a second`);
  if (channels.some((channel) => channel.some((value) => !Number.isFinite(value))))
    throw new EdgecError("audio", "the audio has samples that are no numbers");
  return resample(mono(channels), sampleRate, rate);
}

function isRaw(audio: AudioInput): audio is RawAudio {
  return typeof audio === "object" && audio !== null && "channels" in audio && "sampleRate" in audio;
}

async function toBytes(audio: Exclude<AudioInput, RawAudio>): Promise<Uint8Array> {
  if (audio instanceof Uint8Array) return audio;
  if (audio instanceof ArrayBuffer) return new Uint8Array(audio);
  if (audio instanceof Blob) return new Uint8Array(await audio.arrayBuffer());
  throw new EdgecError("invalid-argument", "the audio is neither samples nor the bytes of a WAV file");
}

/** The mean of the channels. */
export function mono(channels: RawAudio["channels"]): Float32Array {
  return Float32Array.from(channels[0], (first, i) => {
    let total = first;
    for (let c = 1; c < channels.length; c++) total += channels[c][i];
    return total / channels.length;
  });
}

/** `samples` of `source` Hz at `target` Hz, by a windowed sinc. */
export function resample(samples: Float32Array, source: number, target: number): Float32Array {
  if (source === target || samples.length === 0) return samples;
  const common = greatestCommonDivisor(source, target);
  const up = target / common;
  const down = source / common;
  const { taps, weights } = filters(up, down);
  const reach = taps / 2;
  const result = new Float32Array(Math.ceil((samples.length * up) / down));
  for (let n = 0; n < result.length; n++) {
    const whole = Math.floor((n * down) / up);
    const row = ((n * down) % up) * taps;
    const first = whole + 1 - reach;
    let total = 0;
    for (let tap = Math.max(0, -first); tap < taps && first + tap < samples.length; tap++)
      total += samples[first + tap] * weights[row + tap];
    result[n] = total;
  }
  return result;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** A row for each phase: weights of the samples from `1 - taps / 2` to `taps / 2` after the one before a place. */
function filters(up: number, down: number): { taps: number; weights: Float64Array } {
  const scale = Math.min(1, up / down);
  const width = CROSSINGS / scale;
  const reach = Math.ceil(width);
  const cutoff = CUTOFF * scale;
  const taps = 2 * reach;
  const weights = new Float64Array(up * taps);
  for (let phase = 0; phase < up; phase++) {
    const row = weights.subarray(phase * taps, (phase + 1) * taps);
    let total = 0;
    for (let tap = 0; tap < taps; tap++) {
      const distance = Math.abs(phase / up - (tap + 1 - reach));
      if (distance >= width) continue;
      const angle = cutoff * distance;
      const sinc = angle === 0 ? 1 : sineOfPi(angle) / (Math.PI * angle);
      const edge = sineOfPi((1 - distance / width) / 2);
      row[tap] = sinc * (edge * edge);
      total += row[tap];
    }
    for (let tap = 0; tap < taps; tap++) row[tap] /= total;
  }
  return { taps, weights };
}

/** sin(pi * x), the same double in every runtime. */
export function sineOfPi(x: number): number {
  const turn = x - 2 * Math.floor(x / 2);
  const half = turn >= 1 ? turn - 1 : turn;
  const z = (half > 0.5 ? 1 - half : half) * Math.PI;
  const square = z * z;
  let result = SINE[SINE.length - 1];
  for (let i = SINE.length - 2; i >= 0; i--) result = result * square + SINE[i];
  return (turn >= 1 ? -1 : 1) * (result * z);
}

/** [start, end] of parts of at most `longest` samples, cut where it is most quiet in the last third. */
export function windows(samples: Float32Array, longest: number, rate: number): [number, number][] {
  const parts: [number, number][] = [];
  let start = 0;
  while (samples.length - start > longest) {
    const end = start + quietest(samples.subarray(start, start + longest), rate);
    parts.push([start, end]);
    start = end;
  }
  if (start < samples.length) parts.push([start, samples.length]);
  return parts;
}

function quietest(samples: Float32Array, rate: number): number {
  const frame = Math.max(1, Math.floor(rate / FRAMES_PER_SECOND));
  const low = Math.floor((2 * samples.length) / 3);
  const count = Math.floor((samples.length - low) / frame);
  let cut = samples.length;
  let least = Infinity;
  for (let i = 0; i < count; i++) {
    let energy = 0;
    for (let j = low + i * frame; j < low + (i + 1) * frame; j++) energy += samples[j] * samples[j];
    if (energy <= least) {
      least = energy;
      cut = low + i * frame + Math.floor(frame / 2);
    }
  }
  return cut;
}
