/** The few places where browsers and Node differ. */

interface NodeProcess {
  versions?: { node?: string };
  getBuiltinModule?(name: string): unknown;
}

const node = (globalThis as { process?: NodeProcess }).process;

export const isNode: boolean = typeof node?.versions?.node === "string" && typeof node.getBuiltinModule === "function";

/** A built-in module of Node, without an import that bundlers for the web would trip over. */
export function builtin<T>(name: string): T {
  return node!.getBuiltinModule!(`node:${name}`) as T;
}

/** Whether this thread may block in `Atomics.wait`, as the barriers between threads do. */
export function canBlock(): boolean {
  return isNode || typeof (globalThis as { document?: unknown }).document === "undefined";
}

export function hardwareThreads(): number {
  if (isNode) return builtin<typeof import("node:os")>("os").availableParallelism();
  return globalThis.navigator?.hardwareConcurrency ?? 1;
}

/** Milliseconds on a clock that all threads share. */
export function wallTime(): number {
  return performance.timeOrigin + performance.now();
}

let channel: MessageChannel | undefined;
const waiting: (() => void)[] = [];

/** Lets the event loop run once, so that an abort message can arrive. Timers would be clamped to 4 ms. */
export function yieldToEventLoop(): Promise<void> {
  if (isNode) return new Promise((resolve) => setImmediate(resolve));
  if (!channel) {
    channel = new MessageChannel();
    channel.port1.onmessage = () => waiting.shift()?.();
  }
  return new Promise((resolve) => {
    waiting.push(resolve);
    channel!.port2.postMessage(0);
  });
}
