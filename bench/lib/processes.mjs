// What a browser and its children use, where the system tells it (/proc of Linux); elsewhere nothing is known.

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { setPriority } from "node:os";

const TICKS_PER_SECOND = 100; // USER_HZ, the same on every Linux port

export const available = process.platform === "linux";

/** Seconds of processor time that `root` and its descendants have used so far. */
export function cpuSeconds(root) {
  if (!available) return null;
  return descendants(root).reduce((sum, { ticks }) => sum + ticks, 0) / TICKS_PER_SECOND;
}

/** The largest peak of resident memory, in bytes, that one process of the tree has had: in a browser, the tab's. */
export function largestPeakBytes(root) {
  if (!available) return null;
  const peaks = descendants(root).map(({ pid }) => {
    const match = /^VmHWM:\s+(\d+) kB/m.exec(readOr(`/proc/${pid}/status`, ""));
    return match ? Number(match[1]) * 1024 : 0;
  });
  return Math.max(...peaks);
}

/**
 * Raises the priority of every thread of the tree, so that a busy machine disturbs less. Needs the right to do so.
 * @param {number} niceness -20 to 19
 */
export function prioritize(root, niceness) {
  for (const { pid } of descendants(root)) {
    // Linux shares the processor out by session first (autogroup), and only within one by niceness.
    attempt(() => writeFileSync(`/proc/${pid}/autogroup`, String(niceness)));
    for (const thread of attempt(() => readdirSync(`/proc/${pid}/task`)) ?? []) attempt(() => setPriority(Number(thread), niceness));
  }
}

function descendants(root) {
  const children = new Map();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = readOr(`/proc/${name}/stat`, "");
    if (!stat) continue;
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // from field 3, the state, on
    const entry = { pid: Number(name), ticks: Number(fields[11]) + Number(fields[12]) };
    const parent = entry.pid === root ? "root" : Number(fields[1]);
    children.set(parent, [...(children.get(parent) ?? []), entry]);
  }
  const found = [...(children.get("root") ?? [])];
  for (const { pid } of found) found.push(...(children.get(pid) ?? []));
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
