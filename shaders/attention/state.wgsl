// Online softmax (Milakov and Gimelshein 2018). WGSL may assume that infinities do not exist, so "no key seen yet" is a finite
// sentinel, compared exactly and never put into arithmetic.

const noScore: f32 = -3.0e38;
// A bias of at most this masks.
const maskedBias: f32 = -1.0e30;

// The factor that carries sums taken under `before` over to a larger maximum `after`.
fn rescale(before: f32, after: f32) -> f32 {
  return select(exp(before - after), 0.0, before == noScore);
}

// The same where scores are in powers of two, as the kernels by matrices keep them: a score times logE is one.
fn rescale2(before: f32, after: f32) -> f32 {
  return select(exp2(before - after), 0.0, before == noScore);
}

const logE = 1.4426950408889634; // by 2

// exp(score - maximum), and 0 for a key that is masked, also while every key so far is.
fn weight(score: f32, maximum: f32) -> f32 {
  return select(exp(score - maximum), 0.0, score == noScore);
}

// A weight of 0 stays one whatever the scale, which may be that of a key that nobody sees.
fn scaledWeight(p: f32, scale: f32) -> f32 {
  return select(0.0, p * scale, p > 0.0);
}

// The log-sum-exp of a row; the sentinel for a row that saw no key.
fn logSumExp(maximum: f32, sum: f32) -> f32 {
  return select(maximum + log(sum), noScore, sum == 0.0);
}

// Maps floats to u32 so that the order is kept: a maximum over a workgroup is then an atomicMax. The map's own start value is 0.
fn orderedBits(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn fromOrderedBits(bits: u32) -> f32 {
  return select(bitcast<f32>(~bits), bitcast<f32>(bits & 0x7fffffffu), (bits & 0x80000000u) != 0u);
}
