// How the decode kernels multiply values in 8 bits where the device has shader-f16: in pairs of f16, which many GPUs multiply as fast as single f32, and
// which codes become by their bits alone. All codes are exact. Weights are rounded to f16, and what the keys of one round add to an output is summed up in
// f16, then in f32. The reference of a head is such that no sum overflows: it is not a score, but a score and the logarithm of its value's scale.
//
// Four codes are in the order 0, 2, 1, 3: a word's even ones, then its odd ones. The prelude has `unpackHalves(load, v)`, `halvesTop`, their largest
// magnitude, `halvesFactor`, which makes them values without a scale, and `valueShift`, by which codes of values are to be multiplied first.

alias Codes = vec4<f16>;
alias Share = f16;
alias Shares = vec4<f16>;
alias ShareWord = u32;
alias Outputs = vec4<f16>;
const sharesPerWord = 2u;

// A new reference is taken when a weight would become too high, and then such that it has this left: e^4 leaves weights of 1e-7 of the largest
// something to be rounded to.
const slack = 4.0;

const valueFactor = halvesFactor / valueShift;
const mostShare = largestHalf / (halvesTop * valueShift * f32(keysOfCrew));

fn valueCodes(load: PoolLoad, v: u32) -> Codes {
  if (valueShift != 1.0) {
    return f16(valueShift) * unpackHalves(load, v);
  }
  return unpackHalves(load, v);
}

// Two halves by their bits. Compilers see that the way by f32 changes nothing; not all have a bitcast to vec2<f16>.
fn halvesOf(bits: u32) -> vec2<f16> {
  return vec2<f16>(unpack2x16float(bits));
}

fn codesOf(halves: vec2<u32>) -> Codes {
  return Codes(halvesOf(halves.x), halvesOf(halves.y));
}

fn unbiasedCodesOf(halves: vec2<u32>) -> Codes {
  return codesOf(halves) - 1152.0h;
}

fn levelOf(score: f32, valueScale: f32) -> f32 {
  return score + (log(max(valueScale, 1e-20) / mostShare) + slack);
}

fn shareWord(first: f32, second: f32) -> ShareWord {
  return pack2x16float(vec2f(first, second));
}

fn shareOf(word: ShareWord, i: u32) -> Share {
  return halvesOf(word)[i];
}

fn beginOutputs(accumulated: vec4f) -> Outputs {
  return Outputs(0.0h);
}

fn addShare(outputs: Outputs, share: Share, codes: Codes) -> Outputs {
  return fma(Codes(share), codes, outputs);
}

fn endOutputs(accumulated: vec4f, outputs: Outputs) -> vec4f {
  return accumulated + vec4f(outputs).xzyw;
}
