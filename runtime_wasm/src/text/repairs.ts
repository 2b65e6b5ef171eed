/** Parts of `@huggingface/tokenizers` that do otherwise than the Rust tokenizers, put right in place. */

/** What `\s` is for the Rust tokenizers; JavaScript's has no U+0085 but U+FEFF. For use in a character class. */
export const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const GPT2 =
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`;

// Blocks of ideographs, as in BERT's own code.
const IDEOGRAPH =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

interface Part {
  config?: { type?: string; individual_digits?: boolean; lowercase?: boolean };
  [name: string]: unknown;
}

/** A normalizer, pre-tokenizer or decoder, and those in its sequence. */
export function repair(part: unknown): void {
  const { config, normalizers, tokenizers, decoders } = (part ?? {}) as Part;
  REPAIRS[config?.type ?? ""]?.(part as Part);
  for (const inner of [normalizers, tokenizers, decoders]) if (Array.isArray(inner)) inner.forEach(repair);
}

const REPAIRS: Record<string, (part: Part) => void> = {
  // Dropped a byte order mark, and counted broken characters otherwise.
  ByteFallback: (part) => void (part.decode_chain = byteFallback),
  ByteLevel: (part) => void ("pattern" in part && (part.pattern = new RegExp(GPT2, "gu"))),
  // Looked at halves of surrogate pairs, and minded where a word ends when it lowered a sigma.
  BertNormalizer: (part) => {
    const normalize = (part.normalize as (text: string) => string).bind(part);
    part.tokenize_chinese_chars = (text: string): string => text.replace(IDEOGRAPH, " $& ");
    if (part.config?.lowercase) part.normalize = (text: string): string => normalize(lowered(text));
  },
  // Knew no digits but those of ASCII.
  Digits: (part) => {
    const count = part.config?.individual_digits ? "" : "+";
    part.pattern = new RegExp(`\\P{N}+|\\p{N}${count}`, "gu");
  },
  Lowercase: (part) => void (part.normalize = lowered),
};

/** Each character by itself. */
function lowered(text: string): string {
  let result = "";
  for (const char of text) result += char.toLowerCase();
  return result;
}

/** Runs of tokens such as `<0xE2>` become their text, or U+FFFD for each byte of a run that is no UTF-8. */
function byteFallback(tokens: string[]): string[] {
  const result: string[] = [];
  let bytes: number[] = [];
  const flush = (): void => {
    if (bytes.length === 0) return;
    try {
      result.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes)));
    } catch {
      for (const _ of bytes) result.push("\ufffd");
    }
    bytes = [];
  };
  for (const token of tokens) {
    if (isByte(token)) {
      bytes.push(Number.parseInt(token.slice(3, 5), 16));
    } else {
      flush();
      result.push(token);
    }
  }
  flush();
  return result;
}

export const isByte = (token: string): boolean => /^<0x[0-9A-Fa-f]{2}>$/.test(token);
