/** One instance of a model's module on its memory: entry points, growth, threads. See docs/runtime-abi.md. */

import { type Computed, EXPANSION, type Manifest, type Segment, type Slot, targetBytes } from "../bundle/manifest.js";
import { EdgecError } from "../errors.js";
import { mergeScaled, NARROW } from "./narrow.js";
import type { ThreadPool } from "./pool.js";

const WASM_PAGE = 65536;
const GROWTH_STEP = 16 * WASM_PAGE; // fewer, larger steps: each one may move views and page tables
const DOORBELL = 64;
const ENTRY = 68;
const PARAMETERS = 72;
const MAX_PARAMETERS = 14;
const STAGING_BYTES = 1 << 20;

type Entry = (tid: number, threads: number, ...parameters: number[]) => number;

/** The memory of a model, large enough for everything but the KV cache, which grows with the conversation. */
export function createMemory(manifest: Manifest, shared: boolean): WebAssembly.Memory {
  const { weights, kv, maximum_bytes } = manifest.memory;
  const first = Math.max(weights.offset + weights.bytes, manifest.kv ? 0 : kv.offset + kv.bytes);
  const initial = Math.min(Math.ceil(first / WASM_PAGE), maximum_bytes / WASM_PAGE);
  try {
    return new WebAssembly.Memory({ initial, maximum: maximum_bytes / WASM_PAGE, ...(shared ? { shared } : {}) });
  } catch (cause) {
    throw outOfMemory(initial * WASM_PAGE, cause);
  }
}

function outOfMemory(bytes: number, cause?: unknown): EdgecError {
  return new EdgecError(
    "out-of-memory",
    `the model needs ${Math.ceil(bytes / 2 ** 20)} MiB of memory, which this device does not give`,
    {
      cause,
      hint: "close other tabs, or compile the model for a smaller profile",
    },
  );
}

export class Engine {
  private readonly exports: Record<string, Entry>;
  private readonly order: string[];
  private broken: EdgecError | undefined;
  pool: ThreadPool | undefined;

  constructor(
    readonly manifest: Manifest,
    readonly memory: WebAssembly.Memory,
    module: WebAssembly.Module,
  ) {
    this.exports = instantiate(manifest, memory, module, 0);
    this.order = Object.keys(manifest.entry_points).sort();
    for (const name of [...this.order, "merge_bits2", "merge_bit1", "merge_byte1"]) {
      if (typeof this.exports[name] !== "function") {
        throw new EdgecError("manifest-invalid", `the module does not export \`${name}\``, {
          hint: "compile the model again",
        });
      }
    }
  }

  get threads(): number {
    return this.pool?.threads ?? 1;
  }

  /** The bytes of `length` at `offset`; valid until the memory grows. */
  bytes(offset: number, length: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, offset, length);
  }

  int32(offset: number, length: number): Int32Array {
    return new Int32Array(this.memory.buffer, offset, length);
  }

  float32(offset: number, length: number): Float32Array {
    return new Float32Array(this.memory.buffer, offset, length);
  }

  input(name: string): Slot {
    return this.manifest.inputs.find((slot) => slot.name === name)!;
  }

  output(name: string): Slot {
    return this.manifest.outputs.find((slot) => slot.name === name)!;
  }

  /** A number that the last call computed. */
  computed(number: Computed): number {
    return this.int32(number.offset, 1)[0];
  }

  private outOfBounds(number: Computed): EdgecError {
    const value = this.computed(number);
    const { name, bound } = number;
    if (value < 0) {
      return new EdgecError(
        "invalid-argument",
        `the inputs' values do not go together: \`${name}\` cannot be computed`,
        { hint: "check the inputs that hold shapes, axes, positions and counts" },
      );
    }
    return new EdgecError(
      "invalid-argument",
      `the inputs' values make \`${name}\` ${value}, the bundle holds at most ${bound}`,
      { hint: `compile the model with \`--max-dim ${name}=${value}\`` },
    );
  }

  /** Calls an entry point on all threads and returns when all are done. */
  call(name: string, ...parameters: number[]): void {
    if (this.broken) throw this.broken;
    const threads = this.threads;
    if (threads > 1) this.ring(name, parameters);
    const result = this.guarded(() => this.exports[name](0, threads, ...parameters));
    const number = this.manifest.computed[result - 1];
    if (number) throw this.outOfBounds(number);
    if (result !== 0) throw this.fail(new EdgecError("trap", `\`${name}\` returned ${result} instead of 0`));
  }

  private ring(name: string, parameters: number[]): void {
    if (parameters.length > MAX_PARAMETERS)
      throw new EdgecError("unsupported", `\`${name}\` has more than ${MAX_PARAMETERS} parameters`);
    const control = this.manifest.memory.control.offset;
    const words = new Int32Array(this.memory.buffer);
    words[(control + ENTRY) / 4] = this.order.indexOf(name);
    words.set(parameters, (control + PARAMETERS) / 4);
    Atomics.add(words, (control + DOORBELL) / 4, 1);
    Atomics.notify(words, (control + DOORBELL) / 4);
  }

  private guarded<T>(run: () => T): T {
    try {
      return run();
    } catch (cause) {
      const message = `the model's code stopped: ${(cause as Error).message}`;
      throw this.fail(
        new EdgecError("trap", message, {
          cause,
          hint: "load the model again; if it happens again, the bundle is faulty",
        }),
      );
    }
  }

  /** After this, every call fails with `error`: the memory may hold anything. */
  fail(error: EdgecError): EdgecError {
    this.broken ??= error;
    return error;
  }

  /** Makes the addresses below `end` usable. */
  ensure(end: number): void {
    if (end <= this.memory.buffer.byteLength) return;
    const comfortable = Math.min(Math.ceil(end / GROWTH_STEP) * GROWTH_STEP, this.manifest.memory.maximum_bytes);
    if (!this.grow(comfortable) && !this.grow(Math.ceil(end / WASM_PAGE) * WASM_PAGE)) throw outOfMemory(end);
  }

  private grow(bytes: number): boolean {
    try {
      this.memory.grow((bytes - this.memory.buffer.byteLength) / WASM_PAGE);
      return true;
    } catch {
      return false;
    }
  }

  /** Places a weight file's bytes, which have been checked. */
  place(bytes: Uint8Array, segments: readonly Segment[]): void {
    let at = 0;
    for (const segment of segments) {
      const source = bytes.subarray(at, at + segment.length);
      at += segment.length;
      if (segment.op === "copy") this.bytes(segment.target, segment.length).set(source);
      else if (segment.op === "scaled8") {
        mergeScaled(this.bytes(segment.target, targetBytes(segment)), source, segment.columns);
      } else if (segment.op in NARROW) {
        NARROW[segment.op]!(this.bytes(segment.target, targetBytes(segment)), source);
      } else this.merge(source, segment);
    }
  }

  private merge(source: Uint8Array, { op, target, shift }: Segment): void {
    const staging = this.manifest.memory.workspace.offset;
    for (let at = 0; at < source.length; at += STAGING_BYTES) {
      const part = source.subarray(at, at + STAGING_BYTES);
      this.bytes(staging, part.length).set(part);
      const to = target + at * EXPANSION[op];
      this.guarded(() =>
        op === "bits2"
          ? this.exports.merge_bits2(to, staging, part.length)
          : this.exports[`merge_${op}`](to, staging, part.length, shift),
      );
    }
  }

  dispose(): void {
    this.pool?.dispose(this.memory);
    this.fail(new EdgecError("disposed", "the model has been disposed of"));
  }
}

/** Also what a pool thread does: the same module on the same memory with its own stack. */
export function instantiate(
  manifest: Pick<Manifest, "memory">,
  memory: WebAssembly.Memory,
  module: WebAssembly.Module,
  tid: number,
): Record<string, Entry> {
  const { stacks, stack_bytes } = manifest.memory;
  let exports: WebAssembly.Exports;
  try {
    exports = new WebAssembly.Instance(module, { env: { memory } }).exports;
  } catch (cause) {
    if (cause instanceof RangeError) throw outOfMemory(memory.buffer.byteLength, cause);
    throw new EdgecError("manifest-invalid", `the module does not fit its manifest: ${(cause as Error).message}`, {
      cause,
    });
  }
  const pointer = exports.__stack_pointer;
  if (!(pointer instanceof WebAssembly.Global))
    throw new EdgecError("manifest-invalid", "the module does not export `__stack_pointer`");
  pointer.value = stacks.offset + (tid + 1) * stack_bytes;
  return exports as unknown as Record<string, Entry>;
}

/** What a pool thread does until it is told to leave; calls `ready` once it is instantiated. */
export function serve(start: ThreadStart, ready: () => void): void {
  const exports = instantiate({ memory: start.layout }, start.memory, start.module, start.tid);
  ready();
  const control = start.layout.control.offset;
  const words = new Int32Array(start.memory.buffer);
  let seen = start.doorbell;
  for (;;) {
    Atomics.wait(words, (control + DOORBELL) / 4, seen);
    const now = Atomics.load(words, (control + DOORBELL) / 4);
    if (now === seen) continue;
    seen = now;
    const entry = words[(control + ENTRY) / 4];
    if (entry < 0) return;
    const { name, parameters } = start.entries[entry];
    const at = (control + PARAMETERS) / 4;
    exports[name](start.tid, start.threads, ...words.subarray(at, at + parameters));
  }
}

/** The message that starts a pool thread. */
export interface ThreadStart {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  layout: Manifest["memory"];
  tid: number;
  threads: number;
  /** In the order of their indices in the control region. */
  entries: { name: string; parameters: number }[];
  doorbell: number;
}

/** Tells pool threads to leave. */
export function ringLeave(memory: WebAssembly.Memory, control: number): void {
  const words = new Int32Array(memory.buffer);
  words[(control + ENTRY) / 4] = -1;
  Atomics.add(words, (control + DOORBELL) / 4, 1);
  Atomics.notify(words, (control + DOORBELL) / 4);
}

export function readDoorbell(memory: WebAssembly.Memory, control: number): number {
  return Atomics.load(new Int32Array(memory.buffer), (control + DOORBELL) / 4);
}
