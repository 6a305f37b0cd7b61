// Chooses the next token of each row of logits, and says whether it ends the sequence: a workgroup takes one row, its invocations every
// so manieth token. Temperature 0 takes the largest logit (the lowest id among equals). Otherwise: top-k, then top-p within these, as
// thresholds on the logit, found by radix select; then the Gumbel-max trick, which needs no second pass over sorted probabilities.
// Ties at a threshold all stay in. The prelude says how many `invocations` there are: a power of two up to 256. The part in front of this
// one declares the bindings, and what a row's logits are: `logits.wgsl` as the model gave them, `adjusted.wgsl` with all else that can be asked.

const digits = 256u / invocations; // of the histogram, of each invocation

var<workgroup> bestScore: array<f32, invocations>;
var<workgroup> bestToken: array<u32, invocations>;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> cumulative: array<u32, invocations>;
var<workgroup> digitFound: u32;
var<workgroup> reachedAbove: u32;

// The best (score, token) of the workgroup; every invocation gets it. Two rounds, of about the root of the number each: fewer barriers
// than halving takes.
const group = 1u << (firstLeadingBit(invocations) / 2u);
const groups = invocations / group;

fn isBetter(a: u32, b: u32) -> bool {
  return bestScore[a] > bestScore[b] || (bestScore[a] == bestScore[b] && bestToken[a] < bestToken[b]);
}

fn keepBest(first: u32, count: u32, stride: u32) {
  var best = first;
  for (var i = 1u; i < count; i++) {
    if (isBetter(first + i * stride, best)) {
      best = first + i * stride;
    }
  }
  bestScore[first] = bestScore[best];
  bestToken[first] = bestToken[best];
}

fn reduceBest(score: f32, token: u32, local: u32) -> u32 {
  bestScore[local] = score;
  bestToken[local] = token;
  workgroupBarrier();
  if (local < groups) {
    keepBest(local, group, groups);
  }
  workgroupBarrier();
  if (local == 0u) {
    keepBest(0u, groups, 1u);
  }
  return workgroupUniformLoad(&bestToken[0]);
}

// The sum over the workgroup, in a fixed order.
fn reduceSum(value: f32, local: u32) -> f32 {
  bestScore[local] = value;
  workgroupBarrier();
  if (local < groups) {
    for (var i = 1u; i < group; i++) {
      bestScore[local] += bestScore[local + i * groups];
    }
  }
  workgroupBarrier();
  if (local == 0u) {
    for (var i = 1u; i < groups; i++) {
      bestScore[0] += bestScore[i];
    }
  }
  return workgroupUniformLoad(&bestScore[0]);
}

// A number in (0, 1) from (seed, position, token): pcg3d of Jarzynski and Olano 2020.
fn uniformRandom(seed: u32, position: u32, token: u32) -> f32 {
  var v = vec3u(seed, position, token) * 1664525u + 1013904223u;
  v.x += v.y * v.z;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  v ^= v >> vec3u(16u);
  v.x += v.y * v.z;
  return (f32(v.x >> 9u) + 0.5) / 8388608.0;
}

// A Gumbel variate: -log(-log(1 - u)). WGSL's log is off by up to 2^-21 near 1, where it could be 0 and the variate infinite; the variates
// that win come from there, so a series (to u^4 / 5, relatively) takes its place.
fn gumbelRandom(seed: u32, position: u32, token: u32) -> f32 {
  let u = uniformRandom(seed, position, token);
  let series = u * (1.0 + u * (1.0 / 2.0 + u * (1.0 / 3.0 + u / 4.0)));
  return -log(select(-log(1.0 - u), series, u < 1.0 / 64.0));
}

struct Row {
  logits: RowLogits,
  maximum: f32,
  inverseTemperature: f32,
  massScale: f32, // probability to fixed point; 0: count tokens instead
}

// What a token counts: 1, or its probability in fixed point (integers add up in any order to the same sum).
fn tokenWeight(row: Row, logit: f32) -> u32 {
  if (row.massScale == 0.0) {
    return 1u;
  }
  return u32(exp((logit - row.maximum) * row.inverseTemperature) * row.massScale);
}

// The largest threshold (in ordered bits) such that the tokens at or above it, among those at or above `lowest`, weigh at least `wanted`.
fn selectThreshold(row: Row, lowest: u32, wanted: u32, local: u32) -> u32 {
  var prefix = 0u;
  var remaining = wanted;
  for (var shift = 24i; shift >= 0i; shift -= 8i) {
    let bits = u32(shift);
    for (var digit = local; digit < 256u; digit += invocations) {
      atomicStore(&histogram[digit], 0u);
    }
    workgroupBarrier();
    for (var token = local; token < args.vocabSize; token += invocations) {
      let logit = logitOf(row.logits, token);
      let ordered = orderedBits(logit);
      let samePrefix = bits == 24u || (ordered >> ((bits + 8u) & 31u)) == (prefix >> ((bits + 8u) & 31u));
      if (ordered >= lowest && samePrefix) {
        atomicAdd(&histogram[(ordered >> bits) & 255u], tokenWeight(row, logit));
      }
    }
    workgroupBarrier();
    // An invocation owns `digits` neighbouring digits. First the sums from its own upwards, over all invocations.
    let firstDigit = local * digits;
    var own = 0u;
    for (var i = 0u; i < digits; i++) {
      own += atomicLoad(&histogram[firstDigit + i]);
    }
    cumulative[local] = own;
    for (var stride = 1u; stride < invocations; stride *= 2u) {
      workgroupBarrier();
      var above = 0u;
      if (local + stride < invocations) {
        above = cumulative[local + stride];
      }
      workgroupBarrier();
      cumulative[local] += above;
    }
    if (local == 0u) {
      digitFound = 0u;
      reachedAbove = 0u;
    }
    workgroupBarrier();
    var reached = cumulative[local] - own;
    for (var i = digits; i > 0u; i--) {
      let weight = atomicLoad(&histogram[firstDigit + i - 1u]);
      if (reached < remaining && reached + weight >= remaining) {
        digitFound = firstDigit + i - 1u;
        reachedAbove = reached;
      }
      reached += weight;
    }
    let digit = workgroupUniformLoad(&digitFound);
    remaining -= workgroupUniformLoad(&reachedAbove);
    prefix |= digit << bits;
  }
  return max(prefix, lowest); // rounding may leave the sum just short of `wanted`
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let at = plan[SAMPLING] + workgroup.x * SAMPLING_WORDS;
  let sequence = plan[at + SAMPLING_SEQUENCE];
  let position = plan[at + SAMPLING_POSITION];
  let temperature = bitcast<f32>(plan[at + SAMPLING_TEMPERATURE]);
  let topK = plan[at + SAMPLING_TOP_K];
  let topP = bitcast<f32>(plan[at + SAMPLING_TOP_P]);
  let seed = plan[at + SAMPLING_SEED];
  let row = openRow(workgroup.x, at, local);

  var score = noScore;
  var token = 0u;
  for (var t = local; t < args.vocabSize; t += invocations) {
    let logit = logitOf(row, t);
    if (logit > score) {
      score = logit;
      token = t;
    }
  }
  var chosen = reduceBest(score, token, local);

  if (temperature > 0.0) {
    var scaled = Row(row, logitOf(row, chosen), 1.0 / max(temperature, 1e-30), 0.0);
    var threshold = leastLogit(row, scaled.maximum);
    if (topK > 0u && topK < args.vocabSize) {
      threshold = selectThreshold(scaled, threshold, topK, local);
    }
    if (topP < 1.0) {
      var mass = 0.0;
      for (var t = local; t < args.vocabSize; t += invocations) {
        let logit = logitOf(row, t);
        if (orderedBits(logit) >= threshold) {
          mass += exp((logit - scaled.maximum) * scaled.inverseTemperature);
        }
      }
      scaled.massScale = 1073741824.0 / reduceSum(mass, local);
      threshold = selectThreshold(scaled, threshold, max(1u, u32(topP * 1073741824.0)), local);
    }
    score = noScore;
    token = 0u;
    for (var t = local; t < args.vocabSize; t += invocations) {
      let logit = logitOf(row, t);
      if (orderedBits(logit) >= threshold) {
        let perturbed = (logit - scaled.maximum) * scaled.inverseTemperature + gumbelRandom(seed, position, t);
        if (perturbed > score) {
          score = perturbed;
          token = t;
        }
      }
    }
    workgroupBarrier();
    chosen = reduceBest(score, token, local);
  }

  let result = workgroup.x * resultWords();
  if (local == 0u) {
    let flags = plan[at + SAMPLING_FLAGS];
    let isLast = (flags & SAMPLING_LAST) != 0u;
    var finished = 0u;
    if (isLast && (flags & SAMPLING_FIRST) == 0u) {
      finished = sampled[sequence].y;
    }
    for (var i = 0u; i < plan[at + SAMPLING_NUM_STOPS]; i++) {
      if (plan[plan[at + SAMPLING_STOPS] + i] == chosen) {
        finished = 1u;
      }
    }
    results[result] = chosen;
    results[result + 1u] = finished;
    if (isLast) {
      sampled[sequence] = vec2<u32>(chosen, finished);
    }
  }
  closeRow(row, chosen, result, local);
}
