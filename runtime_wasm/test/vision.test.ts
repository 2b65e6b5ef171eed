import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { ClassificationTask, DetectionTask, ImageSpec } from "../src/bundle/task.js";
import { decodeImage } from "../src/vision/decode.js";
import { fitImage, toTensor } from "../src/vision/preprocess.js";
import { type Pixels, resize } from "../src/vision/resize.js";
import { classifications, detections } from "../src/vision/results.js";
import { FIXTURES, failsWith, readJson } from "./helpers.js";

interface ResizeCase {
  width: number;
  height: number;
  pixels: string;
  to: [number, number];
  bilinear: string;
  bicubic: string;
}

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"));

for (const { width, height, pixels, to, ...expected } of readJson<ResizeCase[]>(join(FIXTURES, "resizes.json"))) {
  for (const kind of ["bilinear", "bicubic"] as const) {
    test(`${kind} ${width}x${height} to ${to.join("x")} is Pillow's to the bit`, () => {
      const result = resize({ data: bytes(pixels), width, height }, to[0], to[1], kind);
      assert.deepEqual(result, { data: bytes(expected[kind]), width: to[0], height: to[1] });
    });
  }
}

const SPEC: ImageSpec = {
  width: 4,
  height: 4,
  layout: "NCHW",
  channels: "RGB",
  fit: "stretch",
  interpolation: "bilinear",
  mean: [1, 2, 3],
  std: [2, 4, 8],
};
const gradient = (width: number, height: number): Pixels => ({
  data: Uint8Array.from({ length: 3 * width * height }, (_, i) => i % 251),
  width,
  height,
});

test("crop takes the middle, letterbox the top left", () => {
  const source = gradient(10, 8);
  const cropped = fitImage(source, { ...SPEC, fit: "crop", crop: 0.5 });
  assert.deepEqual(cropped.placement, { scaleX: 1, scaleY: 1, offsetX: 3, offsetY: 2 });
  assert.deepEqual(cropped.pixels.data.subarray(0, 3), source.data.subarray((2 * 10 + 3) * 3, (2 * 10 + 3) * 3 + 3));
  const boxed = fitImage(gradient(8, 4), { ...SPEC, fit: "letterbox", pad: 114 });
  assert.equal(boxed.placement.scaleX, 0.5);
  assert.ok(boxed.pixels.data.subarray(2 * 4 * 3).every((value) => value === 114));
  const thin = fitImage(gradient(100, 1), { ...SPEC, fit: "letterbox", pad: 0 });
  assert.equal(thin.pixels.height, 4);
});

test("layout, channel order and scale", () => {
  const pixels = gradient(4, 4);
  const planes = toTensor(pixels, SPEC, false);
  assert.equal(planes[1], (pixels.data[3] - 1) / 2);
  assert.equal(planes[16 + 1], (pixels.data[4] - 2) / 4);
  const interleaved = toTensor(pixels, { ...SPEC, layout: "NHWC", channels: "BGR" }, false);
  assert.equal(interleaved[3], (pixels.data[5] - 1) / 2);
  assert.deepEqual(toTensor(pixels, { ...SPEC, layout: "NHWC" }, true), pixels.data);
});

test("raw pixels: RGB as it is, alpha on white", async () => {
  const rgb = { width: 1, height: 2, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
  assert.deepEqual(await decodeImage(rgb), rgb);
  const rgba = { width: 2, height: 1, data: Uint8ClampedArray.of(10, 20, 30, 255, 10, 20, 30, 0) };
  assert.deepEqual((await decodeImage(rgba)).data, Uint8Array.of(10, 20, 30, 255, 255, 255));
  await failsWith("invalid-argument", decodeImage({ width: 2, height: 2, data: new Uint8Array(5) }));
  await failsWith("image", decodeImage(new Blob(["x"])));
});

test("classification: softmax, order, ties", () => {
  const task: ClassificationTask = { type: "image-classification", image: SPEC, labels: ["a", "b"], scores: "logits" };
  const [first, second, third] = classifications(Float32Array.of(1, 2, 2), task, 5);
  assert.deepEqual([first.label, second.label, third.label], ["b", "2", "a"]);
  assert.ok(Math.abs(first.score - Math.exp(0) / (2 + Math.exp(-1))) < 1e-12);
  assert.equal(
    classifications(Float32Array.of(0.2, 0.8), { ...task, scores: "probabilities" }, 1)[0].score,
    Math.fround(0.8),
  );
});

test("detection: cells to boxes, suppression within a class, back to the source's pixels", () => {
  const image: ImageSpec = { ...SPEC, width: 16, height: 16, fit: "letterbox", pad: 114 };
  const task: DetectionTask = {
    type: "object-detection",
    image,
    labels: ["cat", "dog"],
    decoder: "yolox",
    strides: [8],
    score_threshold: 0.3,
    iou_threshold: 0.5,
  };
  const cell = (x: number, y: number, w: number, h: number, object: number, cat: number, dog: number): number[] => [
    x,
    y,
    Math.log(w),
    Math.log(h),
    object,
    cat,
    dog,
  ];
  const output = Float32Array.from([
    ...cell(0.5, 0.5, 1, 1, 0.9, 0.8, 0.1), // cat at (4, 4)
    ...cell(-0.5, 0.5, 1, 1, 0.8, 0.8, 0.1), // the same cat, seen from the cell beside
    ...cell(0.5, -0.5, 1, 1, 0.9, 0.1, 0.5), // a dog in the same place
    ...cell(0.5, 0.5, 1, 1, 0.2, 0.9, 0.1), // too weak
  ]);
  const found = detections(
    output,
    task,
    { scaleX: 0.5, scaleY: 0.5, offsetX: 0, offsetY: 0 },
    { width: 32, height: 14 },
  );
  assert.deepEqual(
    found.map(({ label }) => label),
    ["cat", "dog"],
  );
  assert.ok(Math.abs(found[0].score - 0.72) < 1e-6);
  assert.deepEqual(found[0].box, { x: 0, y: 0, width: 16, height: 14 });
});
