// What the demo page has to do. Each export is one check, on a fresh profile of the browser.

import assert from "node:assert/strict";
import { contrastProblems, nameless, overflowing } from "./inspect.mjs";

const TOOLS = ["chat", "search", "images"];

/** The page comes up, in order, and asks no other origin for anything. */
export async function loads(page) {
  await page.server.start();
  await page.open();
  assert.equal(await page.tab.title(), "edgec: models that run in this tab");
  assert.match(await page.text("#chat-start"), /fake-decoder/);
  assert.match(await page.text("#device"), /Relaxed dot product\s+yes, exact/);
  assert.match(await page.text("#device"), /Isolated page\s+yes/);
  assert.equal(await page.inside(() => document.querySelectorAll("h1").length), 1);
  await page.kept();
}

/** Not even if a script of ours wanted to. */
export async function policyForbidsOtherOrigins(page) {
  await page.server.start();
  await page.open();
  const violated = await page.inside(async () => {
    const event = new Promise((resolve) => addEventListener("securitypolicyviolation", ({ effectiveDirective }) => resolve(effectiveDirective)));
    await fetch("https://example.org/").catch(() => undefined);
    return event;
  });
  assert.equal(violated, "connect-src");
  const worker = await page.inside(async () => (await fetch("runtime/worker.js")).headers.get("content-security-policy"));
  assert.match(worker, /connect-src 'self'/);
  page.noise = page.noise.filter((line) => !line.includes("example.org")); // the browser's own word about it
}

export async function chatStreams(page) {
  await page.server.start();
  await page.open();
  await page.start("chat");
  await page.inside(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector(".answer")?.textContent.length ?? 0)).observe(document.getElementById("log"), {
      subtree: true,
      childList: true,
      characterData: true,
    });
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
  await page.until(() => (document.querySelector(".answer")?.textContent.length ?? 0) > 3);
  await page.click("#send");
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
  assert.deepEqual(scores, [...scores].sort((a, b) => b - a));
  await page.click("#more");
  assert.equal((await page.tab.$$("#results li")).length, 6);
  await page.click("#samples");
  await page.until(() => /^24 texts compared/.test(document.getElementById("search-status").textContent));
}

export async function imagesAreClassified(page) {
  await page.server.start();
  await page.open("#images");
  await page.start("images");
  await (await page.tab.$("#file")).uploadFile(page.settings.picture);
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
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  });
  await page.until(() => document.querySelector("#classes li")?.innerText.startsWith("blue"));

  await page.inside(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["no picture"], "notes.png", { type: "image/png" }));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  });
  await page.until(() => document.getElementById("images-status").textContent.startsWith("The image cannot be decoded"));
}

/** All three tools, after the server has gone; even with a module that was not in use before. */
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
  await (await page.tab.$("#file")).uploadFile(page.settings.picture);
  await page.until(() => document.querySelector("#classes li")?.innerText.startsWith("red"));
}

export async function keyboardAlone(page) {
  await page.server.start();
  await page.open();
  const { keyboard } = page.tab;
  const focused = () => page.inside(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName);
  const visible = () =>
    page.inside(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return outlineStyle !== "none" && Number.parseFloat(outlineWidth) >= 2;
    });
  async function tabTo(wanted) {
    for (let presses = 0; presses < 30; presses++) {
      await keyboard.press("Tab");
      if ((await focused()) === wanted) return assert.ok(await visible(), `the focus on ${wanted} cannot be seen`);
    }
    assert.fail(`${wanted} cannot be reached`);
  }

  await keyboard.press("Tab");
  assert.equal(await focused(), "skip");
  assert.ok(await page.inside(() => document.activeElement.getBoundingClientRect().top >= 0), "the skip link stays out of sight");
  await tabTo("tab-chat");
  await keyboard.press("ArrowLeft");
  assert.equal(await focused(), "tab-images");
  assert.match(page.tab.url(), /#images$/);
  await keyboard.press("ArrowRight");
  assert.equal(await focused(), "tab-chat");
  await keyboard.press("End");
  assert.equal(await focused(), "tab-images");
  await keyboard.press("Home");
  await tabTo("primary");
  await keyboard.press("Enter");
  await page.until(() => document.activeElement.id === "question");
  await keyboard.type("Hello");
  await keyboard.press("Enter");
  await page.until(() => (document.querySelector(".answer")?.textContent.length ?? 0) > 3);
  await keyboard.press("Escape");
  await page.answered();
  assert.match(await page.text(".turn.assistant .figures"), /^Stopped/);
  await keyboard.down("Shift");
  await keyboard.press("Enter");
  await keyboard.up("Shift");
  assert.equal(await page.inside(() => document.getElementById("question").value), "\n");
  await tabTo("send");
  await tabTo("threads");
  await tabTo("forget");
  for (const tool of ["search", "images"]) {
    await page.inside((id) => document.getElementById(id).focus(), `tab-${tool === "search" ? "chat" : "search"}`);
    await keyboard.press("ArrowRight");
    await tabTo("primary");
    await keyboard.press("Enter");
    await page.until((id) => document.activeElement.id === id, tool === "search" ? "query" : "file");
  }
  assert.ok(
    await page.inside(() => getComputedStyle(document.getElementById("drop")).outlineStyle !== "none"),
    "the focus on the file field cannot be seen",
  );
}

export async function everythingHasAName(page) {
  await page.server.start();
  await page.open();
  for (const tool of TOOLS) await page.start(tool);
  for (const tool of TOOLS) {
    await page.click(`#tab-${tool}`);
    assert.deepEqual(await page.inside(nameless), []);
    const panels = await page.tab.$$eval('[role="tabpanel"]:not([hidden])', (found) => found.map(({ id }) => id));
    assert.deepEqual(panels, [tool]);
  }
  const ids = await page.tab.$$eval("[id]", (elements) => elements.map(({ id }) => id));
  assert.equal(new Set(ids).size, ids.length, "an id is there twice");
}

/** Phones: no sideways scrolling down to 320 px, and the device panel has a tab of its own. */
export async function fitsSmallScreens(page) {
  await page.server.start();
  await page.open();
  for (const tool of TOOLS) await page.start(tool);
  await page.click("#tab-chat");
  await page.ask("Hello");
  await page.answered();
  await page.click("#tab-images");
  await (await page.tab.$("#file")).uploadFile(page.settings.picture);
  await page.tab.waitForSelector("#classes li");
  for (const width of [360, 320]) {
    await page.tab.setViewport({ width, height: 740 });
    for (const tab of [...TOOLS, "device"]) {
      await page.click(`#tab-${tab}`);
      assert.deepEqual(await page.inside(overflowing), [], `${tab} at ${width} px`);
      const shown = await page.tab.$$eval('[role="tabpanel"]:not([hidden])', (found) => found.map(({ id }) => id));
      assert.deepEqual(shown, [tab]);
    }
    await page.click("#tab-chat");
    await page.click(".settings summary");
    assert.deepEqual(await page.inside(overflowing), [], `settings at ${width} px`);
    await page.click(".settings summary");
  }
  await page.click("#tab-device");
  await page.tab.setViewport({ width: 1280, height: 800 });
  await page.until(() => document.getElementById("device").getAttribute("role") === "complementary" && !document.getElementById("images").hidden);
}

export async function contrastIsEnough(page) {
  await page.server.start();
  await page.open();
  for (const theme of ["light", "dark"]) {
    await page.inside((value) => localStorage.setItem("edgec-theme", value), theme);
    await page.tab.reload();
    await page.tab.waitForSelector("#chat-start .primary");
    const background = await page.inside(() => getComputedStyle(document.documentElement).backgroundColor);
    const [red] = /\d+/.exec(background);
    assert.equal(Number(red) < 128, theme === "dark", background);
    assert.deepEqual(await page.inside(contrastProblems), [], `${theme}, start`);
    for (const tool of TOOLS) await page.start(tool);
    await page.click("#tab-chat");
    await page.click(".settings summary");
    await page.ask("Hello");
    await page.answered();
    await page.click("#tab-search");
    await page.click("#queries button");
    await page.tab.waitForSelector("#results li");
    await page.click("#tab-images");
    await (await page.tab.$("#file")).uploadFile(page.settings.picture);
    await page.tab.waitForSelector("#classes li");
    for (const tool of TOOLS) {
      await page.click(`#tab-${tool}`);
      assert.deepEqual(await page.inside(contrastProblems), [], `${theme}, ${tool}`);
    }
  }
}

export async function themeIsSwitchedAndRemembered(page) {
  await page.server.start();
  await page.open();
  const theme = () => page.inside(() => document.documentElement.dataset.theme ?? "auto");
  assert.equal(await theme(), "auto");
  await page.click("#theme");
  assert.equal(await theme(), "light");
  await page.click("#theme");
  assert.equal(await theme(), "dark");
  await page.tab.reload();
  assert.equal(await theme(), "dark");
  assert.equal(await page.inside(() => document.getElementById("theme").getAttribute("aria-label")), "Colours: Dark");
}

/** The browser is set to reduced motion. */
export async function nothingMovesWhenThatIsUnwanted(page) {
  await page.server.start();
  await page.open();
  assert.ok(await page.inside(() => matchMedia("(prefers-reduced-motion: reduce)").matches));
  await page.start("chat");
  await page.ask("Hello");
  await page.until(() => (document.querySelector(".answer")?.textContent.length ?? 0) > 3);
  assert.equal(await page.inside(() => document.getAnimations().length), 0);
  await page.answered();
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
    const text = "# Title\nFirst **bold** and `code`\nsame paragraph\n\n3. three\n4. four\n   more of four\n\n- a\n* b\n\n```js\nlet <b>x</b>;\n```\n<img src=x onerror=alert(1)>";
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

export async function numbersAndListingsAreRead(page) {
  await page.server.start();
  await page.open();
  const [texts, listing, failure] = await page.inside(async () => {
    const { bytes, count, percent, seconds } = await import("/app/format.js");
    const { sortOut } = await import("/app/bundles.js");
    const base = new URL("https://host.example/demo/bundles.json");
    const rows = [
      { name: "A", url: "a.edgec", kind: "decoder", bytes: 5, report: "a.edgec/report.html" },
      { name: "B", url: "/b/", kind: "graph", task: "embedding" },
      { url: "https://other.example/c/", kind: "decoder" },
      { url: "d/", kind: "graph", task: "object-detection" },
      null,
      7,
    ];
    let message = "";
    try {
      sortOut({}, base);
    } catch (error) {
      message = error.message;
    }
    return [[bytes(999), bytes(89_200_000), bytes(1.5e10), count(134_515_008), percent(0.0004), percent(1), seconds(0.0312), seconds(12.34)], sortOut({ bundles: rows }, base), message];
  });
  assert.deepEqual(texts, ["999 B", "89.2 MB", "15.0 GB", "135 M", "< 0.1 %", "100 %", "31 ms", "12.3 s"]);
  assert.deepEqual(listing.chat, [{ name: "A", url: "https://host.example/demo/a.edgec/", bytes: 5, profile: "", report: "https://host.example/demo/a.edgec/report.html" }]);
  assert.deepEqual(
    listing.search.map(({ url }) => url),
    ["https://host.example/b/"],
  );
  assert.deepEqual(listing.images, []);
  assert.match(failure, /no list/);
}
