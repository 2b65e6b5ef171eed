/** What this engine can run, found out with tiny modules. */

import { EdgecError } from "../errors.js";
import { type Manifest, VARIANTS, type Variant } from "../bundle/manifest.js";
import { canBlock, hardwareThreads } from "../platform.js";

export interface Features {
  simd128: boolean;
  /** The relaxed dot product with int32 sums is there and right. */
  relaxed: boolean;
  /** The relaxed dot product with int16 sums is there and right. */
  relaxed16: boolean;
  /** The one with int32 sums is made of the one with int16 sums and more: x86 without VNNI. */
  int32SumsAreSlow: boolean;
  /** Shared memory is there, and this thread may wait on it. */
  threads: boolean;
}

const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];

// (func (result v128) (i8x16.splat (i32.const 0)))
const SIMD_MODULE = [
  ...HEADER,
  ...[0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b], // type () -> v128
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x0a, 0x08, 0x01, 0x06, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0x0b],
];

// Reads a, b, c at 0, 16, 32. (memory 1) exported as "m", (func) as "f":
// c = dot(a, b, c), twice through the same local as kernels do; stores c at 48, then dot(a, b, loaded c) at 64 and dot16(a, b) at 80.
const constant = (address: number): number[] => [0x41, 0x80 | (address & 0x7f), address >> 7]; // i32.const
const load = (address: number): number[] => [...constant(address), 0xfd, 0x00, 0x04, 0x00]; // v128.load align=16
const STORE = [0xfd, 0x0b, 0x04, 0x00];
const DOT = [0xfd, 0x93, 0x02]; // i32x4.relaxed_dot_i8x16_i7x16_add_s
const DOT16 = [0xfd, 0x92, 0x02]; // i16x8.relaxed_dot_i8x16_i7x16_s
const GET = 0x20;
const SET = 0x21;

const RELAXED_BODY = [
  ...[0x01, 0x03, 0x7b], // three v128 locals
  ...[...load(0), SET, 0, ...load(16), SET, 1, ...load(32), SET, 2],
  ...[GET, 0, GET, 1, GET, 2, ...DOT, SET, 2],
  ...[GET, 0, GET, 1, GET, 2, ...DOT, SET, 2],
  ...[...constant(48), GET, 2, ...STORE],
  ...[...constant(64), ...load(0), ...load(16), ...load(32), ...DOT, ...STORE],
  ...[...constant(80), ...load(0), ...load(16), ...DOT16, ...STORE],
  0x0b,
];

const size = (bytes: number[]): number[] => [0x80 | (bytes.length & 0x7f), bytes.length >> 7];

const RELAXED_MODULE = [
  ...HEADER,
  ...[0x01, 0x04, 0x01, 0x60, 0x00, 0x00],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x05, 0x03, 0x01, 0x00, 0x01],
  ...[0x07, 0x09, 0x02, 0x01, 0x6d, 0x02, 0x00, 0x01, 0x66, 0x00, 0x00],
  ...[0x0a, ...size([0x01, ...size(RELAXED_BODY), ...RELAXED_BODY]), 0x01, ...size(RELAXED_BODY), ...RELAXED_BODY],
];

/**
 * Runs the relaxed dots once in a function that no optimiser has seen, on the operands that edgec's kernels use: signed bytes times
 * unsigned 4-bit codes. Such inputs have one right answer; V8 11.3 (Node 20) gets it wrong until the function is hot.
 *
 * Then once more with operands that the standard leaves to the processor: only x86 before VNNI adds pairs of products in saturating
 * halfwords first.
 */
function probeRelaxed(): Pick<Features, "relaxed" | "relaxed16" | "int32SumsAreSlow"> {
  const none = { relaxed: false, relaxed16: false, int32SumsAreSlow: false };
  const bytes = new Uint8Array(RELAXED_MODULE);
  if (!WebAssembly.validate(bytes)) return none;
  let exports: WebAssembly.Exports;
  try {
    exports = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
  } catch {
    return none; // a content security policy; compiling the model will say so
  }
  const { m, f } = exports as { m: WebAssembly.Memory; f: () => void };
  const a = new Int8Array(m.buffer, 0, 16);
  const b = new Int8Array(m.buffer, 16, 16);
  const c = new Int32Array(m.buffer, 32, 4);
  const twice = new Int32Array(m.buffer, 48, 4);
  const once = new Int32Array(m.buffer, 64, 4);
  const pairs = new Int16Array(m.buffer, 80, 8);
  for (let i = 0; i < 16; i++) {
    a[i] = (i * 83 + 128) % 256; // from -128 on, all over the range
    b[i] = (i * 7 + 15) % 16;
  }
  c.set([1, -2, 300_000, -(2 ** 20)]);
  f();
  const sum = (first: number, count: number): number => {
    let dot = 0;
    for (let i = first; i < first + count; i++) dot += a[i] * b[i];
    return dot;
  };
  const relaxed = [0, 1, 2, 3].every(
    (lane) => once[lane] === c[lane] + sum(4 * lane, 4) && twice[lane] === c[lane] + 2 * sum(4 * lane, 4),
  );
  const relaxed16 = pairs.every((value, lane) => value === sum(2 * lane, 2));
  a.fill(-128);
  b.fill(-1);
  c.fill(0);
  f();
  return { relaxed, relaxed16, int32SumsAreSlow: once[0] === 2 * -(2 ** 15) };
}

function sharedMemoryWorks(): boolean {
  if (typeof SharedArrayBuffer === "undefined" || !canBlock()) return false;
  if (globalThis.crossOriginIsolated === false) return false;
  try {
    return new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}

let detected: Features | undefined;

export function detectFeatures(): Features {
  if (typeof WebAssembly !== "object")
    return { simd128: false, relaxed: false, relaxed16: false, int32SumsAreSlow: false, threads: false };
  detected ??= {
    simd128: WebAssembly.validate(new Uint8Array(SIMD_MODULE)),
    ...probeRelaxed(),
    threads: sharedMemoryWorks(),
  };
  return detected;
}

type InstructionSet = "simd128" | "relaxed" | "relaxed16";

const isThreaded = (variant: Variant): boolean => variant.endsWith("-threads");
const instructionSet = (variant: Variant): InstructionSet => variant.replace("-threads", "") as InstructionSet;

/** Small machines use all cores; on larger ones half, since the other half are mostly sibling threads or slow cores. */
export function defaultThreads(hardware: number): number {
  return hardware <= 4 ? hardware : Math.max(4, Math.floor(hardware / 2));
}

export interface Choice {
  variant: Variant;
  threads: number;
}

/** The module to load and the number of threads; throws `unsupported-browser` or `invalid-argument`. */
export function chooseVariant(
  manifest: Pick<Manifest, "modules" | "memory">,
  features: Features,
  wanted: { variant?: Variant; threads?: number },
  hardware: number = hardwareThreads(),
): Choice {
  if (wanted.threads !== undefined && (!Number.isInteger(wanted.threads) || wanted.threads < 1)) {
    throw new EdgecError("invalid-argument", `\`threads\` is ${wanted.threads}, a whole number from 1 is needed`);
  }
  const threads = Math.min(wanted.threads ?? defaultThreads(hardware), manifest.memory.max_threads);
  if (wanted.variant !== undefined) return checkVariant(wanted.variant, manifest, features, threads);
  const sets: InstructionSet[] = features.int32SumsAreSlow
    ? ["relaxed16", "relaxed", "simd128"]
    : ["relaxed", "relaxed16", "simd128"];
  const preferred: Variant[] = threads > 1 ? [...sets.map((set): Variant => `${set}-threads`), ...sets] : sets;
  const variant = preferred.find((name) => manifest.modules[name] && runs(name, features));
  if (!variant) {
    throw new EdgecError("unsupported-browser", "this browser has no WebAssembly SIMD", {
      hint: "use Chrome or Edge 91, Firefox 89, Safari 16.4 or newer",
    });
  }
  return { variant, threads: isThreaded(variant) ? threads : 1 };
}

function runs(variant: Variant, features: Features): boolean {
  return features.simd128 && features[instructionSet(variant)] && (!isThreaded(variant) || features.threads);
}

function checkVariant(
  variant: Variant,
  manifest: Pick<Manifest, "modules">,
  features: Features,
  threads: number,
): Choice {
  if (!VARIANTS.includes(variant))
    throw new EdgecError("invalid-argument", `\`${variant}\` is not a variant, there are ${VARIANTS.join(", ")}`);
  if (!manifest.modules[variant]) throw new EdgecError("invalid-argument", `the bundle has no \`${variant}\` module`);
  if (!runs(variant, features)) {
    const why =
      isThreaded(variant) && !features.threads
        ? "the page is not cross-origin isolated"
        : "the instructions are missing or wrong here";
    throw new EdgecError("unsupported-browser", `the variant \`${variant}\` cannot run: ${why}`);
  }
  return { variant, threads: isThreaded(variant) ? threads : 1 };
}
