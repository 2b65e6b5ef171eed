// What the tools for pictures, videos and sounds have to do. Each export is one check, on a fresh profile of the browser.

import assert from "node:assert/strict";

const rows = (page, list) =>
  page.tab.$$eval(`${list} li`, (items) => items.map((item) => item.innerText.split(/\s*\n\s*/)));

/** A file with nothing that a tool could use. */
const wrongFile = (page, tool, name) =>
  page.inside(
    (id, file) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["nothing of use"], file));
      document.getElementById(id).dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    },
    `${tool}-drop`,
    name,
  );

export async function textIsReadAndCopied(page) {
  await page.server.start(["reading"]);
  await page.open("#reading");
  await page.start("reading");
  await page.give("reading", page.settings.page);
  await page.tab.waitForSelector("#lines li");
  assert.deepEqual(await rows(page, "#lines"), [
    ["ab".repeat(9), "87.5 %"],
    ["ab".repeat(6) + "a", "87.5 %"],
  ]);
  assert.match(await page.text("#reading-status"), /^2 lines; /);
  const corners = await page.inside(() => {
    const outline = document.querySelector("#reading polygon");
    const { left, top, width } = document.getElementById("page").getBoundingClientRect();
    return [0, 2].map((index) => {
      const { x, y } = outline.points[index].matrixTransform(outline.getScreenCTM());
      return [((x - left) * 128) / width, ((y - top) * 128) / width];
    });
  });
  for (const [index, [x, y]] of [[10.97, 10.97], [110.03, 44.03]].entries())
    assert.ok(Math.hypot(corners[index][0] - x, corners[index][1] - y) < 1, `an outline is at ${corners}`);
  await page.tab.hover("#lines li");
  assert.equal(await page.inside(() => document.querySelectorAll("#reading polygon.marked").length), 1);
  const copied = await page.inside(async () => {
    let text = "";
    navigator.clipboard.writeText = async (given) => void (text = given);
    document.getElementById("copy-text").click();
    await new Promise((resolve) => setTimeout(resolve, 50));
    return [text, document.getElementById("copy-text").nextSibling.textContent];
  });
  assert.deepEqual(copied, [`${"ab".repeat(9)}\n${"ab".repeat(6)}a`, "Copied"]);

  await page.give("reading", page.settings.picture); // all of it is dark in two colours, so it is one line of its own
  await page.until(() => document.querySelectorAll("#lines li").length !== 2);
  await wrongFile(page, "reading", "notes.png");
  await page.until(() => document.getElementById("reading-status").textContent.startsWith("The image cannot be decoded"));
  assert.ok(await page.inside(() => document.getElementById("copy-text").hidden));
}

export async function picturesAndVideosAreFound(page) {
  await page.server.start(["gallery"]);
  await page.open("#gallery");
  await page.start("gallery");
  const { picture, page: white, video } = page.settings;
  await page.give("gallery", picture, white, video);
  await page.until(() => / seen in /.test(document.getElementById("gallery-status").textContent));
  assert.match(await page.text("#gallery-status"), /^6 pictures seen in .*, 1 video among 3 files$/);
  await page.tab.type("#gallery-query", "b");
  await page.until(() => document.getElementById("gallery-answer").textContent.startsWith("The best of 6"));
  const found = await rows(page, "#shots");
  assert.deepEqual(found.slice(0, 2).map((row) => row[0]), ["red and blue.webm", "red and blue.webm"]);
  assert.deepEqual(found.slice(0, 2).map((row) => row.at(-1)).sort(), ["Play at 0:02", "Play at 0:03"]);
  assert.equal(found[2][0], "page.png");

  await page.tab.type("#gallery-labels", "rr, gg, bb, rr");
  await page.until(() => document.querySelector(".shot-label"));
  assert.match((await rows(page, "#shots"))[0][1], /^bb, (100|9\d\.\d) %$/);
  assert.match((await rows(page, "#shots")).at(-1)[1], /^rr, (100|9\d\.\d) %$/);
  await page.click("#shots button");
  await page.until(() => document.getElementById("gallery-video").currentTime >= 1.9);

  await page.tab.select("#gallery-every", "0.5");
  await page.until(() => document.getElementById("gallery-status").textContent.startsWith("10 pictures seen in"));
  await wrongFile(page, "gallery", "holiday.mp4");
  await page.until(() => document.querySelector("#gallery-failures li"));
  assert.match(await page.text("#gallery-failures"), /holiday\.mp4 is no video that this browser can show\./);
  await wrongFile(page, "gallery", "notes.txt");
  await page.until(() => /no picture and no video/.test(document.getElementById("gallery-status").textContent));
}

export async function speechIsWrittenDown(page) {
  await page.server.start(["speech"]);
  await page.open("#speech");
  await page.start("speech");
  await page.inside(() => {
    window.lengths = new Set();
    const transcript = document.getElementById("transcript");
    new MutationObserver(() => window.lengths.add(transcript.textContent.length)).observe(transcript, { childList: true });
  });
  await page.give("speech", page.settings.speech);
  await page.until(() => / written down in /.test(document.getElementById("speech-status").textContent));
  assert.match(await page.text("#speech-status"), /^2\.00 s of sound written down in /);
  assert.match(await page.text("#transcript"), /^[a-z]{2,}( [a-z]+)+$/);
  assert.ok((await page.inside(() => window.lengths.size)) > 3, "the text came in one piece");
  assert.ok((await rows(page, "#segments")).length >= 4);
  assert.match((await rows(page, "#segments"))[0][0], /^0:00\.0 to 0:00\.\d$/);

  await wrongFile(page, "speech", "song.mp3");
  await page.until(() => /no sound that this browser can read/.test(document.getElementById("speech-status").textContent));
  assert.match(await page.text("#speech-status"), /^song\.mp3 is no sound .* WAV files always work\.$/);
  assert.equal(await page.text("#transcript"), "");
}

export async function theMicrophoneIsHeard(page) {
  await page.server.start(["speech"]);
  await page.open("#speech");
  await page.start("speech");
  await page.click("#record");
  await page.until(() => document.getElementById("record").textContent.startsWith("Stop recording, 0:01"));
  await page.click("#record");
  await page.until(() => / written down in /.test(document.getElementById("speech-status").textContent));
  assert.ok((await page.text("#transcript")).length > 1);
  assert.equal(await page.text("#record"), "Record");

  for (const [name, message] of [
    ["NotAllowedError", /^The microphone is not allowed here\./],
    ["NotFoundError", /^No microphone was found\./],
  ]) {
    await page.inside((kind) => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", kind));
    }, name);
    await page.click("#record");
    await page.until(() => !document.getElementById("speech-status").textContent.startsWith("Waiting"));
    await page.until((text) => document.getElementById("speech-status").textContent.startsWith(text), message.source.slice(1, 12));
    assert.match(await page.text("#speech-status"), message);
    assert.equal(await page.text("#record"), "Record");
  }
}

export async function voicesAreFound(page) {
  await page.server.start(["speech", "voice"]);
  await page.open("#speech");
  await page.click("#tab-speech");
  await page.tab.select("#speech-start select", "1");
  await page.start("speech");
  assert.equal(await page.text("#speech-name"), "fake-detector");
  await page.give("speech", page.settings.speech);
  await page.until(() => / of speech, /.test(document.getElementById("speech-status").textContent));
  assert.match(await page.text("#speech-status"), /^2 stretches of speech, 1\.\d\d s of 2\.00 s$/);
  const found = await rows(page, "#segments");
  assert.deepEqual(found.map(([label]) => label), ["0:00.0 to 0:00.5", "0:00.9 to 0:01.5"]);
  assert.equal(await page.inside(() => document.querySelectorAll(".wave rect").length), 2);
  await page.until(() => /Self-test\s+the compiler's numbers, to the bit/.test(document.getElementById("model-facts").innerText));
  await page.give("speech", page.settings.silence);
  await page.until(() => document.getElementById("speech-status").textContent === "No speech was found in it.");
}
