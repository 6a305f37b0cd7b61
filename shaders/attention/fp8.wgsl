// The two 8-bit floating-point formats of Micikevicius et al. 2022, four codes in a u32. Both are the start of an f16: e5m2 its upper half,
// e4m3 its upper half moved by a bit and with another bias. Values are rounded to the nearest code, ties to even; they are within range.

fn unpackE5m2(word: u32) -> vec4f {
  let even = unpack2x16float((word << 8u) & 0xff00ff00u);
  let odd = unpack2x16float(word & 0xff00ff00u);
  return vec4f(even.x, odd.x, even.y, odd.y);
}

// Of e4m3, 1 / 256 of the values.
fn unpackE4m3Codes(word: u32) -> vec4f {
  let even = unpack2x16float(upperE4m3(word << 8u));
  let odd = unpack2x16float(upperE4m3(word));
  return vec4f(even.x, odd.x, even.y, odd.y);
}

// The odd bytes of a word as f16.
fn upperE4m3(word: u32) -> u32 {
  return (word & 0x80008000u) | ((word & 0x7f007f00u) >> 1u);
}

fn unpackE4m3(word: u32) -> vec4f {
  return 256.0 * unpackE4m3Codes(word);
}

// Signed bytes, each 1152 too large: as f16, 0x6400 + b is 1024 + b, and the sign bit's flip adds 128. Cheaper than converting integers.
fn unpackBiased(word: u32) -> vec4f {
  let even = unpack2x16float((word & 0x00ff00ffu) ^ 0x64806480u);
  let odd = unpack2x16float(((word >> 8u) & 0x00ff00ffu) ^ 0x64806480u);
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
