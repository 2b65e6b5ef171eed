/** SHA-256 in hexadecimal. `crypto.subtle` is missing on pages without https; then a JavaScript one is loaded. */

export async function sha256(data: Uint8Array): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  if (subtle) {
    const digest = await subtle.digest("SHA-256", data as Uint8Array<ArrayBuffer>);
    return toHex(new Uint8Array(digest));
  }
  const noble = await import("@noble/hashes/sha2.js");
  return toHex(noble.sha256(data));
}

export function toHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

export function fromHex(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}
