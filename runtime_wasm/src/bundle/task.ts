/** The manifest's `task`: what the runtimes do before and after the graph. */

import type { Field } from "./json.js";

const MAX_SIDE = 8192;

export interface ImageSpec {
  width: number;
  height: number;
  layout: "NCHW" | "NHWC";
  channels: "RGB" | "BGR";
  fit: "crop" | "letterbox" | "stretch";
  crop?: number;
  pad?: number;
  interpolation: "bicubic" | "bilinear";
  mean: [number, number, number];
  std: [number, number, number];
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

export type KnownTask = EmbeddingTask | ClassificationTask | DetectionTask | SimilarityTask;
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
  }
  return field.object() as unknown as Task;
}

function checkFraction(field: Field): void {
  const value = field.number();
  if (value < 0 || value > 1) throw field.fail("is outside 0 to 1");
}

function checkImage(field: Field): void {
  field.at("width").integer(1, MAX_SIDE);
  field.at("height").integer(1, MAX_SIDE);
  field.at("layout").choice(["NCHW", "NHWC"]);
  field.at("channels").choice(["RGB", "BGR"]);
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
  for (const name of ["mean", "std"]) {
    const numbers = field
      .at(name)
      .elements()
      .map((element) => element.number());
    if (numbers.length !== 3) throw field.at(name).fail("is not three numbers");
    if (name === "std" && numbers.includes(0)) throw field.at(name).fail("has a zero");
  }
}
