/**
 * JSON texts with long objects and arrays in them, read some members at a time: parsed as a whole, a tokenizer.json of 2 MB becomes
 * 16 MiB of objects. Positions are bytes; what is not JSON makes `JSON.parse` throw sooner or later.
 */

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
const BLANK = 0x20;
const OPENING = 0x7b; // brackets are braces without this bit:
const BRACE = 0x20;
const CLOSING = 0x7d;

/** Bytes that are parsed at a time, at least. */
const PIECE_BYTES = 1 << 14;

const text = (json: Uint8Array, from: number, to?: number): string => new TextDecoder().decode(json.subarray(from, to));

function endOfString(json: Uint8Array, at: number): number {
  do at += json[at] === BACKSLASH ? 2 : 1;
  while (at < json.length && json[at] !== QUOTE);
  return at + 1;
}

/** Where the member that begins at `at` ends: at a comma, or where its object or array closes. */
function endOfMember(json: Uint8Array, at: number): number {
  for (let depth = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === QUOTE) at = endOfString(json, at) - 1;
    else if (byte === COMMA && depth === 0) return at;
    else if ((byte | BRACE) === OPENING) depth++;
    else if ((byte | BRACE) === CLOSING && depth-- === 0) return at;
  }
  return at;
}

const skipBlanks = (json: Uint8Array, at: number): number => {
  while (json[at] <= BLANK) at++;
  return at;
};

/** Where the values of the object that opens at `open` begin, the last of each key. */
export function membersOf(json: Uint8Array, open: number): Map<string, number> {
  const found = new Map<string, number>();
  for (let at = open; at === open || json[at] === COMMA; at = endOfMember(json, at + 1)) {
    const start = skipBlanks(json, at + 1);
    if (json[start] !== QUOTE) continue;
    const end = endOfString(json, start);
    found.set(JSON.parse(text(json, start, end)) as string, skipBlanks(json, skipBlanks(json, end) + 1));
  }
  return found;
}

/** What the object or array that opens at `open` holds, some members at a time: objects or arrays of them. */
export function* pieces(json: Uint8Array, open: number): Generator<unknown> {
  const [opening, closing] = json[open] === OPENING ? "{}" : "[]";
  for (let start = open + 1; ; ) {
    let end = endOfMember(json, start);
    while (json[end] === COMMA && end - start < PIECE_BYTES) end = endOfMember(json, end + 1);
    yield JSON.parse(opening + text(json, start, end) + closing);
    if (json[end] !== COMMA) return;
    start = end + 1;
  }
}

/** The whole, but for the objects and arrays that open at `without`: these are empty. */
export function parseWithout(json: Uint8Array, without: readonly number[]): unknown {
  let result = "";
  let from = 0;
  for (const open of [...without].sort((a, b) => a - b)) {
    result += text(json, from, open + 1);
    for (from = open + 1; ; from++) {
      from = endOfMember(json, from);
      if (json[from] !== COMMA) break;
    }
  }
  return JSON.parse(result + text(json, from));
}

/** Whether what begins at `at` is an object, or otherwise an array. */
export const isObject = (json: Uint8Array, at: number | undefined): at is number => json[at!] === OPENING;
export const isArray = (json: Uint8Array, at: number | undefined): at is number => json[at!] === (OPENING & ~BRACE);

/** Where the text's only value begins. */
export const rootOf = (json: Uint8Array): number => skipBlanks(json, 0);
