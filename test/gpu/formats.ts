/** 16-bit and 8-bit floats on the host, for the specs. They share no code with `src`. */
import { roundToHalf } from './reference.ts';

export type Format = 'f32' | 'f16' | 'bf16';

/** The code of the nearest 16-bit float (ties to even). */
export function encodeHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(roundToHalf(value));
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | (size * 2 ** 24);
  const exponent = Math.floor(Math.log2(size));
  return sign | (((exponent + 14) << 10) + (size / 2 ** exponent) * 1024);
}

export function decodeHalf(code: number): number {
  const exponent = (code >> 10) & 31;
  const size = exponent === 0 ? (code & 1023) * 2 ** -24 : (1024 + (code & 1023)) * 2 ** (exponent - 25);
  return code & 0x8000 ? -size : size;
}

/** The code of the nearest bfloat16 (ties to even). */
export function encodeBrain(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0];
  return (bits + 0x7fff + ((bits >> 16) & 1)) >>> 16;
}

export function decodeBrain(code: number): number {
  return new Float32Array(Uint32Array.of(code << 16).buffer)[0];
}

/** fp8 with a sign, four bits of exponent with bias 7, three of mantissa; no infinities, 0x7f is NaN. */
export function decodeE4m3(code: number): number {
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7];
  if (exponent === 15 && mantissa === 7) return Number.NaN;
  const size = exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10);
  return code & 128 ? -size : size;
}

/**
 * Code `i` of the four of e4m3 in a word of a pool, as a byte: the odd ones are in bits 15 and 13 to 7 of a half, as f16 has them; of the even
 * ones bits 14 and 6 to 0, xor bits that lie six lower or higher.
 */
export function e4m3Code(word: number, i: number): number {
  const half = (word >>> ((i & 2) * 8)) & 0xffff;
  if (i % 2 === 1) return ((half >> 15) << 7) | ((half >> 7) & 127);
  const mixed = half ^ (half >> 6);
  return (((mixed >> 8) & 1) << 7) | (mixed & 127);
}

/** All codes of words, as bytes. */
export function e4m3Codes(words: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: 4 * words.length }, (_, i) => e4m3Code(words[i >> 2], i & 3));
}

/** fp8 with a sign, five bits of exponent with bias 15, two of mantissa, and infinities as in 16-bit floats, here NaN. */
export function decodeE5m2(code: number): number {
  const [exponent, mantissa] = [(code >> 2) & 31, code & 3];
  if (exponent === 31) return Number.NaN;
  const size = exponent === 0 ? mantissa * 2 ** -16 : (4 + mantissa) * 2 ** (exponent - 17);
  return code & 128 ? -size : size;
}

export interface Stored {
  /** As it goes to the GPU. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What these bytes mean. */
  readonly values: Float64Array;
}

/** Values in a storage format: what is stored, and what was lost by rounding known exactly. */
export function store(values: ArrayLike<number>, format: Format): Stored {
  if (format === 'f32') {
    const floats = Float32Array.from(values);
    return { bytes: new Uint8Array(floats.buffer), values: Float64Array.from(floats) };
  }
  const [encode, decode] = format === 'f16' ? [encodeHalf, decodeHalf] : [encodeBrain, decodeBrain];
  const codes = Uint16Array.from(values, encode);
  return { bytes: new Uint8Array(codes.buffer), values: Float64Array.from(codes, decode) };
}
