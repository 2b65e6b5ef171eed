// What the tools have to do. Each export is one check, on a fresh profile of the browser.

import assert from "node:assert/strict";

const TOOLS = ["chat", "search", "images", "reading", "gallery", "speech"];

export async function chatStreams(page) {
  await page.server.start();
  await page.open();
  await page.start("chat");
  await page.inside(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector(".answer")?.textContent.length ?? 0)).observe(
      document.getElementById("log"),
      {
        subtree: true,
        childList: true,
        characterData: true,
      },
    );
  });
  await page.ask("Hello");
  await page.until(() => document.getElementById("send").textContent === "Stop");
  await page.answered();
  assert.ok((await page.inside(() => window.lengths.size)) > 3, "the answer came in one piece");
  assert.match(await page.text(".turn.assistant .figures"), /^\d+ tokens?, [\d.]+ per second, first after /);
  assert.match(await page.text("#readout"), /[\d.]+\s+tokens per second/);
  assert.equal(await page.text(".turn.user .turn-body"), "Hello");
  const announced = await page.inside(() => document.getElementById("chat-status").textContent);
  assert.match(announced, /^The model: ./);
  assert.equal(await page.text("#send"), "Send");
}

export async function chatStopsRegeneratesAndClears(page) {
  await page.server.start();
  await page.open();
  await page.start("chat");
  await page.ask("Hello");
  await page.stopSoon();
  await page.answered();
  assert.match(await page.text(".turn.assistant .figures"), /^Stopped after \d+ token/);
  const stopped = (await page.text(".answer")).length;

  await page.click(".settings summary");
  await page.inside(() => {
    document.getElementById("set-temperature").value = "0";
    document.getElementById("set-maxTokens").value = "20";
  });
  await page.click("#regenerate");
  await page.until(() => document.querySelector(".turn.assistant .figures").textContent.includes("first after"));
  assert.match(await page.text(".turn.assistant .figures"), /^20 tokens.*cut at the longest answer$/);
  const first = await page.text(".answer");
  assert.notEqual(first.length, stopped);
  await page.click("#regenerate");
  await page.answered();
  assert.equal(await page.text(".answer"), first, "greedy answers are the same");
  assert.equal(await page.inside(() => document.querySelectorAll(".turn").length), 2);

  await page.click("#clear");
  assert.equal(await page.inside(() => document.querySelectorAll(".turn").length), 0);
  assert.equal(await page.inside(() => document.activeElement.id), "question");
}

export async function chatSaysWhenTheContextIsFull(page) {
  await page.server.start();
  await page.open();
  await page.start("chat");
  await page.ask("x".repeat(200));
  await page.tab.waitForSelector(".turn .failure");
  assert.match(await page.text(".turn .failure"), /longer than this model can hold/);
  await page.click("#clear");
  await page.ask("Hi");
  await page.answered();
  assert.ok((await page.text(".answer")).length > 0);
}

export async function searchRanks(page) {
  await page.server.start();
  await page.open("#search");
  await page.start("search");
  await page.until(() => /^24 texts ready/.test(document.getElementById("search-status").textContent));
  await page.inside(() => {
    document.getElementById("texts").value = "zzz zzz\nabc abd\nabc\nqqq\n\n abc \nxyz\nfff";
    document.getElementById("texts").dispatchEvent(new Event("input"));
  });
  await page.until(() => /^6 texts ready/.test(document.getElementById("search-status").textContent));
  await page.tab.type("#query", "cab");
  await page.tab.waitForSelector("#results li");
  const rows = await page.tab.$$eval("#results li", (items) => items.map((item) => item.innerText.split(/\s*\n\s*/)));
  assert.deepEqual(rows[0], ["abc", "1.00"]);
  assert.equal(rows[1][0], "abc abd");
  assert.equal(rows.length, 5);
  const scores = rows.map(([, score]) => Number(score));
  assert.deepEqual(
    scores,
    [...scores].sort((a, b) => b - a),
  );
  await page.click("#more");
  assert.equal((await page.tab.$$("#results li")).length, 6);
  await page.click("#samples");
  await page.until(() => /^24 texts compared/.test(document.getElementById("search-status").textContent));
}

export async function imagesAreClassified(page) {
  await page.server.start();
  await page.open("#images");
  await page.start("images");
  await (await page.tab.$("#images-drop-file")).uploadFile(page.settings.picture);
  await page.tab.waitForSelector("#classes li");
  const rows = await page.tab.$$eval("#classes li", (items) => items.map((item) => item.innerText.split(/\s*\n\s*/)));
  assert.equal(rows[0][0], "red");
  assert.match(rows[0][1], /^\d+\.\d %$/);
  assert.match(await page.text("#images-status"), /^red, .*; seen in /);
  assert.ok(await page.inside(() => document.getElementById("photo").naturalWidth > 0), "the photo is shown");

  await page.inside(async () => {
    const canvas = new OffscreenCanvas(40, 30);
    const context = canvas.getContext("2d");
    context.fillStyle = "#0000ff";
    context.fillRect(0, 0, 40, 30);
    const transfer = new DataTransfer();
    transfer.items.add(new File([await canvas.convertToBlob()], "sea.png", { type: "image/png" }));
    document
      .getElementById("images-drop")
      .dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  });
  await page.until(() => document.querySelector("#classes li")?.innerText.startsWith("blue"));

  await page.inside(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["no picture"], "notes.png", { type: "image/png" }));
    document
      .getElementById("images-drop")
      .dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  });
  await page.until(() =>
    document.getElementById("images-status").textContent.startsWith("The image cannot be decoded"),
  );
}

/** All tools, after the server has gone; even with a module that was not in use before. */
export async function worksOffline(page) {
  await page.server.start();
  await page.open();
  for (const tool of TOOLS) {
    await page.start(tool);
    await page.bundleKept(tool);
  }
  await page.kept();
  await page.server.stop();
  page.failuresExpected = true;

  await page.tab.reload();
  await page.tab.waitForSelector("#chat-start .primary");
  await page.kept();
  assert.equal(await page.text("#chat-start .primary"), "Start");
  assert.match(await page.text("#chat-start"), /on this device/);
  await page.start("chat");
  await page.ask("Hello");
  await page.answered();
  assert.ok((await page.text(".answer")).length > 0);
  assert.match(await page.text("#model-facts"), /from this device/);
  await page.tab.select("#threads", "1");
  await page.until(() => /Runs on\s+relaxed SIMD, 1 thread$/m.test(document.getElementById("readout").innerText));
  await page.start("search");
  await page.click("#queries button");
  await page.tab.waitForSelector("#results li");
  await page.start("images");
  await (await page.tab.$("#images-drop-file")).uploadFile(page.settings.picture);
  await page.until(() => document.querySelector("#classes li")?.innerText.startsWith("red"));
  for (const tool of ["reading", "gallery", "speech"]) await page.start(tool);
  await page.fillMedia();
}

/** One bundle only, and no isolation: what most web hosts give. */
export async function explainsWhatIsMissing(page) {
  await page.server.start(["chat"], ["--no-isolation"]);
  await page.open();
  assert.match(await page.text("#device"), /Isolated page\s+no/);
  assert.match(await page.text("#threads-note"), /cross-origin isolated/);
  assert.ok(await page.inside(() => document.getElementById("threads").disabled));
  await page.start("chat");
  await page.ask("Hello");
  await page.answered();
  assert.match(await page.text("#readout"), /relaxed SIMD, 1 thread$/m);
  await page.click("#tab-search");
  assert.match(await page.text("#search-start"), /edgec compile .*MiniLM.* --profile phone-8gb -o minilm\.edgec/);
  await page.click("#tab-images");
  assert.match(await page.text("#images-start"), /edgec compile efficientnet-lite0\.onnx/);
  for (const [tool, command] of Object.entries({ reading: /--task ocr/, gallery: /clip-vit/, speech: /moonshine-tiny-en/ })) {
    await page.click(`#tab-${tool}`);
    assert.match(await page.text(`#${tool}-start`), command);
  }
}

export async function failuresAreExplained(page) {
  await page.server.start();
  await page.open();
  await page.kept();
  await page.server.stop();
  page.failuresExpected = true;
  await page.click("#chat-start .primary");
  await page.tab.waitForSelector("#chat-start .failure:not([hidden])", { timeout: 60_000 });
  assert.match(await page.text("#chat-start .failure"), /could not be downloaded|was not reached/);
  assert.equal(await page.text("#chat-start .primary"), "Try again");
  await page.server.start();
  await page.click("#chat-start .primary");
  await page.tab.waitForSelector("#chat-tool:not([hidden])");
}

export async function modelsAreUnloadedAndForgotten(page) {
  await page.server.start();
  await page.open();
  await page.start("chat");
  await page.click("#model-facts button");
  await page.tab.waitForSelector("#chat-start .primary");
  assert.equal(await page.text("#chat-start .primary"), "Start");
  await page.click("#forget");
  await page.until(() => document.querySelector("#chat-start .primary").textContent.startsWith("Download and start"));
  await page.start("chat");
  assert.doesNotMatch(await page.text("#model-facts"), /from this device/);
}

/** Whatever a model writes is text. */
export async function answersAreTidyAndInert(page) {
  await page.server.start();
  await page.open();
  const shown = await page.inside(async () => {
    const { Answer } = await import("/app/answer.js");
    const place = document.createElement("div");
    const answer = new Answer(place);
    const text =
      "# Title\nFirst **bold** and `code`\nsame paragraph\n\n3. three\n4. four\n   more of four\n\n- a\n* b\n\n```js\nlet <b>x</b>;\n```\n<img src=x onerror=alert(1)>";
    for (let end = 0; end <= text.length; end++) answer.show(text.slice(0, end));
    return place.innerHTML;
  });
  assert.equal(
    shown,
    '<p class="heading">Title</p><p>First <strong>bold</strong> and <code>code</code>\nsame paragraph</p>' +
      '<ol start="3"><li>three</li><li>four\nmore of four</li></ol><ul><li>a</li><li>b</li></ul>' +
      '<pre tabindex="0"><code>let &lt;b&gt;x&lt;/b&gt;;</code></pre><p>&lt;img src=x onerror=alert(1)&gt;</p>',
  );
}

/** Two language models, one of which has no chat format. */
export async function oneOfSeveralModelsIsChosen(page) {
  await page.server.start(["chat", "story"]);
  await page.open();
  assert.match(await page.text("#chat-start label"), /^Model/);
  await page.tab.select("#chat-start select", "1");
  await page.start("chat");
  assert.equal(await page.text("#chat-name"), "fake-story");
  assert.ok(await page.inside(() => document.getElementById("system").disabled));
  await page.ask("Once upon a time");
  await page.answered();
  assert.ok((await page.text(".answer")).length > 0);
  assert.match(await page.text("#model-facts"), /fake-story/);
  await page.click("#model-facts button");
  await page.tab.select("#chat-start select", "0");
  await page.start("chat");
  assert.equal(await page.text("#chat-name"), "fake-decoder");
  assert.equal(await page.inside(() => document.querySelectorAll(".turn").length), 0);
}

/** A bundle with nested codes is offered once for each depth, which is tested and stored by itself. */
export async function oneOfSeveralDepthsIsChosen(page) {
  await page.server.start(["nested"]);
  await page.open();
  const offered = await page.tab.$$eval("#chat-start option", (options) => options.map(({ textContent }) => textContent));
  assert.equal(offered.length, 2);
  assert.match(offered[0], /^fake-decoder, 4 bits, \S+ kB$/);
  assert.match(offered[1], /^fake-decoder, 3 bits, \S+ kB$/);
  const sizes = offered.map((text) => text.split(", ")[2]);
  assert.notEqual(sizes[0], sizes[1]);
  assert.equal(await page.text("#chat-start .primary"), `Download and start, ${sizes[0]}`);
  await page.tab.select("#chat-start select", "1");
  assert.equal(await page.text("#chat-start .primary"), `Download and start, ${sizes[1]}`);
  await page.start("chat");
  assert.equal(await page.text("#chat-name"), "fake-decoder, 3 bits");
  assert.match(await page.text("#model-facts"), /Depth\s+3 bits of nested codes/);
  await page.until(() => /Self-test\s+the compiler/.test(document.getElementById("model-facts").innerText));
  await page.click("#model-facts button");
  assert.match(await page.text("#chat-start"), /on this device/);
  await page.tab.select("#chat-start select", "0");
  assert.match(await page.text("#chat-start"), /needed once/);
  await page.start("chat");
  assert.match(await page.text("#model-facts"), /Depth\s+4 bits of nested codes/);
}
