/** A loaded model, as the page sees it. */

import { EdgecError } from "../errors.js";
import type { GenerationOptions, Generation } from "../session/generation.js";
import type { Tensor, TensorInput } from "../session/graph.js";
import type { SelfTest } from "../session/selftest.js";
import type { ModelInfo, Prompt, Stats } from "../session/session.js";
import type { ChatMessage } from "../text/chat.js";
import type { ImageInput } from "../vision/decode.js";
import type { Classification, Detection } from "../vision/results.js";
import type { Backend, CallOptions } from "./backend.js";
import { OpenAI } from "./openai.js";
import { GenerationStream } from "./stream.js";

export interface Abortable {
  signal?: AbortSignal;
}

export interface GenerateOptions extends GenerationOptions, Abortable {}

export interface ChatOptions extends GenerateOptions {
  /** Descriptions of tools for chat templates that know them. */
  tools?: readonly unknown[];
}

/** What `classify` and `detect` take: also elements of the page, in browsers. */
export type ImageSource = ImageInput | HTMLImageElement | HTMLCanvasElement | HTMLVideoElement;

export class Model {
  /** Facts about the bundle. */
  readonly info: ModelInfo;
  /** The same model behind the shape of OpenAI's client. */
  readonly openai: OpenAI;

  /** @internal */
  constructor(private readonly backend: Backend) {
    this.info = backend.info;
    this.openai = new OpenAI(this);
  }

  /** Answers a conversation in the model's own format. */
  chat(messages: readonly ChatMessage[], { tools, ...options }: ChatOptions = {}): GenerationStream {
    return this.stream({ messages, ...(tools ? { tools } : {}) }, options);
  }

  /** Continues a text or a list of token ids. */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): GenerationStream {
    return this.stream({ prompt }, options);
  }

  private stream(prompt: Prompt, { signal, ...options }: GenerateOptions): GenerationStream {
    return new GenerationStream(async (onPiece, inner) => {
      const call = { signal: inner, onEvent: onPiece as CallOptions["onEvent"] };
      return (await this.backend.call("generate", [prompt, options], call)) as Generation;
    }, signal);
  }

  /** Runs a graph: tensors by name in, tensors by name out. */
  async run(
    inputs: Readonly<Record<string, TensorInput>>,
    { signal }: Abortable = {},
  ): Promise<Record<string, Tensor>> {
    return (await this.backend.call("run", [inputs], { signal })) as Record<string, Tensor>;
  }

  /** One vector per text. */
  async embed(texts: string | readonly string[], { signal }: Abortable = {}): Promise<Float32Array[]> {
    return (await this.backend.call("embed", [typeof texts === "string" ? [texts] : texts], {
      signal,
    })) as Float32Array[];
  }

  /** The best `topK` (5) labels for an image. */
  async classify(
    image: ImageSource,
    { topK = 5, signal }: Abortable & { topK?: number } = {},
  ): Promise<Classification[]> {
    return (await this.backend.call("classify", [await portable(image), topK], { signal })) as Classification[];
  }

  /** The objects in an image; the thresholds are the bundle's where they are left out. */
  async detect(
    image: ImageSource,
    options: Abortable & { scoreThreshold?: number; iouThreshold?: number } = {},
  ): Promise<Detection[]> {
    const { signal, ...thresholds } = options;
    return (await this.backend.call("detect", [await portable(image), thresholds], { signal })) as Detection[];
  }

  /** The token ids that `generate` (a text) or `chat` (messages) would start from. */
  async encode(prompt: string | readonly ChatMessage[]): Promise<number[]> {
    const form: Prompt = typeof prompt === "string" ? { prompt } : { messages: prompt };
    return (await this.backend.call("encode", [form])) as number[];
  }

  /** The text of token ids, without special tokens. */
  async decode(ids: readonly number[]): Promise<string> {
    return (await this.backend.call("decode", [ids])) as string;
  }

  /** Forgets the conversation so far; otherwise the next prompt continues what it has in common with the last. */
  async reset(): Promise<void> {
    await this.backend.call("reset", []);
  }

  /** Whether this browser computes what the compiler did, to the bit, on a small fixed input. A conversation is forgotten. */
  async selfTest({ signal }: Abortable = {}): Promise<SelfTest> {
    return (await this.backend.call("selfTest", [], { signal })) as SelfTest;
  }

  async stats(): Promise<Stats> {
    return (await this.backend.call("stats", [])) as Stats;
  }

  /**
   * Frees the memory and stops the threads. Whatever is under way fails with the code `disposed`. Resolves when the files that the
   * load has put on their way into the browser's storage are there.
   */
  dispose(): Promise<void> {
    return this.backend.dispose();
  }
}

/** Elements of the page cannot go to a worker, their pixels can. Relative URLs mean the page's. */
async function portable(image: ImageSource): Promise<ImageInput> {
  if (typeof image === "string" || image instanceof URL)
    return new URL(image, (globalThis as { document?: Document }).document?.baseURI).href;
  if (typeof image !== "object" || image === null) throw new EdgecError("invalid-argument", "an image is needed");
  const isElement = ["HTMLImageElement", "HTMLCanvasElement", "HTMLVideoElement", "OffscreenCanvas"].some((name) => {
    const kind = (globalThis as Record<string, unknown>)[name];
    return typeof kind === "function" && image instanceof kind;
  });
  if (!isElement) return image as ImageInput;
  try {
    return await createImageBitmap(image as ImageBitmapSource);
  } catch (cause) {
    throw new EdgecError("image", "the image cannot be read", { cause, hint: "images of other origins need CORS" });
  }
}
