// How the decode kernels multiply values: in f32. A code times codeFactor, after codeOffset is added, is the value without its scale.

alias Codes = vec4f; // four of a value
alias Share = f32; // weight of a key, with its value's scale
alias Shares = vec4f; // of four heads
alias ShareWord = f32; // what a shuffle hands out
alias Outputs = vec4f; // four outputs while a round adds to them
const sharesPerWord = 1u;

// A new reference is taken when a score is higher by so much: e^16 is far from where sums of weights overflow, and from where the weights of a
// few thousand small ones are lost.
const slack = 16.0;

const valueFactor = codeFactor;

fn valueCodes(load: PoolLoad, v: u32) -> Codes {
  return unpackVector(load, v);
}

// What is compared with the reference, and becomes one.
fn levelOf(score: f32, valueScale: f32) -> f32 {
  return score;
}

fn shareWord(first: f32, second: f32) -> ShareWord {
  return first;
}

fn shareOf(word: ShareWord, i: u32) -> Share {
  return word;
}

fn beginOutputs(accumulated: vec4f) -> Outputs {
  return accumulated;
}

fn addShare(outputs: Outputs, share: Share, codes: Codes) -> Outputs {
  return outputs + share * codes;
}

fn endOutputs(accumulated: vec4f, outputs: Outputs) -> vec4f {
  return outputs;
}
