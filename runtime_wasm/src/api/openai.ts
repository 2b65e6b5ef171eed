/** The model behind the shape of OpenAI's client, as far as a local model can fill it. */

import { EdgecError } from "../errors.js";
import type { Generation, GenerationOptions } from "../session/generation.js";
import type { ChatMessage } from "../text/chat.js";
import type { Abortable, Model } from "./model.js";
import type { GenerationStream } from "./stream.js";

export interface ChatCompletionParams {
  messages: readonly ChatMessage[];
  model?: string;
  max_tokens?: number | null;
  max_completion_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  seed?: number | null;
  stop?: string | readonly string[] | null;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean } | null;
  tools?: readonly unknown[];
  /** Not OpenAI's: see `SamplingOptions`. */
  top_k?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  [other: string]: unknown;
}

export interface CompletionUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

type FinishReason = "stop" | "length";

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  created: number;
  model: string;
  choices: {
    index: 0;
    message: { role: "assistant"; content: string; refusal: null };
    finish_reason: FinishReason;
    logprobs: null;
  }[];
  usage: CompletionUsage;
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: {
    index: 0;
    delta: { role?: "assistant"; content?: string };
    finish_reason: FinishReason | null;
    logprobs: null;
  }[];
  usage?: CompletionUsage | null;
}

export interface ChatCompletionStream extends AsyncIterable<ChatCompletionChunk> {
  /** As in OpenAI's client: `stream.controller.abort()`. */
  readonly controller: AbortController;
}

export interface EmbeddingParams {
  input: string | readonly string[];
  model?: string;
  encoding_format?: "float";
}

export interface EmbeddingResponse {
  object: "list";
  model: string;
  data: { object: "embedding"; index: number; embedding: number[] }[];
}

/** Asked for, but not here: refused rather than ignored. Each is fine with these values. */
const REFUSED: Record<string, readonly unknown[]> = {
  n: [1],
  logprobs: [false],
  top_logprobs: [0],
  logit_bias: [],
  frequency_penalty: [0],
  presence_penalty: [0],
  audio: [],
  modalities: [],
};

interface Completions {
  create(params: ChatCompletionParams & { stream: true }, options?: Abortable): Promise<ChatCompletionStream>;
  create(params: ChatCompletionParams & { stream?: false | null }, options?: Abortable): Promise<ChatCompletion>;
  create(params: ChatCompletionParams, options?: Abortable): Promise<ChatCompletion | ChatCompletionStream>;
}

export class OpenAI {
  readonly chat: { completions: Completions };
  readonly embeddings: { create(params: EmbeddingParams, options?: Abortable): Promise<EmbeddingResponse> };

  /** @internal */
  constructor(private readonly model: Model) {
    const create = (
      params: ChatCompletionParams,
      options: Abortable = {},
    ): Promise<ChatCompletion | ChatCompletionStream> => this.complete(params, options);
    this.chat = { completions: { create } as Completions };
    this.embeddings = { create: (params, options) => this.embed(params, options) };
  }

  private async complete(
    params: ChatCompletionParams,
    { signal }: Abortable,
  ): Promise<ChatCompletion | ChatCompletionStream> {
    refuse(params);
    const controller = new AbortController();
    if (signal?.aborted) controller.abort();
    signal?.addEventListener("abort", () => controller.abort(), { once: true });
    const answer = this.model.chat(params.messages, {
      ...toOptions(params),
      signal: controller.signal,
      ...(params.tools ? { tools: params.tools } : {}),
    });
    const head = {
      id: `chatcmpl-${crypto.randomUUID?.() ?? Date.now()}`,
      created: Math.floor(Date.now() / 1000),
      model: params.model ?? this.model.info.model.name,
    };
    if (params.stream) {
      const chunks = stream(answer, head, params.stream_options?.include_usage === true);
      return { controller, [Symbol.asyncIterator]: () => chunks };
    }
    const result = await answer.result;
    const message = { role: "assistant" as const, content: result.text, refusal: null };
    return {
      ...head,
      object: "chat.completion",
      choices: [{ index: 0, message, finish_reason: result.finishReason, logprobs: null }],
      usage: usage(result),
    };
  }

  private async embed(
    { input, model, encoding_format }: EmbeddingParams,
    options?: Abortable,
  ): Promise<EmbeddingResponse> {
    if (encoding_format !== undefined && encoding_format !== "float") {
      throw new EdgecError("unsupported", `\`encoding_format\` is ${encoding_format}, only \`float\` is offered`);
    }
    const vectors = await this.model.embed(input, options);
    const data = vectors.map((vector, index) => ({
      object: "embedding" as const,
      index,
      embedding: Array.from(vector),
    }));
    return { object: "list", model: model ?? this.model.info.model.name, data };
  }
}

function refuse(params: ChatCompletionParams): void {
  for (const [name, fine] of Object.entries(REFUSED)) {
    const value = params[name];
    if (value !== undefined && value !== null && !fine.includes(value))
      throw new EdgecError("unsupported", `\`${name}\` is not offered`);
  }
  const format = (params.response_format as { type?: string } | null | undefined)?.type;
  if (format !== undefined && format !== "text")
    throw new EdgecError("unsupported", `the response format \`${format}\` is not offered`);
}

function toOptions(params: ChatCompletionParams): GenerationOptions {
  return {
    maxTokens: params.max_completion_tokens ?? params.max_tokens ?? undefined,
    temperature: params.temperature ?? undefined,
    topP: params.top_p ?? undefined,
    topK: params.top_k ?? undefined,
    minP: params.min_p ?? undefined,
    repetitionPenalty: params.repetition_penalty ?? undefined,
    seed: params.seed ?? undefined,
    stop: params.stop ?? undefined,
  };
}

function usage(result: Generation): CompletionUsage {
  const { promptTokens, completionTokens, reusedTokens } = result;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: reusedTokens },
  };
}

type Head = Pick<ChatCompletionChunk, "id" | "created" | "model">;

async function* stream(answer: GenerationStream, head: Head, withUsage: boolean): AsyncGenerator<ChatCompletionChunk> {
  const chunk = (
    delta: ChatCompletionChunk["choices"][0]["delta"],
    finish_reason: FinishReason | null = null,
  ): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, finish_reason, logprobs: null }],
    ...(withUsage ? { usage: null } : {}),
  });
  yield chunk({ role: "assistant", content: "" });
  for await (const piece of answer) yield chunk({ content: piece.text });
  const result = await answer.result;
  yield chunk({}, result.finishReason);
  if (withUsage) yield { ...head, object: "chat.completion.chunk", choices: [], usage: usage(result) };
}
