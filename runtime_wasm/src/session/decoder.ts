/** Feeds ids to a language model and remembers them, so that a common beginning is computed once. */

import type { Engine } from "../engine/engine.js";
import { EdgecError, throwIfAborted } from "../errors.js";
import { yieldToEventLoop } from "../platform.js";

export class DecoderState {
  readonly vocabulary: number;
  readonly contextLength: number;
  private cached: number[] = [];

  constructor(
    private readonly engine: Engine,
    contextLength: number | undefined,
  ) {
    const { manifest } = engine;
    const logits = engine.output("logits");
    this.vocabulary = typeof logits.shape[0] === "number" ? logits.shape[0] : logits.bytes / 4;
    if (contextLength !== undefined && !(Number.isInteger(contextLength) && contextLength >= 1)) {
      throw new EdgecError(
        "invalid-argument",
        `\`contextLength\` is ${contextLength}, a whole number from 1 is needed`,
      );
    }
    this.contextLength = Math.min(contextLength ?? Infinity, manifest.context_length);
    const table = engine.int32(manifest.kv!.table_offset, manifest.kv!.pages);
    for (let page = 0; page < table.length; page++) table[page] = page;
  }

  get position(): number {
    return this.cached.length;
  }

  /** Makes the cache hold `ids` and the logits those after the last one; returns how many ids were there already. */
  async prompt(ids: readonly number[], signal?: AbortSignal): Promise<number> {
    this.check(ids);
    const reused = this.keepCommon(ids);
    this.ensurePages(ids.length);
    const chunk = this.engine.manifest.prefill_chunk;
    for (let at = reused; at < ids.length; at += chunk) {
      if (at > reused) await yieldToEventLoop();
      throwIfAborted(signal);
      const part = ids.slice(at, at + chunk);
      this.engine.int32(this.engine.input("tokens").offset, part.length).set(part);
      this.engine.call("prefill", part.length, at);
      for (const id of part) this.cached.push(id);
    }
    this.engine.call("head", (ids.length - reused - 1) % chunk);
    return reused;
  }

  /** Appends one id; the logits are then those after it. */
  decode(id: number): void {
    this.ensurePages(this.position + 1);
    this.engine.int32(this.engine.input("tokens").offset, 1)[0] = id;
    this.engine.call("decode", this.position);
    this.cached.push(id);
  }

  /** A view of the current logits, valid until the next call. */
  logits(): Float32Array {
    return this.engine.float32(this.engine.output("logits").offset, this.vocabulary);
  }

  reset(): void {
    this.cached = [];
  }

  /** Drops what differs from `ids` and at least the last id. */
  private keepCommon(ids: readonly number[]): number {
    let common = 0;
    while (common < this.cached.length && common < ids.length - 1 && this.cached[common] === ids[common]) common++;
    this.cached.length = common;
    return common;
  }

  private ensurePages(tokens: number): void {
    const { kv, memory } = this.engine.manifest;
    this.engine.ensure(memory.kv.offset + Math.ceil(tokens / kv!.page_tokens) * kv!.page_bytes);
  }

  private check(ids: readonly number[]): void {
    if (ids.length === 0)
      throw new EdgecError("invalid-argument", "the prompt is empty", { hint: "give at least one token" });
    if (ids.length > this.contextLength) {
      throw new EdgecError("context-full", `${ids.length} tokens do not fit the context of ${this.contextLength}`, {
        hint: "shorten the conversation, or compile the model with a longer context",
      });
    }
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id >= this.vocabulary) {
        throw new EdgecError("invalid-argument", `the token ${id} is outside the vocabulary of ${this.vocabulary}`);
      }
    }
  }
}
