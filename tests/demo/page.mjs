// The demo page as a user has it before them, and the server behind it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";

const PATIENCE = 30_000;

/** `edgec serve`, on a port that stays the same when it is started again. */
export class Server {
  process = null;
  address = "";

  constructor(command, bundles) {
    this.command = command;
    this.bundles = bundles;
  }

  /** @param {string[]} names of the bundles to serve */
  async start(names = ["chat", "search", "images", "reading", "gallery", "speech"], flags = []) {
    const port = this.address ? new URL(this.address).port : "0";
    const [program, ...rest] = this.command;
    this.process = spawn(
      program,
      [...rest, ...names.map((name) => this.bundles[name]), "--quiet", "--port", port, ...flags],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    this.address = await new Promise((resolve, reject) => {
      this.process.stdout.once("data", (line) => resolve(String(line).trim()));
      this.process.once("exit", (code) => reject(new Error(`the server ended with code ${code}`)));
    });
  }

  async stop() {
    const { process } = this;
    this.process = null;
    if (!process) return;
    const ended = new Promise((resolve) => process.once("exit", resolve));
    if (process.kill("SIGKILL")) await ended;
  }
}

export class Page {
  /** What the console, the page's errors and requests to other places said. */
  noise = [];
  /** Whether failing requests are part of the check. */
  failuresExpected = false;

  constructor(tab, server, settings) {
    this.tab = tab;
    this.server = server;
    this.settings = settings;
  }

  async watch() {
    this.tab.on("console", (message) => {
      if (!["error", "warn"].includes(message.type())) return;
      if (this.failuresExpected && /Failed to load resource|NetworkError|ERR_/.test(message.text())) return;
      this.noise.push(`console: ${message.text()}`);
    });
    this.tab.on("pageerror", (error) => this.noise.push(`error: ${error.message}`));
    this.tab.on("request", (request) => {
      if (/^https?:/.test(request.url()) && !request.url().startsWith(this.server.address))
        this.noise.push(`request: ${request.url()}`);
    });
    await this.tab.setViewport({ width: 1280, height: 800 });
  }

  assertQuiet() {
    assert.deepEqual(this.noise, []);
  }

  async open(path = "") {
    await this.tab.goto(this.server.address + path);
    await this.tab.waitForSelector(".start .card", { timeout: PATIENCE });
  }

  /** Starts the model of a tab with the mouse and waits until the tool is there. */
  async start(tool) {
    await this.click(`#tab-${tool}`);
    await this.click(`#${tool}-start .primary`);
    await this.tab.waitForSelector(`#${tool}-tool:not([hidden])`, { timeout: PATIENCE });
  }

  async click(selector) {
    const element = await this.tab.waitForSelector(selector, { visible: true, timeout: PATIENCE });
    await element.click();
  }

  /** @param {(...values: any[]) => unknown} condition runs in the page */
  async until(condition, ...values) {
    await this.tab.waitForFunction(condition, { timeout: PATIENCE, polling: 50 }, ...values);
  }

  /** @param {(...values: any[]) => unknown} body runs in the page */
  async inside(body, ...values) {
    return this.tab.evaluate(body, ...values);
  }

  async text(selector = "body") {
    return this.tab.$eval(selector, (element) => element.innerText);
  }

  async ask(question) {
    await this.tab.type("#question", question);
    await this.tab.keyboard.press("Enter");
  }

  /** Presses Stop as soon as some of the answer is there; from inside, since from outside it may be too late. */
  async stopSoon() {
    await this.inside(async () => {
      while ((document.querySelector(".answer")?.textContent.length ?? 0) < 3)
        await new Promise((resolve) => setTimeout(resolve, 1));
      document.getElementById("send").click();
    });
  }

  /** Gives files to a tool, as its file field does. */
  async give(tool, ...files) {
    await this.click(`#tab-${tool}`);
    await (await this.tab.$(`#${tool}-drop-file`)).uploadFile(...files);
  }

  /** Lets the tools for pictures and sounds work, so that all there is of them can be seen. */
  async fillMedia() {
    const { page, video, picture, speech } = this.settings;
    await this.give("reading", page);
    await this.until(() => document.querySelectorAll("#lines li").length === 2);
    await this.give("gallery", picture, video);
    await this.until(() => / seen in /.test(document.getElementById("gallery-status").textContent));
    await this.inside(() => (document.getElementById("gallery-labels").value = "rr, bb"));
    await this.tab.type("#gallery-query", "b");
    await this.until(() => document.querySelector("#shots li button"));
    await this.give("speech", speech);
    await this.until(() => / written down in /.test(document.getElementById("speech-status").textContent));
  }

  async answered(count = 1) {
    await this.until(
      (wanted) => document.querySelectorAll('.turn.assistant[aria-busy="false"]').length >= wanted,
      count,
    );
  }

  async kept() {
    await this.until(() => document.getElementById("network").textContent === "Ready for offline use");
  }

  /** Waits for a model's small files to be kept too. */
  async bundleKept(name) {
    await this.until(async (path) => {
      for (const cache of await caches.keys()) {
        const requests = await (await caches.open(cache)).keys();
        if (requests.filter(({ url }) => url.includes(path) && url.endsWith(".wasm")).length === 6) return true;
      }
      return false;
    }, `/bundles/${name}.edgec/`);
  }
}
