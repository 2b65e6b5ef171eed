/** WAV files, see docs/tasks.md. Twin of `edgec/run/tasks/wav.py`. */

import { EdgecError } from "../errors.js";
import type { RawAudio } from "./samples.js";

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;

type Read = (view: DataView, at: number) => number;

const READERS: Record<string, Read> = {
  [`${PCM}/8`]: (view, at) => (view.getUint8(at) - 128) / 128,
  [`${PCM}/16`]: (view, at) => view.getInt16(at, true) / 2 ** 15,
  [`${PCM}/24`]: (view, at) => (view.getUint16(at, true) + view.getInt8(at + 2) * 2 ** 16) / 2 ** 23,
  [`${PCM}/32`]: (view, at) => view.getInt32(at, true) / 2 ** 31,
  [`${FLOAT}/32`]: (view, at) => view.getFloat32(at, true),
  [`${FLOAT}/64`]: (view, at) => view.getFloat64(at, true),
};

const bad = (message: string, hint?: string): EdgecError => new EdgecError("audio", message, { hint });

export function isWav(data: Uint8Array): boolean {
  return data.length >= 12 && ascii(data, 0) === "RIFF" && ascii(data, 8) === "WAVE";
}

/** Samples in double precision, integers scaled to [-1, 1). */
export function readWav(data: Uint8Array): RawAudio {
  if (!isWav(data)) {
    throw bad("the audio is not a WAV file", "decode it with `AudioContext.decodeAudioData` and give the AudioBuffer");
  }
  const chunks = readChunks(data);
  const form = chunks.get("fmt ");
  if (!form || form.byteLength < 16) throw bad("the audio is a damaged WAV file: it has no format");
  let code = form.getUint16(0, true);
  const channels = form.getUint16(2, true);
  const sampleRate = form.getUint32(4, true);
  const bits = form.getUint16(14, true);
  if (code === EXTENSIBLE && form.byteLength >= 26) code = form.getUint16(24, true);
  const read = Object.hasOwn(READERS, `${code}/${bits}`) ? READERS[`${code}/${bits}`] : undefined;
  if (!read || channels === 0 || sampleRate === 0) {
    throw bad(
      `the audio is a WAV file of format ${code}, ${bits} bits, ${channels} channels and ${sampleRate} Hz`,
      "supported are PCM of 8, 16, 24 and 32 bits, and floats",
    );
  }
  const content = chunks.get("data");
  if (!content) throw bad("the audio is a damaged WAV file: it has no samples");
  const width = bits / 8;
  const frames = Math.floor(content.byteLength / (width * channels));
  const samples = Array.from({ length: channels }, () => new Float64Array(frames));
  for (let frame = 0, at = 0; frame < frames; frame++) {
    for (const channel of samples) {
      channel[frame] = read(content, at);
      at += width;
    }
  }
  return { channels: samples, sampleRate };
}

function ascii(data: Uint8Array, at: number): string {
  return String.fromCharCode(...data.subarray(at, at + 4));
}

/** The first chunk of each name; the last one ends with the file. */
function readChunks(data: Uint8Array): Map<string, DataView> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const found = new Map<string, DataView>();
  let at = 12;
  while (at + 8 <= data.length) {
    const name = ascii(data, at);
    const length = view.getUint32(at + 4, true);
    const end = Math.min(data.length, at + 8 + length);
    if (!found.has(name)) found.set(name, new DataView(data.buffer, data.byteOffset + at + 8, end - at - 8));
    at += 8 + length + (length % 2);
  }
  return found;
}
