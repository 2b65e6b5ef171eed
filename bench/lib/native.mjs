// An engine outside of any browser, by its Python package: how fast this machine could be. A script does the work.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import * as processes from "./processes.mjs";

export class NativeContender {
  /** @param {{python: string, script: string[], niceness?: number}} options `script`: with its arguments */
  static async start({ threads }, { python, script, niceness }) {
    const own = new NativeContender();
    const started = performance.now();
    own.niceness = niceness;
    own.child = spawn(python, script.map(String), { stdio: ["pipe", "pipe", "pipe"] });
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

  run(seconds) {
    return this.ask({ run: seconds });
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
    if (done) throw new Error(this.complaint.trim().split("\n").at(-1) || "it ended without a word");
    return JSON.parse(value);
  }

  async stop() {
    this.child.stdin.end();
    await this.ended;
  }
}
