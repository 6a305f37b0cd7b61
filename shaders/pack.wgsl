// Eight values as two vectors, and the 16-bit formats that they are stored in. A 16-byte load is the unit of every storage format;
// nothing here needs the feature shader-f16.

struct Eight {
  low: vec4f,
  high: vec4f,
}

fn unpackHalf8(words: vec4<u32>) -> Eight {
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
  );
}

const largestHalf = 65504.0;

fn clampHalf8(values: Eight) -> Eight {
  return Eight(clamp(values.low, vec4f(-largestHalf), vec4f(largestHalf)), clamp(values.high, vec4f(-largestHalf), vec4f(largestHalf)));
}

// Of values that f16 holds.
fn packHalf8(values: Eight) -> vec4<u32> {
  return vec4<u32>(
    pack2x16float(values.low.xy),
    pack2x16float(values.low.zw),
    pack2x16float(values.high.xy),
    pack2x16float(values.high.zw),
  );
}

fn unpackBrain2(word: u32) -> vec2f {
  return vec2f(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

fn unpackBrain8(words: vec4<u32>) -> Eight {
  return Eight(
    vec4f(unpackBrain2(words.x), unpackBrain2(words.y)),
    vec4f(unpackBrain2(words.z), unpackBrain2(words.w)),
  );
}

fn dot8(a: Eight, b: Eight) -> f32 {
  return dot(a.low, b.low) + dot(a.high, b.high);
}
