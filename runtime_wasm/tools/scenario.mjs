// One list of jobs on one loaded model; the same code in Node and in a page.

/**
 * Jobs: a text (answered as a chat, or continued where there is no chat template), or an object with one of
 *   prompt: text or ids · messages: [...] · inputs: {name: {shape, dtype, data}} (data in base64) · texts: [...] ·
 *   classify / detect / segment / ocr: {width, height, data} (RGB or RGBA bytes in base64) · similarity: {texts, images} ·
 *   pairs: [a text or two, ...] (classified) · rerank: {query, documents} · tokens: [texts]
 * `inputs` may come with `graph`, the name of one of several, `classify` with `labels`,
 * and, for the first two, options of `generate`. `adapter` (base64 of a file, or null for none) is for this job and those after it.
 * Each is run `repeat` times; times are those of the last.
 */
export async function runJobs(edgec, location, { load, options, jobs, repeat = 1, keepOutputs = true }) {
  const started = performance.now();
  const model = await edgec.load(location, load);
  const loadSeconds = (performance.now() - started) / 1000;
  const results = [];
  for (const job of jobs) {
    let result;
    for (let round = 0; round < repeat; round++) result = await runJob(model, job, options, keepOutputs);
    results.push(result);
  }
  const stats = await model.stats();
  const selfTest = await model.selfTest();
  await model.dispose();
  return { loadSeconds, stats, selfTest, features: edgec.detectFeatures(), results };
}

export async function runJob(model, job, options, keepOutputs) {
  if (job.adapter !== undefined) {
    const name = job.adapter && (await model.loadAdapter(fromBase64(job.adapter)));
    await model.useAdapter(name);
    job = job.text ?? job;
  }
  if (typeof job === "string") job = model.info.chat ? { messages: [{ role: "user", content: job }] } : { prompt: job };
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  if (job.inputs) {
    const inputs = Object.fromEntries(
      Object.entries(job.inputs).map(([name, tensor]) => [name, { shape: tensor.shape, data: toArray(tensor) }]),
    );
    const outputs = await model.run(inputs, { graph: job.graph });
    const taken = seconds();
    const described = {};
    for (const [name, { dtype, shape, data }] of Object.entries(outputs)) {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      described[name] = {
        dtype,
        shape,
        sha256: await sha256(bytes),
        ...(keepOutputs ? { data: toBase64(bytes) } : {}),
      };
    }
    return { seconds: taken, outputs: described };
  }
  if (job.texts)
    return { vectors: (await model.embed(job.texts)).map((vector) => Array.from(vector)), seconds: seconds() };
  if (job.similarity) {
    const { texts, images } = job.similarity;
    const pictures = images.map(toImage);
    const plain = (vectors) => vectors.map((vector) => Array.from(vector));
    return {
      texts: plain(await model.embedText(texts)),
      images: plain(await model.embedImage(pictures)),
      logits: plain(await model.similarity(texts, pictures)),
      seconds: seconds(),
    };
  }
  if (job.pairs) {
    const classes = [];
    for (const pair of job.pairs) classes.push(await model.classify(pair));
    return { classes, seconds: seconds() };
  }
  if (job.rerank) return { ranked: await model.rerank(job.rerank.query, job.rerank.documents), seconds: seconds() };
  if (job.tokens) {
    const entities = [];
    for (const text of job.tokens) entities.push(await model.tokens(text));
    return { entities, seconds: seconds() };
  }
  if (job.segment) {
    const { classes, segments } = await model.segment(toImage(job.segment));
    return { classes: toBase64(new Uint8Array(classes.buffer)), segments, seconds: seconds() };
  }
  if (job.classify)
    return { labels: await model.classify(toImage(job.classify), { labels: job.labels }), seconds: seconds() };
  if (job.ocr) return { lines: await model.ocr(toImage(job.ocr)), seconds: seconds() };
  if (job.detect) return { objects: await model.detect(toImage(job.detect)), seconds: seconds() };
  const { prompt, messages, tools, ...own } = job;
  await model.reset(); // so that prefill times are those of the whole prompt
  const stream = messages
    ? model.chat(messages, { tools, ...options, ...own })
    : model.generate(prompt, { ...options, ...own });
  return stream.result;
}

const ARRAYS = {
  float32: Float32Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};

function toArray({ dtype, data }) {
  return new ARRAYS[dtype](fromBase64(data).buffer);
}

function toImage({ width, height, data }) {
  return { width, height, data: fromBase64(data) };
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
