// Takes the pictures of docs/screenshots/ from a page with real models.
//
//   edgec serve smollm2.edgec minilm.edgec efficientnet.edgec ppocr.edgec moonshine.edgec
//   node tests/demo/screenshots.mjs chromium|firefox ADDRESS FOLDER chat search images reading=PICTURE speech=SOUND

import { join } from "node:path";
import { launch } from "../../runtime_wasm/tools/browsers.mjs";

const PATIENCE = { timeout: 180_000 };
const WIDE = { width: 1280, height: 800 };
const NARROW = { width: 360, height: 740 };

const [name, address, folder, ...tools] = process.argv.slice(2);
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

/** @param {"light" | "dark"} colors of the wide window */
async function shootBoth(tool, colors) {
  const other = colors === "light" ? "dark" : "light";
  await theme(colors);
  await shoot(`${colors}-${tool}`);
  await page.setViewport(NARROW);
  await theme(other);
  await page.evaluate((end) => scrollTo(0, end ? document.body.scrollHeight : 0), tool === "chat");
  await shoot(`360-${other}-${tool}`);
  await page.setViewport(WIDE);
}

async function giveFile(tool, file, done) {
  await start(tool);
  await (await page.$(`#${tool}-drop-file`)).uploadFile(file);
  const said = (id, text) => document.getElementById(id).textContent.includes(text);
  await page.waitForFunction(said, PATIENCE, `${tool}-status`, done);
  await shootBoth(tool, "light");
}

/** What is to be seen of a tool, in one theme on a wide window and in the other on a narrow one. */
const SCENES = {
  async chat() {
    await theme("light");
    await start("chat");
    await page.evaluate(() => (document.getElementById("set-temperature").value = "0"));
    await ask("What is the capital of France?");
    await ask("Explain in three short steps how to brew a good cup of tea.");
    await shootBoth("chat", "light");
  },
  async search() {
    await start("search");
    await page.waitForFunction(() => / ready/.test(document.getElementById("search-status").textContent), PATIENCE);
    await page.type("#query", "my gadget will not turn on");
    await page.waitForSelector("#results li", PATIENCE);
    await shootBoth("search", "dark");
  },
  async images() {
    await start("images");
    await page.evaluate(drop);
    await page.waitForSelector("#classes li", PATIENCE);
    await shootBoth("images", "light");
  },
  reading: (file) => giveFile("reading", file, "looked at it for"),
  speech: (file) => giveFile("speech", file, "written down in"),
};

try {
  await page.setViewport(WIDE);
  await page.goto(address);
  await page.waitForSelector(".start .primary");
  await page.waitForFunction(() => document.getElementById("network").textContent.startsWith("Ready"), PATIENCE);
  for (const argument of tools) {
    const [tool, file] = argument.split("=");
    await SCENES[tool](file);
  }
} finally {
  await browser.close();
}
