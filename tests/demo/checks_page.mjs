// What the page around the tools has to do. Each export is one check, on a fresh profile of the browser.

import assert from "node:assert/strict";
import { contrastProblems, nameless, overflowing } from "./inspect.mjs";

const TOOLS = ["chat", "search", "images", "reading", "gallery", "speech"];

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
    const event = new Promise((resolve) =>
      addEventListener("securitypolicyviolation", ({ effectiveDirective }) => resolve(effectiveDirective)),
    );
    await fetch("https://example.org/").catch(() => undefined);
    return event;
  });
  assert.equal(violated, "connect-src");
  const worker = await page.inside(async () =>
    (await fetch("runtime/worker.js")).headers.get("content-security-policy"),
  );
  assert.match(worker, /connect-src 'self'/);
  page.noise = page.noise.filter((line) => !line.includes("example.org")); // the browser's own word about it
}

export async function keyboardAlone(page) {
  await page.server.start();
  await page.open();
  const { keyboard } = page.tab;
  const focused = () =>
    page.inside(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName);
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
  assert.ok(
    await page.inside(() => document.activeElement.getBoundingClientRect().top >= 0),
    "the skip link stays out of sight",
  );
  await tabTo("tab-chat");
  await keyboard.press("ArrowLeft");
  assert.equal(await focused(), "tab-speech");
  assert.match(page.tab.url(), /#speech$/);
  await keyboard.press("ArrowRight");
  assert.equal(await focused(), "tab-chat");
  await keyboard.press("End");
  assert.equal(await focused(), "tab-speech");
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
  if (await page.inside(() => !document.getElementById("threads").disabled)) await tabTo("threads"); // one core has no choice
  await tabTo("forget");
  const starts = { search: "query", images: "images-drop-file", reading: "reading-drop-file" };
  for (const [tool, start] of Object.entries({ ...starts, gallery: "gallery-drop-file", speech: "record" })) {
    await page.inside((id) => document.getElementById(id).focus(), `tab-${TOOLS[TOOLS.indexOf(tool) - 1]}`);
    await keyboard.press("ArrowRight");
    await tabTo("primary");
    await keyboard.press("Enter");
    await page.until((id) => document.activeElement.id === id, start);
    if (!start.endsWith("-file")) continue;
    const outline = (id) => getComputedStyle(document.getElementById(id)).outlineStyle;
    assert.notEqual(await page.inside(outline, `${tool}-drop`), "none", "the focus on the file field cannot be seen");
  }
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
  await (await page.tab.$("#images-drop-file")).uploadFile(page.settings.picture);
  await page.tab.waitForSelector("#classes li");
  await page.fillMedia();
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
  await page.until(
    () =>
      document.getElementById("device").getAttribute("role") === "complementary" &&
      !document.getElementById("speech").hidden,
  );
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
    await (await page.tab.$("#images-drop-file")).uploadFile(page.settings.picture);
    await page.tab.waitForSelector("#classes li");
    await page.fillMedia();
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
      { url: "e/", kind: "graph", task: "speech-detection" },
      { url: "f/", kind: "graph", task: "fortune-telling" },
      { name: "G", url: "g/", kind: "graph", task: "ocr", bytes: 9, depths: [{ bits: 4, bytes: 9 }, { bits: 3, bytes: 7 }, 2] },
      null,
      7,
    ];
    let message = "";
    try {
      sortOut({}, base);
    } catch (error) {
      message = error.message;
    }
    return [
      [
        bytes(999),
        bytes(89_200_000),
        bytes(1.5e10),
        count(134_515_008),
        percent(0.0004),
        percent(1),
        seconds(0.0312),
        seconds(12.34),
      ],
      sortOut({ bundles: rows }, base),
      message,
    ];
  });
  assert.deepEqual(texts, ["999 B", "89.2 MB", "15.0 GB", "135 M", "< 0.1 %", "100 %", "31 ms", "12.3 s"]);
  assert.deepEqual(listing.chat, [
    {
      name: "A",
      url: "https://host.example/demo/a.edgec/",
      bytes: 5,
      depth: null,
      profile: "",
      report: "https://host.example/demo/a.edgec/report.html",
    },
  ]);
  assert.deepEqual(
    listing.search.map(({ url }) => url),
    ["https://host.example/b/"],
  );
  const urls = (name) => listing[name].map(({ url }) => url);
  assert.deepEqual(urls("images"), ["https://host.example/demo/d/"]);
  assert.deepEqual(urls("speech"), ["https://host.example/demo/e/"]);
  assert.deepEqual(urls("gallery"), []);
  assert.deepEqual(
    listing.reading.map(({ name, bytes, depth }) => [name, bytes, depth]),
    [
      ["G, 4 bits", 9, 4],
      ["G, 3 bits", 7, 3],
    ],
  );
  assert.match(failure, /no list/);
}
