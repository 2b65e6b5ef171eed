/** What the page and its model worker say to each other, and what each request does. */

import type { WireError } from "../errors.js";
import type { Tensor, TensorData, TensorInput } from "../session/graph.js";
import type { Session, SessionOptions } from "../session/session.js";

/** Load options that cross threads as they are. */
export type WireOptions = Omit<SessionOptions, "signal" | "onProgress" | "onBackground" | "spawn">;

export type ToWorker =
  | { type: "load"; id: number; location: string | null; manifest: Uint8Array; options: WireOptions } // null: the page reads the files
  | { type: "call"; id: number; method: Method; args: unknown[] }
  | { type: "abort"; id: number }
  | { type: "content"; id: number; content: ArrayBuffer }
  | { type: "content-failed"; id: number; error: WireError }
  | { type: "thread-message"; thread: number; message: unknown }
  | { type: "thread-failed"; thread: number; error: WireError };

export type FromWorker =
  | { type: "done"; id: number; value: unknown }
  | { type: "failed"; id: number; error: WireError }
  | { type: "event"; id: number; event: unknown }
  | { type: "stored" } // after a load, whether it failed or not: nothing is on its way into the cache any more
  | { type: "read"; id: number; file: string }
  | { type: "read-abort"; id: number }
  | { type: "thread-post"; thread: number; url: string | undefined; message: unknown } // the first one starts the thread
  | { type: "thread-stop"; thread: number };

export interface CallContext {
  signal: AbortSignal;
  emit: (event: unknown) => void;
}

type Handler = (session: Session, args: never[], context: CallContext) => unknown;

const HANDLERS = {
  generate: (session, [prompt, options], { signal, emit }) => session.generate(prompt, options, emit, signal),
  run: (session, [inputs, graph], { signal }) => session.run(inputs, graph, signal),
  embed: (session, [texts], { signal }) => session.embed(texts, signal),
  embedTexts: (session, [texts], { signal }) => session.embedTexts(texts, signal),
  embedImages: (session, [images], { signal }) => session.embedImages(images, signal),
  similarity: (session, [texts, images], { signal }) => session.similarity(texts, images, signal),
  classify: (session, [what, topK, labels], { signal }) => session.classify(what, topK, labels, signal),
  rerank: (session, [query, documents], { signal }) => session.rerank(query, documents, signal),
  tokens: (session, [text], { signal }) => session.tokens(text, signal),
  segment: (session, [image], { signal }) => session.segment(image, signal),
  detect: (session, [image, thresholds], { signal }) => session.detect(image, thresholds, signal),
  ocr: (session, [image], { signal }) => session.ocr(image, signal),
  transcribe: (session, [audio], { signal, emit }) => session.transcribe(audio, emit, signal),
  detectSpeech: (session, [audio], { signal }) => session.detectSpeech(audio, signal),
  encode: (session, [prompt]) => session.encode(prompt),
  decode: (session, [ids]) => session.decode(ids),
  reset: (session) => session.reset(),
  loadAdapter: (session, [bytes, name], { signal }) => session.loadAdapter(bytes, name, signal),
  useAdapter: (session, [name]) => session.useAdapter(name),
  selfTest: (session, _args, { signal }) => session.selfTest(signal),
  stats: (session) => session.stats(),
} satisfies Record<string, Handler>;

export type Method = keyof typeof HANDLERS;

export async function dispatch(
  session: Session,
  method: Method,
  args: unknown[],
  context: CallContext,
): Promise<unknown> {
  return (HANDLERS[method] as Handler)(session, args as never[], context);
}

/** Buffers that nothing but the answer holds: they move to the page, and are not copied. */
export function buffersOf(method: Method, answer: unknown): ArrayBuffer[] {
  if (method !== "run") return [];
  return Object.values(answer as Record<string, Tensor>).map(({ data }) => data.buffer as ArrayBuffer);
}

const LARGE = 1 << 16; // bytes

/** The message with copies of a graph's large inputs, and their buffers: to move one takes less than to clone it. */
export function moving(message: ToWorker): [ToWorker, ArrayBuffer[]] {
  if (message.type !== "call" || message.method !== "run" || !message.args[0]) return [message, []];
  const buffers: ArrayBuffer[] = [];
  const copied = (data: TensorData): TensorData => {
    const bytes = new Uint8Array(data.byteLength);
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    buffers.push(bytes.buffer);
    const kind = data[Symbol.toStringTag] as "Float32Array"; // whatever it is; a Node `Buffer` is a Uint8Array
    return new globalThis[kind](bytes.buffer);
  };
  const isLarge = (data: unknown): data is TensorData =>
    ArrayBuffer.isView(data) && data.byteLength >= LARGE && !(data instanceof DataView);
  const [inputs, ...others] = message.args as [Readonly<Record<string, TensorInput>>, ...unknown[]];
  const sent = Object.entries(inputs).map(([name, input]) => {
    if (isLarge(input)) return [name, copied(input)];
    const data = (input as { data?: unknown } | undefined)?.data;
    return [name, isLarge(data) ? { ...input, data: copied(data) } : input];
  });
  return [{ ...message, args: [Object.fromEntries(sent), ...others] }, buffers];
}
