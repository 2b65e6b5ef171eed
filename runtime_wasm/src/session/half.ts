/** 16-bit floats as Float32Array: no engine that we support has arrays of both kinds. Rounded to nearest even. */

type Half = "float16" | "bfloat16";

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

export function isHalf(dtype: string): dtype is Half {
  return dtype === "float16" || dtype === "bfloat16";
}

export function decodeHalves(dtype: Half, codes: Uint16Array): Float32Array {
  return Float32Array.from(codes, dtype === "float16" ? decodeFloat16 : decodeBfloat16);
}

export function encodeHalves(dtype: Half, values: Float32Array): Uint16Array {
  return Uint16Array.from(values, dtype === "float16" ? encodeFloat16 : encodeBfloat16);
}

function decodeBfloat16(code: number): number {
  bits[0] = code << 16;
  return float[0];
}

function decodeFloat16(code: number): number {
  const rest = code & 0x7fff;
  bits[0] = rest << 13;
  if (rest >= 0x7c00) bits[0] |= 0x7f800000;
  else float[0] *= 2 ** 112;
  bits[0] |= (code & 0x8000) << 16;
  return float[0];
}

function encodeBfloat16(value: number): number {
  float[0] = value;
  const sign = (bits[0] >>> 16) & 0x8000;
  const magnitude = bits[0] & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7fc0;
  return sign | ((magnitude + 0x7fff + ((magnitude >>> 16) & 1)) >>> 16);
}

/** Giesen, "Float to half done quick", 2012: adding 1/2 leaves the last bits of a subnormal, rounded by the FPU. */
function encodeFloat16(value: number): number {
  float[0] = value;
  const sign = (bits[0] >>> 16) & 0x8000;
  const magnitude = bits[0] & 0x7fffffff;
  if (magnitude >= 0x47800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude < 0x38800000) {
    bits[0] = magnitude;
    float[0] += 0.5;
    return sign | (bits[0] - 0x3f000000);
  }
  return sign | ((magnitude - (112 << 23) + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}
