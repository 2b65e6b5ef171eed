/** Where somebody speaks, see docs/tasks.md. Twin of `edgec/run/tasks/speech_detection.py`. */

import { type AudioInput, readAudio } from "../audio/samples.js";
import type { SpeechDetectionTask } from "../bundle/task.js";
import { throwIfAborted } from "../errors.js";
import { yieldToEventLoop } from "../platform.js";
import { type Graph, runGraph } from "./graph.js";

const WINDOWS_AT_ONCE = 64;

/** Seconds from the beginning. */
export interface SpeechSegment {
  start: number;
  end: number;
}

export async function detectSpeech(
  graph: Graph,
  task: SpeechDetectionTask,
  audio: AudioInput,
  signal?: AbortSignal,
): Promise<SpeechSegment[]> {
  const samples = await readAudio(audio, task.sample_rate);
  const chances = await probabilities(graph, task, samples, signal);
  return speechSegments(chances, task, samples.length).map(([start, end]) => ({
    start: start / task.sample_rate,
    end: end / task.sample_rate,
  }));
}

/** That of each window, which hears the `context` before it and what the state remembers of the rest. */
async function probabilities(
  graph: Graph,
  { window, context }: SpeechDetectionTask,
  samples: Float32Array,
  signal?: AbortSignal,
): Promise<number[]> {
  const [sound, memory] = graph.inputs;
  const [probability, after] = graph.outputs;
  const shape = memory.shape as number[];
  let state = new Float32Array(shape.reduce((a, b) => a * b, 1));
  const chances: number[] = [];
  for (let start = 0; start < samples.length; start += window) {
    if (chances.length % WINDOWS_AT_ONCE === 0) {
      await yieldToEventLoop();
      throwIfAborted(signal);
    }
    const part = new Float32Array(context + window);
    const first = Math.max(0, start - context);
    part.set(samples.subarray(first, start + window), first - (start - context));
    const outputs = runGraph(graph, {
      [sound.name]: { data: part, shape: [1, part.length] },
      [memory.name]: { data: state, shape },
    });
    state = outputs[after.name].data as Float32Array<ArrayBuffer>;
    chances.push((outputs[probability.name].data as Float32Array)[0]);
  }
  return chances;
}

/** [start, end] in samples, of `count` in all. */
export function speechSegments(
  chances: readonly number[],
  task: SpeechDetectionTask,
  count: number,
): [number, number][] {
  const perMs = task.sample_rate / 1000;
  const leastSpeech = task.min_speech_ms * perMs;
  const leastSilence = task.min_silence_ms * perMs;
  const found: [number, number][] = [];
  let start = -1;
  let end = -1;
  chances.forEach((chance, index) => {
    const at = index * task.window;
    if (chance >= task.threshold) {
      end = -1;
      if (start < 0) start = at;
    } else if (chance < task.neg_threshold && start >= 0) {
      if (end < 0) end = at;
      if (at - end < leastSilence) return;
      if (end - start > leastSpeech) found.push([start, end]);
      start = end = -1;
    }
  });
  if (start >= 0 && count - start > leastSpeech) found.push([start, count]);
  return padded(found, task.speech_pad_ms * perMs, count);
}

/** Each a little longer; a silence that is too short for that is shared. */
function padded(found: [number, number][], pad: number, count: number): [number, number][] {
  if (found.length === 0) return found;
  found[0][0] = Math.floor(Math.max(0, found[0][0] - pad));
  const last = found[found.length - 1];
  last[1] = Math.floor(Math.min(count, last[1] + pad));
  for (let i = 1; i < found.length; i++) {
    const [before, after] = [found[i - 1], found[i]];
    const silence = after[0] - before[1];
    const share = Math.floor(silence / 2);
    before[1] = silence < 2 * pad ? before[1] + share : Math.floor(before[1] + pad);
    after[0] = silence < 2 * pad ? after[0] - share : Math.floor(after[0] - pad);
  }
  return found;
}
