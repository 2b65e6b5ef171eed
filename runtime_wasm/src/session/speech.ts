/** Speech to text, see docs/tasks.md. Twin of `edgec/run/tasks/transcription.py`. */

import { type AudioInput, readAudio, windows } from "../audio/samples.js";
import type { TranscriptionTask } from "../bundle/task.js";
import type { Engine } from "../engine/engine.js";
import { throwIfAborted } from "../errors.js";
import { yieldToEventLoop } from "../platform.js";
import { type Decoding, TextStream } from "../text/stream.js";
import type { PieceData } from "./generation.js";

const SPARE_TOKENS = 8; // a short word may have more tokens than its seconds allow

/** What was said from `start` to `end`, seconds from the beginning. */
export interface Segment {
  start: number;
  end: number;
  text: string;
}

export interface Transcription {
  text: string;
  tokenIds: number[];
  segments: Segment[];
  audioSeconds: number;
  encodeSeconds: number;
  decodeSeconds: number;
}

export interface TranscriptionContext {
  engine: Engine;
  task: TranscriptionTask;
  eosTokenIds: readonly number[];
  tokenizer: Decoding;
  onPiece: (piece: PieceData) => void;
  signal?: AbortSignal;
}

export async function transcribe(audio: AudioInput, context: TranscriptionContext): Promise<Transcription> {
  const { task, onPiece } = context;
  const rate = task.sample_rate;
  const samples = await readAudio(audio, rate);
  const result: Transcription = {
    text: "",
    tokenIds: [],
    segments: [],
    audioSeconds: samples.length / rate,
    encodeSeconds: 0,
    decodeSeconds: 0,
  };
  const speech = new Speech(context.engine);
  const longest = Math.min(Math.floor(task.window_seconds * rate), speech.longest);
  for (const [start, end] of windows(samples, longest, rate)) {
    let text = "";
    await transcribeWindow(speech, samples.subarray(start, end), context, result, (piece) => {
      const shown = !text && result.text ? ` ${piece.text}` : piece.text;
      text += piece.text;
      result.text += shown;
      onPiece({ ...piece, text: shown });
    });
    result.segments.push({ start: start / rate, end: end / rate, text });
  }
  return result;
}

async function transcribeWindow(
  speech: Speech,
  samples: Float32Array,
  { engine, task, eosTokenIds, tokenizer, signal }: TranscriptionContext,
  result: Transcription,
  emit: (piece: PieceData) => void,
): Promise<void> {
  const byTime = Math.floor((samples.length / task.sample_rate) * task.max_tokens_per_second) + SPARE_TOKENS;
  const room = Math.min(task.max_tokens, engine.manifest.dims.past + 1);
  const limit = Math.min(byTime, room - task.start_ids.length);
  await yieldToEventLoop();
  throwIfAborted(signal);
  const started = performance.now();
  speech.encode(samples, Math.floor(task.min_seconds * task.sample_rate));
  result.encodeSeconds += (performance.now() - started) / 1000;

  const stream = new TextStream(tokenizer);
  let since: number[] = [];
  const push = (text: string): void => {
    if (!text) return;
    emit({ text, tokenIds: since });
    since = [];
  };
  let pending: readonly number[] = task.start_ids;
  let suppressed = [...task.suppress_ids, ...task.begin_suppress_ids];
  for (let count = 0; count < limit; count++) {
    const began = performance.now();
    for (const id of pending) speech.decode(id);
    const best = speech.best(suppressed);
    suppressed = task.suppress_ids;
    result.decodeSeconds += (performance.now() - began) / 1000;
    if (eosTokenIds.includes(best)) break;
    result.tokenIds.push(best);
    since.push(best);
    push(stream.push(best));
    pending = [best];
    await yieldToEventLoop();
    throwIfAborted(signal);
  }
  push(stream.finish());
}

/** The graphs `encode` and `decode` of a bundle: audio in once, then logits id by id. */
class Speech {
  /** Samples that a window may have. */
  readonly longest: number;
  private readonly fixed: number; // samples of every window
  private readonly dims: Record<string, number> = { samples: 0, past: 0 };

  constructor(private readonly engine: Engine) {
    const length = engine.input("audio").shape[1];
    this.fixed = typeof length === "number" ? length : 0;
    this.longest = this.fixed || engine.manifest.dims.samples;
  }

  /** Fewer samples than are needed are followed by silence. */
  encode(samples: Float32Array, shortest: number): void {
    const count = Math.max(samples.length, shortest, this.fixed);
    const place = this.engine.float32(this.engine.input("audio").offset, count);
    place.set(samples);
    place.fill(0, samples.length);
    this.dims.samples = count;
    this.dims.past = 0;
    this.call("encode");
  }

  /** Appends one id; the logits are then those after it. */
  decode(id: number): void {
    this.engine.int32(this.engine.input("tokens").offset, 2).set([id, 0]); // an int64
    this.call("decode");
    this.dims.past++;
  }

  /** The id with the largest logit, the lowest on ties; none of the suppressed ones. */
  best(suppressed: readonly number[]): number {
    const slot = this.engine.output("logits");
    const view = this.engine.float32(slot.offset, slot.shape[2] as number);
    const logits = suppressed.length > 0 ? view.slice() : view;
    for (const id of suppressed) logits[id] = -Infinity;
    let best = 0;
    for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
    return best;
  }

  private call(entry: string): void {
    this.engine.call(entry, ...this.engine.manifest.entry_points[entry].map((name) => this.dims[name]));
  }
}
