/** A loaded model: what the worker holds, or the page itself with `worker: false`. One request at a time. */

import type { Manifest } from "../bundle/manifest.js";
import type { KnownTask } from "../bundle/task.js";
import { EdgecError, throwIfAborted } from "../errors.js";
import type { CacheKind } from "../load/cache.js";
import { type Loaded, type LoaderOptions, load } from "../load/loader.js";
import type { Source } from "../load/source.js";
import type { ChatMessage } from "../text/chat.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { AudioInput } from "../audio/samples.js";
import type { ImageInput } from "../vision/decode.js";
import type { Classification, Detection } from "../vision/results.js";
import type { Transcription } from "./speech.js";
import type { SpeechSegment } from "./speech_detection.js";
import { Adapters } from "./adapters.js";
import { DecoderState } from "./decoder.js";
import { type Generation, type GenerationOptions, type PieceData, generate } from "./generation.js";
import { type Graph, type Tensor, type TensorInput, openGraph, runGraph } from "./graph.js";
import type { TextLine } from "./ocr.js";
import { type SelfTest, selfTest } from "./selftest.js";
import type { Segmentation } from "./segmentation.js";
import type { TaskCode, TaskType } from "./tasks.js";
import type { Entity, Ranked } from "./text_tasks.js";

export interface SessionOptions extends LoaderOptions {
  contextLength?: number;
}

/** The part of the manifest that a page may want to show. */
export type ModelInfo = Pick<
  Manifest,
  | "model"
  | "profile"
  | "dims"
  | "inputs"
  | "outputs"
  | "graphs"
  | "context_length"
  | "prefill_chunk"
  | "generation"
  | "task"
  | "plan"
  | "accuracy"
> & { chat: boolean };

export interface Stats {
  variant: string;
  threads: number;
  /** Bits of nested codes that are used, null where codes are not nested. */
  depth: number | null;
  cache: CacheKind;
  loadSeconds: number;
  downloadedBytes: number;
  cachedBytes: number;
  /** Size of the model's WebAssembly memory now. */
  memoryBytes: number;
  weightBytes: number;
  /** 0 for graphs. */
  contextLength: number;
  /** Tokens whose keys and values are in the cache. */
  cachedTokens: number;
  /** Of the last answer, without its text. */
  lastGeneration: Omit<Generation, "text" | "tokenIds"> | null;
  /** The name of the adapter in use. */
  adapter: string | null;
}

export type Prompt =
  { prompt: string | readonly number[] } | { messages: readonly ChatMessage[]; tools?: readonly unknown[] };

export class Session {
  private readonly manifest: Manifest;
  private readonly state: DecoderState | null;
  private queue: Promise<unknown> = Promise.resolve();
  private lastGeneration: Stats["lastGeneration"] = null;
  private readonly adapters: Adapters;

  private constructor(
    private readonly loaded: Loaded,
    options: SessionOptions,
  ) {
    this.manifest = loaded.engine.manifest;
    this.adapters = new Adapters(loaded.engine);
    this.state = this.manifest.kv ? new DecoderState(loaded.engine, options.contextLength) : null;
  }

  static async load(source: Source, manifest: Uint8Array, options: SessionOptions): Promise<Session> {
    const loaded = await load(source, manifest, options);
    try {
      return new Session(loaded, options);
    } catch (error) {
      loaded.engine.dispose();
      throw error;
    }
  }

  get info(): ModelInfo {
    const {
      model,
      profile,
      dims,
      inputs,
      outputs,
      graphs,
      context_length,
      prefill_chunk,
      generation,
      task,
      plan,
      accuracy,
      tokenizer,
    } = this.manifest;
    const chat = typeof tokenizer?.chat_template === "string";
    return {
      model,
      profile,
      dims,
      inputs,
      outputs,
      graphs,
      context_length,
      prefill_chunk,
      generation,
      task,
      plan,
      accuracy,
      chat,
    };
  }

  generate(
    prompt: Prompt,
    options: GenerationOptions,
    onPiece: (piece: PieceData) => void,
    signal?: AbortSignal,
  ): Promise<Generation> {
    return this.exclusive(signal, async () => {
      const state = this.requireDecoder();
      const ids = await this.promptIds(prompt);
      const { tokenizer } = this.loaded;
      const result = await generate(ids, options, {
        state,
        eosTokenIds: this.manifest.tokenizer?.eos_token_ids ?? [],
        defaults: this.manifest.generation,
        tokenizer,
        onPiece,
        signal,
      });
      const { text: _text, tokenIds: _ids, ...figures } = result;
      this.lastGeneration = figures;
      return result;
    });
  }

  run(
    inputs: Readonly<Record<string, TensorInput>>,
    graph: string | undefined,
    signal?: AbortSignal,
  ): Promise<Record<string, Tensor>> {
    return this.exclusive(signal, async () => runGraph(this.graph(graph), inputs));
  }

  embed(texts: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("embedding");
      const tokenizer = this.requireTokenizer();
      const vectors: Float32Array[] = [];
      for (const text of texts) {
        if (typeof text !== "string") throw new EdgecError("invalid-argument", "`embed` takes texts");
        throwIfAborted(signal);
        vectors.push(code.embedText(this.graph(), tokenizer, task, text));
      }
      return vectors;
    });
  }

  /** Vectors of texts in the space of `embedImages`. */
  embedTexts(texts: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    return this.exclusive(signal, async () => this.textVectors(texts, signal));
  }

  embedImages(images: readonly ImageInput[], signal?: AbortSignal): Promise<Float32Array[]> {
    return this.exclusive(signal, () => this.imageVectors(images, signal));
  }

  /** The logit of every text with every image, a row per text. */
  similarity(
    texts: readonly string[],
    images: readonly ImageInput[],
    signal?: AbortSignal,
  ): Promise<Float32Array[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("text-image-similarity");
      return code.compare(task, this.textVectors(texts, signal), await this.imageVectors(images, signal));
    });
  }

  private textVectors(texts: readonly string[], signal?: AbortSignal): Float32Array[] {
    const { task, code } = this.requireTask("text-image-similarity");
    const [graph, tokenizer] = [this.graph(code.TEXT_GRAPH), this.requireTokenizer()];
    return texts.map((text) => {
      if (typeof text !== "string") throw new EdgecError("invalid-argument", "texts are needed");
      throwIfAborted(signal);
      return code.textVector(graph, tokenizer, task, text);
    });
  }

  private async imageVectors(images: readonly ImageInput[], signal?: AbortSignal): Promise<Float32Array[]> {
    const { task, code } = this.requireTask("text-image-similarity");
    const graph = this.graph(code.IMAGE_GRAPH);
    const vectors: Float32Array[] = [];
    for (const image of images) {
      throwIfAborted(signal);
      vectors.push(await code.imageVector(graph, task, image, signal));
    }
    return vectors;
  }

  /** An image, or a text or a pair of texts. `labels` are for models of texts and images, which choose among any texts. */
  classify(
    what: ImageInput | string | readonly [string, string],
    topK: number,
    labels: readonly string[] | undefined,
    signal?: AbortSignal,
  ): Promise<Classification[]> {
    return this.exclusive(signal, async () => {
      if (!labels && this.manifest.task?.type === "text-classification") {
        const { task, code } = this.requireTask("text-classification");
        return code.classifyText(this.graph(), this.requireTokenizer(), task, what, topK);
      }
      const image = what as ImageInput;
      if (labels) {
        const { task, code } = this.requireTask("text-image-similarity");
        const rows = code.compare(task, this.textVectors(labels, signal), await this.imageVectors([image], signal));
        return code.choose(task, labels, Float32Array.from(rows, ([logit]) => logit), topK);
      }
      const { task, code } = this.requireTask("image-classification");
      return code.classifyImage(this.graph(), task, image, topK, signal);
    });
  }

  rerank(query: string, documents: readonly string[], signal?: AbortSignal): Promise<Ranked[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("text-classification");
      return code.rankDocuments(this.graph(), this.requireTokenizer(), task, query, documents, signal);
    });
  }

  tokens(text: string, signal?: AbortSignal): Promise<Entity[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("token-classification");
      return code.findEntities(this.graph(), this.requireTokenizer(), task, text, signal);
    });
  }

  segment(image: ImageInput, signal?: AbortSignal): Promise<Segmentation> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("semantic-segmentation");
      return code.segmentImage(this.graph(), task, image, signal);
    });
  }

  detect(
    image: ImageInput,
    thresholds: { scoreThreshold?: number; iouThreshold?: number },
    signal?: AbortSignal,
  ): Promise<Detection[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("object-detection");
      const { scoreThreshold = task.score_threshold, iouThreshold = task.iou_threshold } = thresholds;
      const settings = { ...task, score_threshold: scoreThreshold, iou_threshold: iouThreshold };
      return code.detectObjects(this.graph(), settings, image, signal);
    });
  }

  ocr(image: ImageInput, signal?: AbortSignal): Promise<TextLine[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("ocr");
      return code.readText(this.graph(code.DETECT_GRAPH), this.graph(code.RECOGNIZE_GRAPH), task, image, signal);
    });
  }

  transcribe(
    audio: AudioInput,
    onPiece: (piece: PieceData) => void,
    signal?: AbortSignal,
  ): Promise<Transcription> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("transcription");
      const tokenizer = this.requireTokenizer();
      return code.transcribe(audio, {
        engine: this.loaded.engine,
        task,
        eosTokenIds: this.manifest.tokenizer?.eos_token_ids ?? [],
        tokenizer,
        onPiece,
        signal,
      });
    });
  }

  detectSpeech(audio: AudioInput, signal?: AbortSignal): Promise<SpeechSegment[]> {
    return this.exclusive(signal, async () => {
      const { task, code } = this.requireTask("speech-detection");
      return code.detectSpeech(this.graph(), task, audio, signal);
    });
  }

  /** The ids that `generate` would start from. */
  async encode(prompt: Prompt): Promise<number[]> {
    return [...(await this.promptIds(prompt))];
  }

  async decode(ids: readonly number[]): Promise<string> {
    return this.requireTokenizer().decode(ids);
  }

  /** Forgets the conversation so far; the next prompt is computed from its beginning. */
  reset(): Promise<void> {
    return this.exclusive(undefined, async () => this.requireDecoder().reset());
  }

  /** Checks an adapter's bytes and keeps it; returns its name. */
  loadAdapter(bytes: Uint8Array, name: string | undefined, signal?: AbortSignal): Promise<string> {
    return this.exclusive(signal, async () => {
      const state = this.requireDecoder();
      const key = await this.adapters.load(bytes, name);
      if (key === this.adapters.active) state.reset();
      return key;
    });
  }

  /** Answers with the adapter of that name from now on, or with none. A conversation is computed again. */
  useAdapter(name: string | null): Promise<void> {
    return this.exclusive(undefined, async () => {
      const state = this.requireDecoder();
      this.adapters.use(name);
      state.reset();
    });
  }

  /** Runs the bundle's fixed input; a conversation is forgotten. */
  selfTest(signal?: AbortSignal): Promise<SelfTest> {
    return this.exclusive(signal, async () => {
      const { engine, variant } = this.loaded;
      const startedAt = performance.now();
      const { compared, differences } = await this.adapters.suspended(() => selfTest(engine, this.state));
      const passed = this.manifest.golden ? differences.length === 0 : null;
      const seconds = (performance.now() - startedAt) / 1000;
      return { passed, variant, threads: engine.threads, compared, differences, seconds };
    });
  }

  stats(): Stats {
    const { engine, variant, depth, cache, loadSeconds, downloadedBytes, cachedBytes } = this.loaded;
    return {
      variant,
      threads: engine.threads,
      depth,
      cache,
      loadSeconds,
      downloadedBytes,
      cachedBytes,
      memoryBytes: engine.memory.buffer.byteLength,
      weightBytes: this.manifest.memory.weights.bytes,
      contextLength: this.state?.contextLength ?? 0,
      cachedTokens: this.state?.position ?? 0,
      lastGeneration: this.lastGeneration,
      adapter: this.adapters.active,
    };
  }

  dispose(): void {
    this.loaded.engine.dispose();
  }

  /** Runs `task` when all before it have ended. */
  private exclusive<T>(signal: AbortSignal | undefined, task: () => Promise<T>): Promise<T> {
    const result = this.queue.then(() => {
      throwIfAborted(signal);
      return task();
    });
    this.queue = result.catch(() => undefined);
    return result;
  }

  private async promptIds(prompt: Prompt): Promise<readonly number[]> {
    if ("messages" in prompt) return this.chatIds(prompt.messages, prompt.tools);
    if (typeof prompt.prompt !== "string") return prompt.prompt;
    return this.requireTokenizer().encode(prompt.prompt);
  }

  private async chatIds(messages: readonly ChatMessage[], tools: readonly unknown[] | undefined): Promise<number[]> {
    const info = this.manifest.tokenizer;
    if (!info || !this.loaded.template) {
      throw new EdgecError("unsupported", `\`${this.manifest.model.name}\` has no chat template`, {
        hint: "use `generate` with a plain prompt",
      });
    }
    const tokenizer = this.requireTokenizer();
    const template = await this.loaded.template;
    const text = template.render(messages, {
      specialTokens: info.special_tokens,
      controlTokens: tokenizer.controlTokens.keys(),
      tools,
    });
    return tokenizer.encodeRendered(text);
  }

  private requireTokenizer(): Tokenizer {
    const { tokenizer } = this.loaded;
    if (!tokenizer)
      throw new EdgecError("unsupported", `\`${this.manifest.model.name}\` has no tokenizer`, {
        hint: "give token ids",
      });
    return tokenizer;
  }

  private requireDecoder(): DecoderState {
    if (!this.state)
      throw new EdgecError("unsupported", `\`${this.manifest.model.name}\` is not a language model`, {
        hint: "use `run`",
      });
    return this.state;
  }

  private graph(name?: string): Graph {
    this.requireGraph();
    return openGraph(this.loaded.engine, name);
  }

  private requireGraph(): void {
    if (this.state)
      throw new EdgecError("unsupported", `\`${this.manifest.model.name}\` is a language model`, {
        hint: "use `generate` or `chat`",
      });
  }

  private requireTask<T extends TaskType>(type: T): { task: Extract<KnownTask, { type: T }>; code: TaskCode<T> } {
    this.requireGraph();
    const task = this.manifest.task;
    if (task?.type !== type) {
      throw new EdgecError("unsupported", `\`${this.manifest.model.name}\` is no model for ${type.replaceAll("-", " ")}`, {
        hint: "use `run` for tensors",
      });
    }
    return { task: task as Extract<KnownTask, { type: T }>, code: this.loaded.taskCode as TaskCode<T> };
  }
}
