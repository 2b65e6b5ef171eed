/** The manifest's `task`: what the runtimes do before and after the graph. */

import type { Field } from "./json.js";

const MAX_SIDE = 8192;
const MAX_SAMPLE_RATE = 384_000;
const MAX_WINDOW_SECONDS = 3600;

/** How pixels become numbers. */
export interface Colors {
  channels: "RGB" | "BGR";
  mean: [number, number, number];
  std: [number, number, number];
}

export interface ImageSpec extends Colors {
  width: number;
  height: number;
  layout: "NCHW" | "NHWC";
  fit: "crop" | "letterbox" | "stretch";
  crop?: number;
  pad?: number;
  interpolation: "bicubic" | "bilinear";
}

export interface EmbeddingTask {
  type: "embedding";
  pooling: "mean" | "cls";
  normalize: boolean;
  max_length: number;
}

export interface ClassificationTask {
  type: "image-classification";
  image: ImageSpec;
  labels: string[] | null;
  scores: "logits" | "probabilities";
}

export interface TextClassificationTask {
  type: "text-classification";
  labels: string[] | null;
  scores: "softmax" | "sigmoid" | "logits";
  max_length: number;
}

export interface TokenClassificationTask {
  type: "token-classification";
  labels: string[] | null;
  max_length: number;
}

export interface SegmentationTask {
  type: "semantic-segmentation";
  image: ImageSpec;
  labels: string[] | null;
}

export interface DetectionTask {
  type: "object-detection";
  image: ImageSpec;
  labels: string[];
  decoder: "yolox";
  strides: number[];
  score_threshold: number;
  iou_threshold: number;
}

export interface SimilarityTask {
  type: "text-image-similarity";
  text: { max_length: number };
  image: ImageSpec;
  scale: number;
  bias: number;
  scores: "softmax" | "sigmoid";
  normalize: boolean;
}

export interface OcrTask {
  type: "ocr";
  detect: Colors & {
    longest: number;
    threshold: number;
    box_threshold: number;
    unclip: number;
    shortest: number;
  };
  recognize: Colors & { height: number; least_width: number; characters: string[] };
  min_score: number;
}

export interface TranscriptionTask {
  type: "transcription";
  sample_rate: number;
  window_seconds: number;
  min_seconds: number;
  max_tokens: number;
  max_tokens_per_second: number;
  start_ids: number[];
  suppress_ids: number[];
  begin_suppress_ids: number[];
}

export interface SpeechDetectionTask {
  type: "speech-detection";
  sample_rate: number;
  window: number;
  context: number;
  threshold: number;
  neg_threshold: number;
  min_speech_ms: number;
  min_silence_ms: number;
  speech_pad_ms: number;
}

export type KnownTask =
  | EmbeddingTask
  | ClassificationTask
  | TextClassificationTask
  | TokenClassificationTask
  | SegmentationTask
  | DetectionTask
  | SimilarityTask
  | OcrTask
  | TranscriptionTask
  | SpeechDetectionTask;
export type Task = KnownTask | { type: string };

/** Throws `manifest-invalid` for a known `type` with wrong fields; unknown types are fine. */
export function parseTask(field: Field): Task | null {
  if (field.isNull) return null;
  switch (field.at("type").string()) {
    case "embedding":
      field.at("pooling").choice(["mean", "cls"]);
      field.at("normalize").boolean();
      field.at("max_length").integer(1);
      break;
    case "image-classification":
      checkImage(field.at("image"));
      if (!field.at("labels").isNull) field.at("labels").strings();
      field.at("scores").choice(["logits", "probabilities"]);
      break;
    case "text-classification":
    case "token-classification":
      if (field.at("type").string() === "text-classification")
        field.at("scores").choice(["softmax", "sigmoid", "logits"]);
      if (!field.at("labels").isNull) field.at("labels").strings();
      field.at("max_length").integer(1);
      break;
    case "semantic-segmentation":
      checkImage(field.at("image"));
      if (field.at("image").at("fit").string() === "crop")
        throw field.at("image").at("fit").fail("is `crop`, but every pixel needs a class");
      if (!field.at("labels").isNull) field.at("labels").strings();
      break;
    case "object-detection":
      checkImage(field.at("image"));
      field.at("labels").strings();
      field.at("decoder").choice(["yolox"]);
      for (const stride of field.at("strides").elements()) stride.integer(1, MAX_SIDE);
      for (const name of ["score_threshold", "iou_threshold"]) checkFraction(field.at(name));
      break;
    case "text-image-similarity":
      field.at("text").at("max_length").integer(1);
      checkImage(field.at("image"));
      for (const name of ["scale", "bias"]) field.at(name).number();
      field.at("scores").choice(["softmax", "sigmoid"]);
      field.at("normalize").boolean();
      break;
    case "ocr":
      checkOcr(field);
      break;
    case "transcription":
      checkTranscription(field);
      break;
    case "speech-detection":
      checkSpeechDetection(field);
      break;
  }
  return field.object() as unknown as Task;
}

function checkOcr(field: Field): void {
  const [detect, recognize] = [field.at("detect"), field.at("recognize")];
  for (const part of [detect, recognize]) checkColors(part);
  detect.at("longest").integer(1, MAX_SIDE);
  recognize.at("height").integer(1, MAX_SIDE);
  recognize.at("least_width").integer(1, MAX_SIDE);
  recognize.at("characters").strings();
  for (const fraction of [detect.at("threshold"), detect.at("box_threshold"), field.at("min_score")])
    checkFraction(fraction);
  for (const name of ["unclip", "shortest"]) {
    const value = detect.at(name).number();
    if (value < 0 || value > MAX_SIDE) throw detect.at(name).fail(`is outside 0 to ${MAX_SIDE}`);
  }
}

function checkTranscription(field: Field): void {
  field.at("sample_rate").integer(1, MAX_SAMPLE_RATE);
  const longest = field.at("window_seconds").number();
  const shortest = field.at("min_seconds").number();
  if (longest <= 0 || longest > MAX_WINDOW_SECONDS)
    throw field.at("window_seconds").fail(`is outside 0 to ${MAX_WINDOW_SECONDS}`);
  if (shortest < 0 || shortest > longest) throw field.at("min_seconds").fail("is outside 0 to `window_seconds`");
  const tokens = field.at("max_tokens").integer(1);
  if (field.at("max_tokens_per_second").number() <= 0) throw field.at("max_tokens_per_second").fail("is not above 0");
  const start = field.at("start_ids").elements();
  for (const id of start) id.integer(0);
  if (start.length === 0 || start.length >= tokens)
    throw field.at("start_ids").fail("has no id, or as many as `max_tokens`");
  for (const name of ["suppress_ids", "begin_suppress_ids"])
    for (const id of field.at(name).elements()) id.integer(0);
}

function checkSpeechDetection(field: Field): void {
  field.at("sample_rate").integer(1, MAX_SAMPLE_RATE);
  field.at("window").integer(1, MAX_SAMPLE_RATE);
  field.at("context").integer(0, MAX_SAMPLE_RATE);
  const low = field.at("neg_threshold").number();
  const high = field.at("threshold").number();
  if (low < 0 || low > high || high > 1)
    throw field.fail("has thresholds that are not 0 <= `neg_threshold` <= `threshold` <= 1");
  for (const name of ["min_speech_ms", "min_silence_ms", "speech_pad_ms"])
    if (field.at(name).number() < 0) throw field.at(name).fail("is negative");
}

function checkFraction(field: Field): void {
  const value = field.number();
  if (value < 0 || value > 1) throw field.fail("is outside 0 to 1");
}

function checkImage(field: Field): void {
  field.at("width").integer(1, MAX_SIDE);
  field.at("height").integer(1, MAX_SIDE);
  field.at("layout").choice(["NCHW", "NHWC"]);
  field.at("interpolation").choice(["bicubic", "bilinear"]);
  const fit = field.at("fit").choice(["crop", "letterbox", "stretch"]);
  const crop = field.find("crop");
  const pad = field.find("pad");
  if (fit === "crop" && !crop) throw field.fail("lacks `crop`");
  if (crop) {
    const value = crop.number();
    if (value <= 0 || value > 1) throw crop.fail("is outside 0 to 1");
  }
  if (fit === "letterbox" && !pad) throw field.fail("lacks `pad`");
  pad?.integer(0, 255);
  checkColors(field);
}

function checkColors(field: Field): void {
  field.at("channels").choice(["RGB", "BGR"]);
  for (const name of ["mean", "std"]) {
    const numbers = field
      .at(name)
      .elements()
      .map((element) => element.number());
    if (numbers.length !== 3) throw field.at(name).fail("is not three numbers");
    if (name === "std" && numbers.includes(0)) throw field.at(name).fail("has a zero");
  }
}
