// The two 8-bit floating-point formats of Micikevicius et al. 2022, four codes in a u32. Both are the start of an f16: e5m2 its upper half,
// e4m3 its sign, and all but the first bit of the rest, with another bias. Values are rounded to the nearest code, ties to even; they are within range.

// Four codes as f16 by their bits, two in a word: the even ones, the odd ones. Those of e5m2 are bytes.
fn e5m2Halves(word: u32) -> vec2<u32> {
  return vec2<u32>(word << 8u, word) & vec2<u32>(0xff00ff00u);
}

const e4m3Bits = 0xbf80bf80u; // of two f16 that e4m3 has

// Of e4m3, 1 / 256 of the values. In each half of a word the odd code is where f16 has it, in bits 15 and 13 to 7. Bits 14 and 6 to 0 are left for
// the even one, such that two shifts and one operation of three inputs bring it to the same places: stored are its bits xor the odd code's.
fn e4m3Halves(word: u32) -> vec2<u32> {
  return vec2<u32>((word << 7u) ^ (word << 1u), word) & vec2<u32>(e4m3Bits);
}

// The word that holds four codes, given as bytes.
fn e4m3Word(codes: u32) -> u32 {
  let upper = vec2<u32>(codes << 8u, codes);
  let halves = (upper & vec2<u32>(0x80008000u)) | ((upper & vec2<u32>(0x7f007f00u)) >> vec2<u32>(1u));
  let mixed = (halves.x ^ (halves.y << 1u)) & e4m3Bits;
  // The lowest bit meets the one six above it, which is mixed itself.
  let rest = ((mixed >> 7u) & 0x007f007fu) ^ ((mixed >> 13u) & 0x00010001u);
  return halves.y | rest | (((halves.x >> 1u) ^ (halves.y << 6u)) & 0x40004000u);
}

// Signed bytes, each 1152 too large: as f16, 0x6400 + b is 1024 + b, and the sign bit's flip adds 128. Cheaper than converting integers.
fn biasedHalves(word: u32) -> vec2<u32> {
  return (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) ^ vec2<u32>(0x64806480u);
}

// In their order.
fn valuesOf(halves: vec2<u32>) -> vec4f {
  let even = unpack2x16float(halves.x);
  let odd = unpack2x16float(halves.y);
  return vec4f(even.x, odd.x, even.y, odd.y);
}

// mantissaBits 3 with bias 7, or 2 with bias 15.
fn packFloat8(value: f32, mantissaBits: u32, bias: u32, largest: f32) -> u32 {
  let magnitude = min(abs(value), largest);
  let dropped = 23u - mantissaBits;
  let bits = bitcast<u32>(magnitude);
  let rounded = bits + (1u << (dropped - 1u)) - 1u + ((bits >> dropped) & 1u);
  let normal = (rounded >> dropped) - ((127u - bias) << mantissaBits);
  // The spacing of the codes below the smallest normal value is 2^(1 - bias - mantissaBits).
  let subnormal = u32(round(magnitude * bitcast<f32>((127u + bias + mantissaBits - 1u) << 23u)));
  let isSubnormal = bits < ((128u - bias) << 23u);
  return select(normal, subnormal, isSubnormal) | select(0u, 0x80u, value < 0.0);
}
