// The two 8-bit floating-point formats of Micikevicius et al. 2022, four codes in a u32. Both are the start of an f16: e5m2 its upper half,
// e4m3 its upper half moved by a bit and with another bias. Values are rounded to the nearest code, ties to even; they are within range.

// Four codes as f16 by their bits, two in a word: those of the even bytes, those of the odd ones.
fn e5m2Halves(word: u32) -> vec2<u32> {
  return vec2<u32>(word << 8u, word) & vec2<u32>(0xff00ff00u);
}

// Of e4m3, 1 / 256 of the values.
fn e4m3Halves(word: u32) -> vec2<u32> {
  let upper = vec2<u32>(word << 8u, word);
  return (upper & vec2<u32>(0x80008000u)) | ((upper & vec2<u32>(0x7f007f00u)) >> vec2<u32>(1u));
}

// Signed bytes, each 1152 too large: as f16, 0x6400 + b is 1024 + b, and the sign bit's flip adds 128. Cheaper than converting integers.
fn biasedHalves(word: u32) -> vec2<u32> {
  return (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) ^ vec2<u32>(0x64806480u);
}

// In the order of their bytes.
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
