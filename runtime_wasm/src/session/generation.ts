/** One answer, from the prompt's ids to the last piece of text; the loop of docs/runtime-abi.md. */

import { EdgecError, throwIfAborted } from "../errors.js";
import { yieldToEventLoop } from "../platform.js";
import { fromHex, sha256 } from "../sha256.js";
import { Sampler, type Sampling, type SamplingOptions, resolveSampling } from "../text/sampler.js";
import { type Decoding, StopStrings, TextStream } from "../text/stream.js";
import type { DecoderState } from "./decoder.js";

export interface GenerationOptions extends SamplingOptions {
  /** Most tokens of the answer. */
  maxTokens?: number;
  /** The answer ends before the first of these texts. */
  stop?: string | readonly string[];
  /** Whether to go on after an end-of-sequence token (for benchmarks). */
  ignoreEos?: boolean;
  /** Whether `Generation.logitsSha256` is wanted (for comparing engines). */
  hashLogits?: boolean;
}

export interface PieceData {
  text: string;
  /** The ids since the last piece. */
  tokenIds: number[];
}

export interface Generation {
  text: string;
  /** Without the end-of-sequence id. */
  tokenIds: number[];
  finishReason: "stop" | "length";
  promptTokens: number;
  /** Tokens at the prompt's beginning that were still in the cache. */
  reusedTokens: number;
  completionTokens: number;
  prefillSeconds: number;
  decodeSeconds: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  /** Hash of the logits of every step, see docs/runtime-abi.md. */
  logitsSha256?: string;
}

export interface GenerationContext {
  state: DecoderState;
  eosTokenIds: readonly number[];
  /** The bundle's `generation`. */
  defaults: Record<string, unknown>;
  /** Null for a model without a tokenizer: pieces then have no text. */
  tokenizer: Decoding | null;
  onPiece: (piece: PieceData) => void;
  signal?: AbortSignal;
}

interface Settings {
  sampling: Sampling;
  maxTokens: number;
  stop: readonly string[];
}

function resolve(options: GenerationOptions, defaults: Record<string, unknown>): Settings {
  const maxTokens = options.maxTokens ?? defaults.max_tokens ?? 256;
  if (typeof maxTokens !== "number" || !Number.isInteger(maxTokens) || maxTokens < 1) {
    throw new EdgecError("invalid-argument", `\`maxTokens\` is ${maxTokens}, allowed is a whole number, 1 or more`);
  }
  const stop = typeof options.stop === "string" ? [options.stop] : (options.stop ?? []);
  return { sampling: resolveSampling(options, defaults), maxTokens, stop };
}

export async function generate(
  promptIds: readonly number[],
  options: GenerationOptions,
  context: GenerationContext,
): Promise<Generation> {
  const { sampling, maxTokens, stop } = resolve(options, context.defaults);
  const { state, signal } = context;
  throwIfAborted(signal);
  const output = new Output(context, stop);
  const sampler = new Sampler(sampling);
  const hash = options.hashLogits ? new LogitsHash() : null;
  const eos = new Set(options.ignoreEos ? [] : context.eosTokenIds);

  const prefillStarted = performance.now();
  const reusedTokens = await state.prompt(promptIds, signal);
  const prefillSeconds = (performance.now() - prefillStarted) / 1000;

  const seen = new Set(promptIds);
  let finishReason: Generation["finishReason"] = "stop";
  let decodeSeconds = 0;
  for (;;) {
    const logits = state.logits();
    await hash?.add(logits);
    const id = sampler.sample(logits, seen);
    if (eos.has(id)) break;
    seen.add(id);
    output.push(id);
    if (output.stopped) break;
    if (output.tokenIds.length >= maxTokens || state.position >= state.contextLength) {
      finishReason = "length";
      break;
    }
    await yieldToEventLoop();
    throwIfAborted(signal);
    const started = performance.now();
    state.decode(id);
    decodeSeconds += (performance.now() - started) / 1000;
  }
  output.finish();
  if (output.stopped) finishReason = "stop";

  const computed = promptIds.length - reusedTokens;
  const steps = output.tokenIds.length - 1;
  return {
    text: output.text,
    tokenIds: output.tokenIds,
    finishReason,
    promptTokens: promptIds.length,
    reusedTokens,
    completionTokens: output.tokenIds.length,
    prefillSeconds,
    decodeSeconds,
    prefillTokensPerSecond: prefillSeconds > 0 ? computed / prefillSeconds : 0,
    decodeTokensPerSecond: steps > 0 && decodeSeconds > 0 ? steps / decodeSeconds : 0,
    ...(hash ? { logitsSha256: await hash.digest() } : {}),
  };
}

/** Collects ids and hands out text as soon as it is certain. */
class Output {
  readonly tokenIds: number[] = [];
  text = "";
  private readonly stream: TextStream | null;
  private readonly stops: StopStrings;
  private pending: number[] = [];

  constructor(
    private readonly context: GenerationContext,
    stop: readonly string[],
  ) {
    this.stream = context.tokenizer ? new TextStream(context.tokenizer) : null;
    this.stops = new StopStrings(stop);
  }

  get stopped(): boolean {
    return this.stops.hit;
  }

  push(id: number): void {
    this.tokenIds.push(id);
    this.pending.push(id);
    this.emit(this.stream ? this.stops.push(this.stream.push(id)) : "", this.stream === null);
  }

  finish(): void {
    if (this.stopped || !this.stream) return;
    let rest = this.stops.push(this.stream.finish());
    if (!this.stopped) rest += this.stops.finish();
    this.emit(rest, false);
  }

  private emit(text: string, always: boolean): void {
    if (!text && !always) return;
    this.text += text;
    this.context.onPiece({ text, tokenIds: this.pending });
    this.pending = [];
  }
}

class LogitsHash {
  private readonly digests: Uint8Array[] = [];

  async add(logits: Float32Array): Promise<void> {
    this.digests.push(fromHex(await sha256(new Uint8Array(logits.slice().buffer))));
  }

  digest(): Promise<string> {
    const all = new Uint8Array(32 * this.digests.length);
    this.digests.forEach((digest, index) => all.set(digest, 32 * index));
    return sha256(all);
  }
}
