import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { BundleSource, GenerateOptions, Model } from "../src/index.js";
import { FIXTURES, edgec, failsWith, readJson } from "./helpers.js";

const DECODER = join(FIXTURES, "decoder");
const GRAPH = join(FIXTURES, "graph");
const GREEDY = { temperature: 0, maxTokens: 12 };
const MESSAGES = [{ role: "user", content: "hello" }];

async function withModel(body: (model: Model) => Promise<void>, options = {}, from: string | BundleSource = DECODER): Promise<void> {
  const model = await edgec.load(from, { worker: false, threads: 1, ...options });
  try {
    await body(model);
  } finally {
    await model.dispose();
  }
}

test("the same tokens and logits in a worker, in this thread, with threads, and with every variant that runs", async () => {
  const outcomes = new Set<string>();
  const variants = [
    "simd128",
    "simd128-threads",
    ...(edgec.detectFeatures().relaxed ? ["relaxed", "relaxed-threads"] : []),
    ...(edgec.detectFeatures().relaxed16 ? ["relaxed16", "relaxed16-threads"] : []),
  ];
  for (const variant of variants) {
    for (const worker of [false, true]) {
      await withModel(
        async (model) => {
          const result = await model.chat(MESSAGES, { temperature: 0.9, seed: 3, maxTokens: 20, hashLogits: true })
            .result;
          outcomes.add(JSON.stringify([result.tokenIds, result.text, result.finishReason, result.logitsSha256]));
          assert.equal((await model.stats()).variant, variant);
        },
        { variant, worker, threads: 3 },
      );
    }
  }
  assert.equal(outcomes.size, 1, [...outcomes].join("\n"));
});

test("pieces are strings where a string is wanted, and add up to the text", async () => {
  await withModel(async (model) => {
    const answer = model.generate("the", GREEDY);
    let text = "";
    const ids: number[] = [];
    for await (const piece of answer) {
      text += piece;
      ids.push(...piece.tokenIds);
    }
    const result = await answer.result;
    assert.equal(text, result.text);
    assert.deepEqual(ids, result.tokenIds);
    assert.equal(await model.generate("the", GREEDY).text(), text);
    assert.equal(result.finishReason, "length");
    assert.equal(result.completionTokens, 12);
    await failsWith("invalid-argument", answer[Symbol.asyncIterator]().next());
  });
});

test("a common beginning is computed once and changes nothing", async () => {
  await withModel(async (model) => {
    const ids = await model.encode("the quick brown fox jumps over the lazy dog");
    const fresh = await model.generate(ids, GREEDY).result;
    assert.equal(fresh.reusedTokens, 0);
    const again = await model.generate(ids, GREEDY).result;
    assert.equal(again.reusedTokens, ids.length - 1);
    assert.deepEqual(again.tokenIds, fresh.tokenIds);
    const continued = await model.generate([...ids, ...fresh.tokenIds], GREEDY).result;
    assert.equal(continued.reusedTokens, ids.length + fresh.tokenIds.length - 1);
    await model.reset();
    const alone = await model.generate([...ids, ...fresh.tokenIds], GREEDY).result;
    assert.equal(alone.reusedTokens, 0);
    assert.deepEqual(alone.tokenIds, continued.tokenIds);
  });
});

test("the memory grows with the conversation", async () => {
  await withModel(async (model) => {
    const before = (await model.stats()).memoryBytes;
    await model.generate(
      Array.from({ length: 120 }, (_, i) => i),
      { ...GREEDY, maxTokens: 3 },
    ).result;
    const after = await model.stats();
    assert.ok(after.memoryBytes > before);
    assert.equal(after.cachedTokens, 122);
  });
});

test("stops: end of sequence, stop string, length, full context", async () => {
  await withModel(async (model) => {
    const free = await model.generate("a", { temperature: 0, maxTokens: 40 }).result;
    const stop = free.text.slice(5, 7);
    const stopped = await model.generate("a", { temperature: 0, maxTokens: 40, stop: ["never", stop] }).result;
    assert.equal(stopped.text, free.text.slice(0, free.text.indexOf(stop)));
    assert.equal(stopped.finishReason, "stop");
    const single = await model.generate("a", { temperature: 0, stop }).result;
    assert.equal(single.text, stopped.text);

    const full = await model.generate(
      Array.from({ length: 126 }, () => 97),
      { temperature: 0, maxTokens: 40 },
    ).result;
    assert.equal(full.finishReason, "length");
    assert.equal(full.completionTokens, 3);

    let ended = 0;
    for (let seed = 0; seed < 40 && ended === 0; seed++) {
      const options: GenerateOptions = { temperature: 1000, seed, maxTokens: 60 };
      const result = await model.generate("a", options).result;
      if (result.finishReason !== "stop") continue;
      ended++;
      const on = await model.generate("a", { ...options, ignoreEos: true }).result;
      assert.deepEqual(on.tokenIds.slice(0, result.tokenIds.length), result.tokenIds);
      assert.equal(on.tokenIds[result.tokenIds.length], 259);
    }
    assert.equal(ended, 1, "no seed ended with the end-of-sequence token");
  });
  await withModel(
    async (model) => {
      assert.equal((await model.stats()).contextLength, 20);
      await failsWith("context-full", model.generate(Array.from({ length: 21 }, () => 97)).result);
    },
    { contextLength: 20 },
  );
});

for (const worker of [false, true]) {
  test(`abort in mid-answer, then a normal answer${worker ? " (worker)" : ""}`, async () => {
    await withModel(
      async (model) => {
        const expected = await model.generate("the", GREEDY).text();
        const controller = new AbortController();
        const answer = model.generate("the", { ...GREEDY, maxTokens: 100, signal: controller.signal });
        const pieces: string[] = [];
        const error = await failsWith(
          "aborted",
          (async () => {
            for await (const piece of answer) {
              pieces.push(piece.text);
              if (pieces.length === 3) controller.abort();
            }
          })(),
        );
        assert.equal(error.name, "AbortError");
        await failsWith("aborted", answer.result);
        assert.equal(await model.generate("the", GREEDY).text(), expected);

        let taken = 0;
        const left = model.generate("the", { temperature: 0, maxTokens: 100 });
        for await (const _ of left) if (++taken === 2) break;
        await failsWith("aborted", left.result);
        await failsWith("aborted", model.generate("the", { signal: AbortSignal.abort() }).result);
        const cut = model.generate("the", { maxTokens: 100 });
        cut.abort();
        await failsWith("aborted", cut.result);
      },
      { worker },
    );
  });

  test(`requests wait for each other; after dispose all fail${worker ? " (worker)" : ""}`, async () => {
    const model = await edgec.load(DECODER, { worker, threads: 2 });
    const expected = await model.generate("the", GREEDY).text();
    const several = await Promise.all([1, 2, 3].map(() => model.generate("the", GREEDY).text()));
    assert.deepEqual(several, [expected, expected, expected]);
    const running = model.generate("the", { maxTokens: 100 });
    await model.dispose();
    await failsWith("disposed", running.result);
    await failsWith("disposed", model.generate("the").result);
    await failsWith("disposed", model.stats());
    await model.dispose();
  });
}

test("arguments are checked", async () => {
  await withModel(async (model) => {
    await failsWith("invalid-argument", model.generate([]).result);
    await failsWith("invalid-argument", model.generate([264]).result);
    await failsWith("invalid-argument", model.generate([-1]).result);
    await failsWith("invalid-argument", model.generate("a", { temperature: -1 }).result);
    await failsWith("invalid-argument", model.generate("a", { maxTokens: 0 }).result);
    await failsWith("invalid-argument", model.chat([]).result);
    await failsWith("unsupported", model.run({}));
    await failsWith("unsupported", model.embed("a"));
    await failsWith("unsupported", model.classify({ width: 1, height: 1, data: new Uint8Array(3) }));
  });
  await failsWith("invalid-argument", edgec.load(DECODER, { worker: false, threads: 0 }));
  await failsWith("invalid-argument", edgec.load(DECODER, { worker: false, contextLength: 0.5 }));
  await failsWith("invalid-argument", edgec.load(DECODER, { worker: false, variant: "avx" as never }));
  await failsWith("invalid-argument", edgec.load(5 as never));
});

test("what the model says about itself", async () => {
  await withModel(async (model) => {
    assert.equal(model.info.model.kind, "decoder");
    assert.equal(model.info.chat, true);
    assert.deepEqual(
      await model.encode(MESSAGES),
      await model.encode("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"),
    );
    assert.equal(await model.decode([116, 104, 101]), "the");
    await model.generate("a", GREEDY).result;
    const { lastGeneration } = await model.stats();
    assert.equal(lastGeneration?.completionTokens, 12);
    assert.ok(lastGeneration.decodeTokensPerSecond > 0);
  });
});

test("OpenAI's shape", async () => {
  await withModel(async (model) => {
    const request = { messages: MESSAGES, temperature: 0, max_tokens: 8 };
    const whole = await model.openai.chat.completions.create(request);
    assert.equal(whole.object, "chat.completion");
    assert.equal(whole.model, "fake-decoder");
    assert.equal(whole.choices[0].finish_reason, "length");
    assert.equal(whole.usage.completion_tokens, 8);
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + 8);

    const chunks = [];
    for await (const chunk of await model.openai.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    }))
      chunks.push(chunk);
    assert.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
    assert.equal(
      chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
      whole.choices[0].message.content,
    );
    assert.equal(chunks.at(-2)?.choices[0].finish_reason, "length");
    assert.equal(chunks.at(-1)?.usage?.completion_tokens, 8);
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);

    const stream = await model.openai.chat.completions.create({ ...request, max_tokens: 90, stream: true });
    await failsWith(
      "aborted",
      (async () => {
        for await (const chunk of stream) if (chunk.choices[0].delta.content) stream.controller.abort();
      })(),
    );
    await failsWith("unsupported", model.openai.chat.completions.create({ ...request, n: 2 }));
    await failsWith(
      "unsupported",
      model.openai.chat.completions.create({ ...request, response_format: { type: "json_object" } }),
    );
    await failsWith("aborted", model.openai.chat.completions.create(request, { signal: AbortSignal.abort() }));
    await model.openai.chat.completions.create({
      ...request,
      n: 1,
      logprobs: false,
      frequency_penalty: 0,
      max_tokens: null,
      max_completion_tokens: 2,
    });
  });
});

test("graphs: tensors in, tensors out", async () => {
  for (const options of [{}, { worker: true, threads: 2 }]) {
    await withModel(
      async (model) => {
        const x = Float32Array.from({ length: 8 }, (_, i) => i);
        const { y, z } = await model.run({ x: { data: x, shape: [2, 4] } });
        const bias = (await model.run({ x: { data: new Float32Array(4), shape: [1, 4] } })).y.data as Float32Array;
        assert.deepEqual(y.shape, [2, 4]);
        assert.deepEqual(
          Array.from(y.data as Float32Array),
          Array.from(x, (value, i) => 2 * value + bias[i % 4]),
        );
        assert.deepEqual([z.dtype, ...z.shape, ...(z.data as Int32Array)], ["int32", 2, 0, 1]);
        const listed = await model.run({ x: { data: Array.from(x), shape: [2, 4] } });
        assert.deepEqual(listed.y.data, y.data);
      },
      options,
      GRAPH,
    );
  }
});

test("graphs: wrong inputs are named", async () => {
  await withModel(
    async (model) => {
      const tensor = (length: number, shape: number[]): object => ({ x: { data: new Float32Array(length), shape } });
      const run = (inputs: object): Promise<unknown> => model.run(inputs as never);
      assert.match((await failsWith("invalid-argument", run({}))).hint ?? "", /`x`/);
      await failsWith("invalid-argument", run({ ...tensor(4, [1, 4]), other: new Float32Array(1) }));
      await failsWith("invalid-argument", run(tensor(4, [4])));
      await failsWith("invalid-argument", run(tensor(10, [2, 5])));
      await failsWith("invalid-argument", run(tensor(4, [2, 4])));
      await failsWith("invalid-argument", run(tensor(0, [0, 4])));
      await failsWith("invalid-argument", run({ x: new Float32Array(4) }));
      await failsWith("invalid-argument", run({ x: 5 }));
      assert.match(
        (await failsWith("invalid-argument", run(tensor(17 * 4, [17, 4])))).message,
        /`batch` is 17, the bundle holds 1 to 16/,
      );
      await failsWith("unsupported", model.generate("a").result);
    },
    {},
    GRAPH,
  );
});

test("several graphs in a bundle", async () => {
  for (const options of [{}, { worker: true, threads: 2 }]) {
    await withModel(
      async (model) => {
        assert.deepEqual(model.info.graphs.total, { inputs: ["word"], outputs: ["sum"] });
        const x = { data: Float32Array.from([1, 2, 3, 4]), shape: [1, 4] };
        const first = await model.run({ x }, { graph: "run" });
        const word = Int32Array.from([1, 20, 300]);
        assert.deepEqual(Array.from((await model.run({ word }, { graph: "total" })).sum.data as Int32Array), [321]);
        assert.deepEqual(await model.run({ x }, { graph: "run" }), first);
        assert.match((await failsWith("invalid-argument", model.run({ x }))).hint ?? "", /`run`, `total`/);
        await failsWith("invalid-argument", model.run({ x }, { graph: "sum" }));
        await failsWith("invalid-argument", model.run({ x }, { graph: "total" }));
      },
      options,
      join(FIXTURES, "graphs"),
    );
  }
});

/** The graph bundle with a changed manifest, read from memory. */
function patched(kind: "decoder" | "graph", change: (manifest: Record<string, any>) => void): BundleSource {
  const folder = join(FIXTURES, kind);
  const manifest = readJson<Record<string, any>>(join(folder, "manifest.json"));
  change(manifest);
  return {
    async read(file) {
      return file === "manifest.json" ? new Blob([JSON.stringify(manifest)]) : readFileSync(join(folder, file));
    },
  };
}

const patchedGraph = (change: (manifest: Record<string, any>) => void): BundleSource => patched("graph", change);

const IMAGE = {
  width: 2,
  height: 2,
  layout: "NHWC",
  channels: "BGR",
  fit: "stretch",
  interpolation: "bilinear",
  mean: [0, 0, 0],
  std: [1, 1, 1],
};

test("a source of one's own, and an image through a classifier", async () => {
  const source = patchedGraph((manifest) => {
    manifest.inputs[0].shape = [1, 2, 2, "batch"];
    manifest.task = {
      type: "image-classification",
      image: IMAGE,
      labels: Array.from({ length: 12 }, (_, i) => `label ${i}`),
      scores: "probabilities",
    };
  });
  for (const worker of [false, true]) {
    const model = await edgec.load(source, { worker, threads: 1 });
    const image = { width: 2, height: 2, data: Uint8Array.from({ length: 12 }, (_, i) => i) };
    const all = await model.classify(image, { topK: 12 });
    const bias = (await model.run({ x: { data: new Float32Array(12), shape: [1, 2, 2, 3] } })).y.data as Float32Array;
    const swapped = [2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9];
    for (const { index, label, score } of all) {
      assert.equal(label, `label ${index}`);
      assert.equal(score, 2 * swapped[index] + bias[index]);
    }
    assert.equal((await model.classify(image)).length, 5);
    await failsWith("invalid-argument", model.classify({ ...image, width: 3 }));
    await failsWith("unsupported", model.detect(image));
    await model.dispose();
  }
});

test("a source that fails", async () => {
  const source: BundleSource = {
    read: async () => {
      throw new Error("no such thing");
    },
  };
  for (const worker of [false, true])
    assert.match((await failsWith("source", edgec.load(source, { worker }))).message, /no such thing/);
  const missing: BundleSource = { read: async () => new Response("", { status: 404 }) };
  for (const worker of [false, true]) await failsWith("file-missing", edgec.load(missing, { worker }));
});

test("a module that does not fit its manifest, and one that traps", async () => {
  await failsWith(
    "manifest-invalid",
    edgec.load(
      patchedGraph((m) => (m.entry_points.extra = [])),
      { worker: false, threads: 1 },
    ),
  );
  const wide = patchedGraph((m) => {
    m.memory.maximum_bytes += 1 << 20;
  });
  await failsWith("manifest-invalid", edgec.load(wide, { worker: false, threads: 1 }));
  // The module walks over as many values as `batch` says, while the manifest gives it room for one row.
  const trapping = patchedGraph((m) => {
    m.dims.batch = 2 ** 28;
    m.inputs[0].shape = ["batch // 268435456", 4];
    m.inputs.push({ name: "rows", dtype: "bool", shape: [0, "batch"], offset: m.inputs[0].offset, bytes: 0 });
    for (const slot of m.outputs) slot.shape = [1];
  });
  for (const options of [
    { worker: false, threads: 1 },
    { worker: true, threads: 1 },
    { worker: true, threads: 2 },
  ]) {
    const model = await edgec.load(trapping, options);
    const inputs = { x: { data: new Float32Array(4), shape: [1, 4] }, rows: { data: [], shape: [0, 2 ** 28] } };
    await failsWith("trap", model.run(inputs));
    await failsWith("trap", model.run(inputs));
    await model.dispose();
  }
});

test("a worker's script that is not there", async () => {
  const error = await failsWith("worker-failed", edgec.load(DECODER, { workerUrl: "/nowhere/worker.js" }));
  assert.match(error.hint ?? "", /workerUrl/);
  await failsWith("worker-failed", edgec.load(DECODER, { threads: 2, threadUrl: "/nowhere/thread.js" }));
});

test("the self-test passes in a worker, in this thread and with threads, and leaves an empty cache", async () => {
  for (const [from, compared] of [
    [DECODER, 3],
    [GRAPH, 2],
  ] as const) {
    for (const options of [{}, { variant: "simd128-threads" as const, threads: 3 }, { worker: true }]) {
      await withModel(
        async (model) => {
          for (let round = 0; round < 2; round++) {
            const result = await model.selfTest();
            assert.deepEqual([result.passed, result.compared, result.differences], [true, compared, []]);
          }
          if (from === DECODER) {
            await model.generate("the", GREEDY).text();
            assert.equal((await model.selfTest()).passed, true);
          }
          assert.equal((await model.stats()).cachedTokens, 0);
        },
        options,
        from,
      );
    }
  }
});

test("the self-test names what differs, and says when there is nothing to compare", async () => {
  const decoder = patched("decoder", (manifest) => {
    const step = manifest.golden.steps[1];
    step.sha256 = "0".repeat(64);
    step.largest[0].logit += 0.25;
  });
  await withModel(
    async (model) => {
      const { passed, differences } = await model.selfTest();
      assert.equal(passed, false);
      assert.equal(differences.length, 1);
      assert.equal(differences[0].what, "logits after 10 tokens");
      assert.equal(differences[0].largestError, 0.25);
      assert.equal(differences[0].expectedSha256, "0".repeat(64));
      assert.notEqual(differences[0].sha256, differences[0].expectedSha256);
    },
    {},
    decoder,
  );
  const graph = patched("graph", (manifest) => {
    manifest.golden.outputs[1].sha256 = "0".repeat(64);
  });
  await withModel(
    async (model) => {
      const { differences } = await model.selfTest();
      assert.deepEqual([differences.length, differences[0].what, differences[0].largestError], [1, "output `z`", null]);
    },
    {},
    graph,
  );
  const none = patched("graph", (manifest) => (manifest.golden = null));
  await withModel(async (model) => assert.equal((await model.selfTest()).passed, null), {}, none);
});
