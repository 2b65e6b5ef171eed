/** Untrusted JSON: strict syntax, then typed access that names the offending field. Twin of `edgec/bundle/json_input.py`. */

import { EdgecError } from "../errors.js";

export const MAX_DEPTH = 64;

export function invalid(where: string, problem: string): EdgecError {
  return new EdgecError("manifest-invalid", `the manifest is invalid: \`${where}\` ${problem}`, {
    file: "manifest.json",
  });
}

/** The root of a JSON document in UTF-8: no byte order mark, no key twice, at most `MAX_DEPTH` levels. */
export function parseJson(data: Uint8Array): Field {
  let value: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    value = JSON.parse(text);
    checkKeys(text);
  } catch (error) {
    throw invalid("manifest.json", `is not JSON in UTF-8 (${(error as Error).message})`);
  }
  checkDepth(value);
  return new Field(value, "");
}

/** `text` is valid JSON; throws if an object has a key twice (JSON.parse keeps the last one). */
function checkKeys(text: string): void {
  const objects: (Set<string> | null)[] = [];
  let keys: Set<string> | null = null;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === "{" || character === "[") {
      objects.push(keys);
      keys = character === "{" ? new Set() : null;
    } else if (character === "}" || character === "]") {
      keys = objects.pop() ?? null;
    } else if (character === '"') {
      const start = at;
      for (at++; text[at] !== '"'; at++) if (text[at] === "\\") at++;
      if (!keys || !isKey(text, at + 1)) continue;
      const key = JSON.parse(text.slice(start, at + 1)) as string;
      if (keys.has(key)) throw new SyntaxError(`an object has the key ${JSON.stringify(key)} twice`);
      keys.add(key);
    }
  }
}

function isKey(text: string, at: number): boolean {
  while (text[at] === " " || text[at] === "\n" || text[at] === "\r" || text[at] === "\t") at++;
  return text[at] === ":";
}

function checkDepth(root: unknown): void {
  let level: unknown[] = [root];
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    level = level.flatMap((value) => (typeof value === "object" && value !== null ? Object.values(value) : []));
    if (level.length === 0) return;
  }
  throw invalid("manifest.json", `nests deeper than ${MAX_DEPTH} levels`);
}

/** A JSON value and its path. Every accessor throws `manifest-invalid` when the value is something else. */
export class Field {
  private readonly path: string;

  constructor(
    readonly value: unknown,
    path: string,
  ) {
    this.path = path;
  }

  fail(problem: string): EdgecError {
    return invalid(this.path || "manifest.json", problem);
  }

  get isNull(): boolean {
    return this.value === null;
  }

  object(): Record<string, unknown> {
    if (typeof this.value !== "object" || this.value === null || Array.isArray(this.value))
      throw this.fail("is not an object");
    return this.value as Record<string, unknown>;
  }

  /** The object has all of `required`, maybe some of `optional`, nothing else. */
  fields(required: readonly string[], optional: readonly string[] = []): void {
    const have = this.object();
    for (const name of required) if (!Object.hasOwn(have, name)) throw this.fail(`lacks \`${name}\``);
    for (const name of Object.keys(have)) {
      if (!required.includes(name) && !optional.includes(name)) throw this.fail(`has an unknown field \`${name}\``);
    }
  }

  at(name: string): Field {
    const found = this.find(name);
    if (!found) throw this.fail(`lacks \`${name}\``);
    return found;
  }

  find(name: string): Field | undefined {
    const object = this.object();
    return Object.hasOwn(object, name) ? new Field(object[name], this.child(name)) : undefined;
  }

  entries(): [string, Field][] {
    return Object.entries(this.object()).map(([name, value]) => [name, new Field(value, this.child(name))]);
  }

  private child(name: string): string {
    return this.path ? `${this.path}.${name}` : name;
  }

  elements(): Field[] {
    if (!Array.isArray(this.value)) throw this.fail("is not a list");
    return this.value.map((value, index) => new Field(value, `${this.path}[${index}]`));
  }

  integer(low: number, high: number = Number.MAX_SAFE_INTEGER, multiple = 1): number {
    const value = this.value;
    if (typeof value !== "number" || !Number.isInteger(value)) throw this.fail("is not an integer");
    if (value < low || value > high) throw this.fail(`is ${value}, allowed are ${low} to ${high}`);
    if (value % multiple !== 0) throw this.fail(`is ${value}, not a multiple of ${multiple}`);
    return value;
  }

  number(): number {
    if (typeof this.value !== "number" || !Number.isFinite(this.value)) throw this.fail("is not a finite number");
    return this.value;
  }

  boolean(): boolean {
    if (typeof this.value !== "boolean") throw this.fail("is not true or false");
    return this.value;
  }

  string(pattern?: RegExp): string {
    if (typeof this.value !== "string") throw this.fail("is not a string");
    if (pattern && !pattern.test(this.value))
      throw this.fail(`is ${shown(this.value)}, which does not match \`${pattern.source}\``);
    return this.value;
  }

  choice<T extends string>(allowed: readonly T[]): T {
    if (typeof this.value !== "string" || !allowed.includes(this.value as T)) {
      throw this.fail(`is ${shown(this.value)}, allowed are ${allowed.map((name) => `\`${name}\``).join(", ")}`);
    }
    return this.value as T;
  }

  strings(): string[] {
    return this.elements().map((element) => element.string());
  }

  orNull<T>(read: (field: Field) => T): T | null {
    return this.isNull ? null : read(this);
  }
}

function shown(value: unknown): string {
  const text = JSON.stringify(value);
  return `\`${text.length <= 60 ? text : `${text.slice(0, 57)}...`}\``;
}
