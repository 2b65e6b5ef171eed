// llama.cpp outside of any browser, by llama-cpp-python: how fast this machine could be. native.py does the work.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import * as processes from "./processes.mjs";

const SCRIPT = fileURLToPath(new URL("../native.py", import.meta.url));

export class NativeContender {
  /** @param {{python: string, gguf: string, contextLength: number, niceness?: number}} options */
  static async start({ threads }, { python, gguf, contextLength, niceness }) {
    const own = new NativeContender();
    const started = performance.now();
    own.niceness = niceness;
    own.child = spawn(python, [SCRIPT, gguf, String(threads), String(contextLength)], { stdio: ["pipe", "pipe", "pipe"] });
    own.complaint = "";
    own.child.stderr.on("data", (text) => (own.complaint = `${own.complaint}${text}`.slice(-2000)));
    own.child.on("error", ({ message }) => (own.complaint = message));
    own.ended = new Promise((resolve) => own.child.on("close", resolve));
    own.lines = createInterface({ input: own.child.stdout })[Symbol.asyncIterator]();
    own.version = (await own.receive()).version;
    own.loadSeconds = (performance.now() - started) / 1000;
    own.threads = threads;
    return own;
  }

  prefill(text) {
    return this.ask({ prefill: text });
  }

  decode(count) {
    return this.ask({ decode: count });
  }

  async describe() {
    return { variant: "native", threads: this.threads };
  }

  threadTimes() {
    return processes.threadTimes(this.child.pid);
  }

  peakBytes() {
    return processes.largestPeakBytes(this.child.pid);
  }

  prioritize() {
    if (this.niceness !== undefined) processes.prioritize(this.child.pid, this.niceness);
  }

  ask(request) {
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
    return this.receive();
  }

  async receive() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(this.complaint.trim().split("\n").at(-1) || "native.py ended without a word");
    return JSON.parse(value);
  }

  async stop() {
    this.child.stdin.end();
    await this.ended;
  }
}
