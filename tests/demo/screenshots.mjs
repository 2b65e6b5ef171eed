// Takes the pictures of docs/screenshots/ from a page with real models.
//
//   edgec serve smollm2.edgec minilm.edgec efficientnet.edgec ppocr.edgec moonshine.edgec
//   node tests/demo/screenshots.mjs chromium|firefox ADDRESS FOLDER [--reading PICTURE] [--speech SOUND]
//
// With files only the tools that take them are shown.

import { join } from "node:path";
import { parseArgs } from "node:util";
import { launch } from "../../runtime_wasm/tools/browsers.mjs";

const PATIENCE = { timeout: 180_000 };
const WIDE = { width: 1280, height: 800 };
const NARROW = { width: 360, height: 740 };

const { positionals, values: files } = parseArgs({
  allowPositionals: true,
  options: { reading: { type: "string" }, speech: { type: "string" } },
});
const [name, address, folder] = positionals;
const browser = await launch(name);
const page = await browser.newPage();

async function shoot(scene) {
  await page.mouse.move(0, 0);
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 400))); // bars grow
  await page.screenshot({ path: join(folder, `${name}-${scene}.png`) });
}

async function theme(value) {
  while ((await page.evaluate(() => document.documentElement.dataset.theme)) !== value) await page.click("#theme");
}

async function start(tool) {
  await page.click(`#tab-${tool}`);
  await page.click(`#${tool}-start .primary`);
  await page.waitForSelector(`#${tool}-tool:not([hidden])`, PATIENCE);
}

async function ask(question) {
  await page.type("#question", question);
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => !document.querySelector('[aria-busy="true"]'), PATIENCE);
}

/** A traffic light before the sky, drawn here, so that no photo of anybody is needed. */
function drop() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 480];
  const context = canvas.getContext("2d");
  const gradient = (...stops) => {
    const made = context.createLinearGradient(0, 0, 0, 480);
    stops.forEach((color, index) => made.addColorStop(index / (stops.length - 1), color));
    return made;
  };
  context.fillStyle = gradient("#7fb4e6", "#b9d8f2", "#e9eef0");
  context.fillRect(0, 0, 640, 480);
  context.fillStyle = "#3c4044";
  context.fillRect(308, 400, 24, 80);
  context.fillStyle = "#17191b";
  context.beginPath();
  context.roundRect(240, 40, 160, 370, 26);
  context.fill();
  [
    [115, "#ff3b28", "#a80f08"],
    [225, "#5a4a1c", "#33290e"],
    [335, "#1d4a2b", "#0f2a18"],
  ].forEach(([y, inner, outer]) => {
    const glow = context.createRadialGradient(310, y - 10, 6, 320, y, 48);
    glow.addColorStop(0, inner);
    glow.addColorStop(1, outer);
    context.fillStyle = glow;
    context.beginPath();
    context.arc(320, y, 46, 0, 7);
    context.fill();
    context.strokeStyle = "#050505";
    context.lineWidth = 12;
    context.beginPath();
    context.arc(320, y, 52, Math.PI * 1.08, Math.PI * 1.92);
    context.stroke();
  });
  canvas.toBlob((blob) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([blob], "traffic light.png", { type: "image/png" }));
    document.getElementById("images-drop").dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
  });
}

async function open() {
  await page.setViewport(WIDE);
  await page.goto(address);
  await page.waitForSelector(".start .primary");
  await page.waitForFunction(() => document.getElementById("network").textContent.startsWith("Ready"), PATIENCE);
}

/** A tool at work on a file, in light and wide and in dark and narrow. */
async function showFile(tool, file, done) {
  await page.setViewport(WIDE);
  await start(tool);
  await (await page.$(`#${tool}-drop-file`)).uploadFile(file);
  await page.waitForFunction(
    (id, text) => document.getElementById(id).textContent.includes(text),
    PATIENCE,
    `${tool}-status`,
    done,
  );
  await theme("light");
  await shoot(`light-${tool}`);
  await page.setViewport(NARROW);
  await theme("dark");
  await shoot(`360-dark-${tool}`);
}

async function showAll() {
  await theme("light");
  await shoot("light-start");
  await start("chat");
  await page.evaluate(() => (document.getElementById("set-temperature").value = "0"));
  await ask("What is the capital of France?");
  await ask("Explain in three short steps how to brew a good cup of tea.");
  await shoot("light-chat");
  await theme("dark");
  await start("search");
  await page.waitForFunction(() => / ready/.test(document.getElementById("search-status").textContent), PATIENCE);
  await page.type("#query", "my gadget will not turn on");
  await page.waitForSelector("#results li", PATIENCE);
  await shoot("dark-search");
  await theme("light");
  await start("images");
  await page.evaluate(drop);
  await page.waitForSelector("#classes li", PATIENCE);
  await shoot("light-images");

  await page.setViewport(NARROW);
  for (const [tab, colors] of [
    ["images", "dark"],
    ["search", "light"],
    ["device", "light"],
    ["chat", "dark"],
  ]) {
    await page.click(`#tab-${tab}`);
    await theme(colors);
    await page.evaluate((end) => scrollTo(0, end ? document.body.scrollHeight : 0), tab === "chat");
    await shoot(`360-${colors}-${tab}`);
  }
}

try {
  await open();
  if (files.reading) await showFile("reading", files.reading, "looked at it for");
  if (files.speech) await showFile("speech", files.speech, "written down in");
  if (!files.reading && !files.speech) await showAll();
} finally {
  await browser.close();
}
