import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { readAudio, sineOfPi, windows } from "../src/audio/samples.js";
import type { Model } from "../src/index.js";
import { FIXTURES, edgec, failsWith, readJson } from "./helpers.js";

interface AudioFixture {
  loud: { samples: string; segments: { start: number; end: number }[] };
  waves: { wav: string; samples: string }[];
  long: { samples: string; text: string; segments: { start: number; end: number; text: string }[] };
}

const RATE = 8000;
const fixture = readJson<AudioFixture>(join(FIXTURES, "audio.json"));
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"));
const floats = (text: string): Float32Array => new Float32Array(bytes(text).buffer as ArrayBuffer);

test("sounds are those of Python to the bit, in every format and rate", async () => {
  for (const { wav, samples } of fixture.waves) {
    assert.deepEqual(await readAudio(bytes(wav), RATE), floats(samples));
    assert.deepEqual(await readAudio(new Blob([bytes(wav) as Uint8Array<ArrayBuffer>]), RATE), floats(samples));
  }
});

test("channels are mixed", async () => {
  const channels = [Float32Array.of(1, 0, 0.5), Float32Array.of(-1, 1, 0)];
  assert.deepEqual(await readAudio({ channels, sampleRate: RATE }, RATE), Float32Array.of(0, 0.5, 0.25));
});

test("damaged sounds are refused", async () => {
  const [{ wav }] = fixture.waves;
  await failsWith("audio", readAudio(new Uint8Array(3), RATE));
  await failsWith("audio", readAudio(bytes(wav).slice(0, 20), RATE));
  const odd = bytes(wav);
  odd[20] = 7;
  await failsWith("audio", readAudio(odd, RATE));
  await failsWith("audio", readAudio({ channels: [Float32Array.of(NaN)], sampleRate: RATE }, RATE));
  await failsWith("invalid-argument", readAudio({ channels: [], sampleRate: RATE }, RATE));
  await failsWith("invalid-argument", readAudio({ channels: [new Float32Array(2)], sampleRate: 0 }, RATE));
  await failsWith("invalid-argument", readAudio("sound.wav" as unknown as Uint8Array, RATE));
});

test("the sine is a sine", () => {
  for (let x = -3; x <= 3; x += 0.013) assert.ok(Math.abs(sineOfPi(x) - Math.sin(Math.PI * x)) < 2e-15, `${x}`);
});

test("windows are cut where it is quiet", () => {
  const samples = new Float32Array(2500).fill(1);
  samples.fill(0.01, 820, 860);
  const parts = windows(samples, 1000, 1000);
  assert.deepEqual(parts[0], [0, 836]);
  assert.equal(parts.at(-1)![1], 2500);
  assert.deepEqual(windows(new Float32Array(5), 2, 16000), [[0, 2], [2, 4], [4, 5]]);
});

async function withModel(use: (model: Model) => Promise<void>, worker: boolean): Promise<void> {
  const model = await edgec.load(join(FIXTURES, "speech"), { worker, threads: 1 });
  try {
    await use(model);
  } finally {
    await model.dispose();
  }
}

for (const worker of [false, true]) {
  test(`a transcript is Python's, ${worker ? "in a worker" : "in the same thread"}`, async () => {
    await withModel(async (model) => {
      const stream = model.transcribe(floats(fixture.long.samples));
      let text = "";
      for await (const piece of stream) text += piece;
      const result = await stream.result;
      assert.equal(text, fixture.long.text);
      assert.equal(result.text, text);
      assert.deepEqual(result.segments, fixture.long.segments);
      assert.equal(result.audioSeconds, 3);
      assert.equal(result.tokenIds.length, text.replaceAll(" ", "").length);
    }, worker);
  });
}

test("sounds of every kind", async () => {
  await withModel(async (model) => {
    const samples = floats(fixture.long.samples).slice(0, 2000);
    const text = await model.transcribe(samples).text();
    const buffer = { numberOfChannels: 1, sampleRate: RATE, getChannelData: () => samples };
    assert.equal(await model.transcribe(buffer as unknown as AudioBuffer).text(), text);
    assert.equal(await model.transcribe({ channels: [samples, samples], sampleRate: RATE }).text(), text);
    assert.equal(await model.transcribe(bytes(fixture.waves[0].wav)).text().then((said) => said.length > 0), true);
    assert.equal(await model.transcribe(new Float32Array(0)).text(), "");
    assert.notEqual((await model.transcribe(samples, { sampleRate: 4000 }).result).audioSeconds, 0.25);
    await failsWith("invalid-argument", model.transcribe(null as unknown as Uint8Array).result);
  }, false);
});

test("a transcript that is aborted, and models that do not hear", async () => {
  await withModel(async (model) => {
    const controller = new AbortController();
    const stream = model.transcribe(floats(fixture.long.samples), { signal: controller.signal });
    for await (const piece of stream) {
      assert.ok(String(piece).length > 0);
      break; // leaving ends it
    }
    await failsWith("aborted", stream.result);
    controller.abort();
    await failsWith("aborted", model.transcribe(new Float32Array(9), { signal: controller.signal }).result);
  }, false);
  const graph = await edgec.load(join(FIXTURES, "graph"), { worker: false, threads: 1 });
  await failsWith("unsupported", graph.transcribe(new Float32Array(9), { sampleRate: RATE }).result);
  await graph.dispose();
});

test("speech is where Python finds it", async () => {
  const model = await edgec.load(join(FIXTURES, "detector"), { worker: false, threads: 1 });
  const { samples, segments } = fixture.loud;
  assert.ok(segments.length > 2);
  assert.deepEqual(await model.detectSpeech(floats(samples)), segments);
  assert.deepEqual(await model.detectSpeech(new Float32Array(0)), []);
  await failsWith("aborted", model.detectSpeech(floats(samples), { signal: AbortSignal.abort() }));
  await failsWith("unsupported", model.transcribe(floats(samples)).result);
  await model.dispose();
});
