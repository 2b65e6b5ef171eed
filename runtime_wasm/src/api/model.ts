/** A loaded model, as the page sees it. */

import { EdgecError } from "../errors.js";
import type { GenerationOptions, Generation } from "../session/generation.js";
import type { Tensor, TensorInput } from "../session/graph.js";
import type { Segmentation } from "../session/segmentation.js";
import type { SelfTest } from "../session/selftest.js";
import type { TextLine } from "../session/ocr.js";
import type { ModelInfo, Prompt, Stats } from "../session/session.js";
import type { Transcription } from "../session/speech.js";
import type { Entity, Ranked } from "../session/text_tasks.js";
import type { SpeechSegment } from "../session/speech_detection.js";
import type { AudioInput, RawAudio } from "../audio/samples.js";
import type { ChatMessage } from "../text/chat.js";
import type { ImageInput } from "../vision/decode.js";
import type { Classification, Detection } from "../vision/results.js";
import type { Backend, CallOptions } from "./backend.js";
import { type FileContent, readAdapter } from "../load/adapter.js";
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

/** What `transcribe` takes: samples from -1 to 1, an `AudioBuffer`, or the bytes of a WAV file. */
export type AudioSource = Float32Array | RawAudio | AudioBuffer | Uint8Array | ArrayBuffer | Blob;

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

  /** Runs a graph: tensors by name in, tensors by name out. `graph` names one of several. */
  async run(
    inputs: Readonly<Record<string, TensorInput>>,
    { graph, signal }: Abortable & { graph?: string } = {},
  ): Promise<Record<string, Tensor>> {
    return (await this.backend.call("run", [inputs, graph], { signal })) as Record<string, Tensor>;
  }

  /** One vector per text. */
  async embed(texts: string | readonly string[], { signal }: Abortable = {}): Promise<Float32Array[]> {
    return (await this.backend.call("embed", [listed(texts)], { signal })) as Float32Array[];
  }

  /** Vectors of texts in the space of `embedImage`. */
  async embedText(texts: string | readonly string[], { signal }: Abortable = {}): Promise<Float32Array[]> {
    return (await this.backend.call("embedTexts", [listed(texts)], { signal })) as Float32Array[];
  }

  /** Vectors of images in the space of `embedText`. */
  async embedImage(images: ImageSource | readonly ImageSource[], { signal }: Abortable = {}): Promise<Float32Array[]> {
    return (await this.backend.call("embedImages", [await portables(images)], { signal })) as Float32Array[];
  }

  /** The model's logit for every text with every image, a row per text; larger fits better. */
  async similarity(
    texts: string | readonly string[],
    images: ImageSource | readonly ImageSource[],
    { signal }: Abortable = {},
  ): Promise<Float32Array[]> {
    const args = [listed(texts), await portables(images)];
    return (await this.backend.call("similarity", args, { signal })) as Float32Array[];
  }

  /**
   * The best `topK` (5) classes of an image, or, where the model is for texts, of a text or of a pair of texts (premise and
   * hypothesis, question and answer). Models of texts and images choose among `labels`, which are any texts.
   */
  async classify(
    what: ImageSource | string | readonly [string, string],
    { topK = 5, labels, signal }: Abortable & { topK?: number; labels?: readonly string[] } = {},
  ): Promise<Classification[]> {
    const ofTexts = this.info.task?.type === "text-classification";
    const sent = ofTexts ? what : await portable(what as ImageSource);
    return (await this.backend.call("classify", [sent, topK, labels], { signal })) as Classification[];
  }

  /** Documents by how well they answer a query, the best first. */
  async rerank(query: string, documents: readonly string[], { signal }: Abortable = {}): Promise<Ranked[]> {
    return (await this.backend.call("rerank", [query, documents], { signal })) as Ranked[];
  }

  /** Names and other stretches of a text that the model marks. */
  async tokens(text: string, { signal }: Abortable = {}): Promise<Entity[]> {
    return (await this.backend.call("tokens", [text], { signal })) as Entity[];
  }

  /** What every pixel of an image shows. */
  async segment(image: ImageSource, { signal }: Abortable = {}): Promise<Segmentation> {
    return (await this.backend.call("segment", [await portable(image)], { signal })) as Segmentation;
  }

  /** The objects in an image; the thresholds are the bundle's where they are left out. */
  async detect(
    image: ImageSource,
    options: Abortable & { scoreThreshold?: number; iouThreshold?: number } = {},
  ): Promise<Detection[]> {
    const { signal, ...thresholds } = options;
    return (await this.backend.call("detect", [await portable(image), thresholds], { signal })) as Detection[];
  }

  /** The lines of text in an image, in reading order. */
  async ocr(image: ImageSource, { signal }: Abortable = {}): Promise<TextLine[]> {
    return (await this.backend.call("ocr", [await portable(image)], { signal })) as TextLine[];
  }

  /** What is said in a sound. A bare `Float32Array` has `sampleRate` samples a second, the model's own rate if left out. */
  transcribe(
    audio: AudioSource,
    { sampleRate, signal }: Abortable & { sampleRate?: number } = {},
  ): GenerationStream<Transcription> {
    return new GenerationStream(async (onPiece, inner) => {
      const call = { signal: inner, onEvent: onPiece as CallOptions["onEvent"] };
      return (await this.backend.call("transcribe", [this.portableAudio(audio, sampleRate)], call)) as Transcription;
    }, signal);
  }

  /** The stretches of a sound in which somebody speaks; `audio` as for `transcribe`. */
  async detectSpeech(
    audio: AudioSource,
    { sampleRate, signal }: Abortable & { sampleRate?: number } = {},
  ): Promise<SpeechSegment[]> {
    return (await this.backend.call("detectSpeech", [this.portableAudio(audio, sampleRate)], {
      signal,
    })) as SpeechSegment[];
  }

  private portableAudio(audio: AudioSource, sampleRate: number | undefined): AudioInput {
    const task = this.info.task as { sample_rate?: number } | null;
    return portableAudio(audio, sampleRate ?? task?.sample_rate ?? 0);
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

  /**
   * Loads an adapter that `edgec adapter` made for this model, from a URL, a path (Node) or its bytes. Resolves to the name under which
   * `useAdapter` knows it: `name`, or the adapter's own.
   */
  async loadAdapter(
    from: string | URL | FileContent,
    { name, sha256, signal }: Abortable & { name?: string; sha256?: string } = {},
  ): Promise<string> {
    const bytes = await readAdapter(from, sha256, signal);
    return (await this.backend.call("loadAdapter", [bytes, name], { signal })) as string;
  }

  /** Answers with a loaded adapter from now on, or with none (null). The conversation so far is computed again. */
  async useAdapter(name: string | null): Promise<void> {
    await this.backend.call("useAdapter", [name]);
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

const listed = (texts: string | readonly string[]): readonly string[] => (typeof texts === "string" ? [texts] : texts);

const portables = (images: ImageSource | readonly ImageSource[]): Promise<ImageInput[]> =>
  Promise.all((Array.isArray(images) ? (images as ImageSource[]) : [images as ImageSource]).map(portable));

/** An `AudioBuffer` cannot go to a worker, its samples can. */
function portableAudio(audio: AudioSource, sampleRate: number): AudioInput {
  if (audio instanceof Float32Array) return { channels: [audio], sampleRate };
  if (typeof audio !== "object" || audio === null) throw new EdgecError("invalid-argument", "a sound is needed");
  if (!("getChannelData" in audio)) return audio;
  const channels = Array.from({ length: audio.numberOfChannels }, (_, channel) => audio.getChannelData(channel));
  return { channels, sampleRate: audio.sampleRate };
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
