// What a browser and its children use, where the system tells it (/proc of Linux); elsewhere nothing is known.

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { setPriority } from "node:os";

export const available = process.platform === "linux";

/**
 * Seconds that each thread of `root` and its descendants has run, and has waited for a processor, so far.
 * @returns {Map<string, {ran: number, waited: number}> | null} null where the system does not tell
 */
export function threadTimes(root) {
  if (!available) return null;
  const times = new Map();
  for (const pid of descendants(root)) {
    for (const thread of attempt(() => readdirSync(`/proc/${pid}/task`)) ?? []) {
      const [ran, waited] = readOr(`/proc/${pid}/task/${thread}/schedstat`, "").split(" ").map(Number);
      if (Number.isFinite(waited)) times.set(thread, { ran: ran / 1e9, waited: waited / 1e9 });
    }
  }
  return times.size ? times : null;
}

/**
 * Which part of the time that its `count` busiest threads could have run they had to wait because others ran.
 * @returns {number | null} 0 to 1, null where the system does not tell
 */
export function waitingShare(before, after, count) {
  if (!before || !after) return null;
  const grown = [...after].map(([thread, { ran, waited }]) => ({
    ran: ran - (before.get(thread)?.ran ?? 0),
    waited: waited - (before.get(thread)?.waited ?? 0),
  }));
  const busiest = grown.sort((a, b) => b.ran - a.ran).slice(0, count);
  const [ran, waited] = ["ran", "waited"].map((name) => busiest.reduce((sum, times) => sum + times[name], 0));
  return ran + waited > 0 ? waited / (ran + waited) : null;
}

/** The largest peak of resident memory, in bytes, that one process of the tree has had: in a browser, the tab's. */
export function largestPeakBytes(root) {
  if (!available) return null;
  const peaks = descendants(root).map((pid) => {
    const match = /^VmHWM:\s+(\d+) kB/m.exec(readOr(`/proc/${pid}/status`, ""));
    return match ? Number(match[1]) * 1024 : 0;
  });
  return Math.max(...peaks);
}

/** Memory of each process of the tree that no file backs, in bytes: what it has for itself, without the browser's program. */
export function ownBytes(root) {
  const sizes = new Map();
  for (const pid of available ? descendants(root) : []) {
    const status = readOr(`/proc/${pid}/status`, "");
    const kilobytes = ["RssAnon", "RssShmem"].map((name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0));
    sizes.set(pid, 1024 * (kilobytes[0] + kilobytes[1]));
  }
  return sizes;
}

/** Looks at the tree again and again: by how much the process that grows most, in a browser the tab's, grows from now on. */
export class GrowthWatch {
  #root;
  #before;
  #most = new Map();
  #timer;

  constructor(root, milliseconds = 20) {
    this.#root = root;
    this.#before = ownBytes(root);
    this.#timer = setInterval(() => this.#look(), milliseconds);
  }

  #look() {
    const now = new Map([...ownBytes(this.#root)].map(([pid, bytes]) => [pid, bytes - (this.#before.get(pid) ?? 0)]));
    for (const [pid, bytes] of now) this.#most.set(pid, Math.max(bytes, this.#most.get(pid) ?? 0));
    return now;
  }

  /** @returns {{peak: number, now: number} | null} bytes; null where the system does not tell */
  end() {
    clearInterval(this.#timer);
    const now = this.#look();
    const [tab, peak] = [...this.#most].reduce((a, b) => (b[1] > a[1] ? b : a), [0, 0]);
    return available ? { peak, now: now.get(tab) ?? 0 } : null;
  }
}

/**
 * Raises the priority of every thread of the tree, so that a busy machine disturbs less. Needs the right to do so.
 * @param {number} niceness -20 to 19
 */
export function prioritize(root, niceness) {
  for (const pid of descendants(root)) {
    // Linux shares the processor out by session first (autogroup), and only within one by niceness.
    attempt(() => writeFileSync(`/proc/${pid}/autogroup`, String(niceness)));
    for (const thread of attempt(() => readdirSync(`/proc/${pid}/task`)) ?? []) attempt(() => setPriority(Number(thread), niceness));
  }
}

/** `root` and all below it. */
function descendants(root) {
  const children = new Map();
  for (const name of readdirSync("/proc")) {
    const stat = /^\d+$/.test(name) ? readOr(`/proc/${name}/stat`, "") : "";
    if (!stat) continue;
    const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const found = [root];
  for (const pid of found) found.push(...(children.get(pid) ?? []));
  return found;
}

function readOr(path, otherwise) {
  return attempt(() => readFileSync(path, "utf8")) ?? otherwise;
}

/** Processes end while one looks at them, and not everybody may change priorities; both are no failure here. */
function attempt(action) {
  try {
    return action();
  } catch {
    return undefined;
  }
}
