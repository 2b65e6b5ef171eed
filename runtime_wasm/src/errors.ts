/** Every error that the runtime raises on purpose. */

/** Verdicts about a bundle, the words of docs/bundle-format.md. */
export type BundleFinding =
  "manifest-invalid" | "version-unsupported" | "file-missing" | "file-unexpected" | "length-mismatch" | "hash-mismatch";

export type ErrorCode =
  | BundleFinding
  | "network" // the server was not reached, or the connection broke, after all retries
  | "http" // the server answered, but with an error status or a page instead of the file
  | "source" // a custom `BundleSource` failed
  | "aborted" // the caller's AbortSignal; `name` is "AbortError"
  | "out-of-memory"
  | "unsupported-browser" // no WebAssembly SIMD, or WebAssembly is forbidden by a content security policy
  | "worker-failed" // the worker's script could not be loaded, or the worker died
  | "trap" // the model's code hit a WebAssembly trap; the model has to be loaded again
  | "invalid-argument"
  | "context-full" // the prompt has more tokens than the context
  | "unsupported" // the bundle does not offer what was asked for (no chat template, no such task)
  | "template" // the chat template cannot be rendered with these messages
  | "tokenizer" // tokenizer.json cannot be used
  | "image" // an image cannot be decoded
  | "audio" // a sound cannot be decoded
  | "disposed"
  | "internal";

export interface ErrorDetails {
  /** A second sentence that says what to do. */
  hint?: string;
  /** The bundle's file that the error is about. */
  file?: string;
  /** HTTP status, for the code `http`. */
  status?: number;
  cause?: unknown;
}

/** `message` is one sentence without a final period; `code` is stable and made for programs. */
export class EdgecError extends Error {
  readonly code: ErrorCode;
  readonly hint?: string;
  readonly file?: string;
  readonly status?: number;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = code === "aborted" ? "AbortError" : "EdgecError";
    this.code = code;
    if (details.hint !== undefined) this.hint = details.hint;
    if (details.file !== undefined) this.file = details.file;
    if (details.status !== undefined) this.status = details.status;
  }
}

/** An error as it crosses from one thread to another. */
export interface WireError {
  code: ErrorCode;
  message: string;
  hint?: string;
  file?: string;
  status?: number;
  stack?: string;
}

export function toWire(error: unknown): WireError {
  const known = asEdgecError(error);
  const { code, message, hint, file, status } = known;
  const stack = code === "internal" && error instanceof Error ? error.stack : undefined;
  return { code, message, hint, file, status, stack };
}

export function fromWire(wire: WireError): EdgecError {
  const { code, message, hint, file, status } = wire;
  return new EdgecError(code, message, { hint, file, status, cause: wire.stack });
}

/** What the caller sees: anything unforeseen becomes `internal`, with the original as its cause. */
export function asEdgecError(error: unknown): EdgecError {
  if (error instanceof EdgecError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new EdgecError("internal", `an unexpected error occurred: ${message}`, { cause: error });
}

export function abortError(): EdgecError {
  return new EdgecError("aborted", "the operation was aborted");
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError();
}
