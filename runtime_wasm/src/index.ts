/** `@edgec/runtime`: runs edgec bundles in browsers and Node. */

import { InlineBackend, WorkerBackend, type WorkerLoadOptions } from "./api/backend.js";
import { Model } from "./api/model.js";
import { MANIFEST_FILE } from "./bundle/manifest.js";
import { EdgecError, throwIfAborted } from "./errors.js";
import { openCache } from "./load/cache.js";
import { DEFAULT_RETRY, downloadManifest } from "./load/download.js";
import { type BundleSource, CustomSource, openSource, resolveLocation } from "./load/source.js";
import { wallTime } from "./platform.js";

export interface LoadOptions extends Omit<WorkerLoadOptions, "alarm" | "startedAt"> {
  /** Whether the model lives in a worker (the default), so that the page stays responsive. */
  worker?: boolean;
}

/**
 * Loads a bundle from a URL, a directory (Node) or the caller's own source. Every byte is checked against the manifest before
 * it is used. Throws `EdgecError`; after an abort or a failure nothing is left but files in the cache, which the next load takes up.
 */
export async function load(
  from: string | URL | BundleSource,
  { worker = true, workerUrl, ...options }: LoadOptions = {},
): Promise<Model> {
  const where = typeof from === "string" || from instanceof URL ? resolveLocation(from) : from;
  if (!(where instanceof URL) && typeof where?.read !== "function") {
    throw new EdgecError("invalid-argument", "`load` takes a URL, a path or an object with `read`");
  }
  const { signal, onProgress } = options;
  throwIfAborted(signal);
  const startedAt = wallTime();
  onProgress?.({ phase: "manifest", loadedBytes: 0, totalBytes: 0, file: MANIFEST_FILE });
  const source = where instanceof URL ? openSource(where) : new CustomSource(where);
  const manifest = downloadManifest(source, { signal, retry: { ...DEFAULT_RETRY, ...options.retry } });
  manifest.catch(() => undefined); // awaited where the worker has been started, which may fail
  if (worker) return new Model(await WorkerBackend.load(where, manifest, { ...options, workerUrl, startedAt }));
  return new Model(await InlineBackend.load(source, manifest, { ...options, startedAt }));
}

/** Deletes every file that bundles have left in this browser's storage for this site. */
export async function clearCache(): Promise<void> {
  for (const kind of ["opfs", "cache-api"] as const) {
    const cache = await openCache(kind);
    for (const key of (await cache?.keys()) ?? []) await cache!.delete(key);
  }
}

export { verify } from "./load/verify.js";
export { detectFeatures, type Features } from "./engine/features.js";
export { EdgecError, type BundleFinding, type ErrorCode } from "./errors.js";
export { Model, type Abortable, type AudioSource, type ChatOptions, type GenerateOptions, type ImageSource } from "./api/model.js";
export { GenerationStream, Piece } from "./api/stream.js";
export type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionParams,
  ChatCompletionStream,
  CompletionUsage,
  EmbeddingParams,
  EmbeddingResponse,
  OpenAI,
} from "./api/openai.js";
export type { Dimension } from "./bundle/dims.js";
export type { DType, Manifest, Slot, Variant } from "./bundle/manifest.js";
export type {
  ClassificationTask,
  DetectionTask,
  EmbeddingTask,
  ImageSpec,
  OcrTask,
  SegmentationTask,
  SimilarityTask,
  SpeechDetectionTask,
  Task,
  TextClassificationTask,
  TokenClassificationTask,
  TranscriptionTask,
} from "./bundle/task.js";
export type { CacheKind } from "./load/cache.js";
export type { RetryPolicy } from "./load/download.js";
export type { LoadPhase, LoadProgress } from "./load/files.js";
export type { BundleSource, FileContent } from "./load/source.js";
export type { Generation, GenerationOptions } from "./session/generation.js";
export type { Tensor, TensorData, TensorInput } from "./session/graph.js";
export type { PictureSegment, Segmentation } from "./session/segmentation.js";
export type { SelfTest, SelfTestDifference } from "./session/selftest.js";
export type { TextLine } from "./session/ocr.js";
export type { Segment, Transcription } from "./session/speech.js";
export type { SpeechSegment } from "./session/speech_detection.js";
export type { Entity, Ranked } from "./session/text_tasks.js";
export type { ModelInfo, Stats } from "./session/session.js";
export type { ChatMessage } from "./text/chat.js";
export type { SamplingOptions } from "./text/sampler.js";
export type { RawAudio } from "./audio/samples.js";
export type { RawImage } from "./vision/decode.js";
export type { Classification, Detection } from "./vision/results.js";
