// One contender in a browser of its own, loaded once and measured again and again.

import { launch } from "../../runtime_wasm/tools/browsers.mjs";
import * as processes from "./processes.mjs";

/** A tab that nobody looks at must not be slowed down. */
const AWAKE = ["--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding"];

export class BrowserContender {
  /** @param {{browser: "chromium" | "firefox", origin: string, load: object, niceness?: number}} options `load`: what its page gets, too */
  static async start({ engine, page = engine, threads, copies, variant, precision, ...contender }, { origin, load, niceness, ...others }) {
    const own = new BrowserContender();
    const browser = contender.browser ?? others.browser;
    own.browser = await launch(browser, { args: browser === "chromium" ? AWAKE : [] });
    try {
      own.niceness = niceness;
      own.version = await own.browser.version();
      own.page = await own.browser.newPage();
      own.page.on("console", (message) => message.type() === "error" && console.error(`${engine}: ${message.text()}`));
      await own.page.goto(`${origin}/`);
      own.prioritize();
      own.loadSeconds = await own.call(`const started = performance.now();
        const { load } = await import("/bench/${page}.mjs");
        globalThis.engine = await load(${JSON.stringify({ threads, copies, variant, precision, ...load })});
        return (performance.now() - started) / 1000;`);
      return own;
    } catch (error) {
      await own.stop();
      throw error;
    }
  }

  get root() {
    return this.browser.process().pid;
  }

  prefill(text) {
    return this.call(`return engine.prefill(${JSON.stringify(text)});`);
  }

  decode(count) {
    return this.call(`return engine.decode(${count});`);
  }

  run(seconds) {
    return this.call(`return engine.run(${seconds});`);
  }

  describe() {
    return this.call("return engine.describe();");
  }

  threadTimes() {
    return processes.threadTimes(this.root);
  }

  peakBytes() {
    return processes.largestPeakBytes(this.root);
  }

  prioritize() {
    if (this.niceness !== undefined) processes.prioritize(this.root, this.niceness);
  }

  /** Runs the body of an async function in the page; errors keep their message. */
  async call(body) {
    const { value, error } = JSON.parse(
      await this.page.evaluate(`(async () => { ${body} })().then(
        (value) => JSON.stringify({ value }),
        (error) => JSON.stringify({ error: String(error?.message ?? error) }))`),
    );
    if (error !== undefined) throw new Error(error);
    return value;
  }

  async stop() {
    await this.browser.close();
  }
}
