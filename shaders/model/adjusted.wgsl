// What `sample.wgsl` samples from: a row of logits with a mask of allowed tokens, biases, banned tokens and penalties, in this order, each
// worked out where the logit is read, so that the logits stay what the model gave. What a row asks for is in its record of the extensions.
// Tokens that may not be chosen have the logit `noScore`.

struct Arguments {
  vocabSize: u32,
  resultWords: u32, // of a row
}

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [rows][vocabSize]
@group(0) @binding(1) var<storage, read> plan: array<u32>;
@group(0) @binding(2) var<storage, read_write> sampled: array<vec2<u32>>; // per sequence: token, 1 once a stop token came
@group(0) @binding(3) var<storage, read_write> results: array<u32>; // per row: the same, log-probability, and pairs of the likeliest
@group(0) @binding(4) var<storage, read> extensions: array<u32>;
// [sequences][vocabSize], 16 bits of each token: how often it is in the output, and in the top bit whether it is in the prompt.
@group(0) @binding(5) var<storage, read_write> counts: array<u32>;

const mostOften = 0x7fffu;

// A bit for the remainder by 16,384 of each token that has a bias or is banned: the list is searched for few tokens.
const filterWords = 512u;
var<workgroup> listed: array<atomic<u32>, filterWords>;

struct RowLogits {
  first: u32, // of the row
  flags: u32,
  extension: u32,
  numBiases: u32,
  mask: u32,
  counts: u32, // of the sequence, in words
}

fn openRow(row: u32, at: u32, local: u32) -> RowLogits {
  let flags = plan[at + SAMPLING_FLAGS];
  let extension = flags >> EXTENSION_SHIFT;
  let numBiases = extensions[extension + EXTENSION_NUM_BIASES];
  let mask = extension + EXTENSION_WORDS + 2u * numBiases;
  let sequence = plan[at + SAMPLING_SEQUENCE];
  for (var i = local; i < filterWords; i += invocations) {
    atomicStore(&listed[i], 0u);
  }
  workgroupBarrier();
  for (var i = local; i < numBiases; i += invocations) {
    let token = extensions[extension + EXTENSION_WORDS + 2u * i];
    atomicOr(&listed[(token / 32u) % filterWords], 1u << (token % 32u));
  }
  workgroupBarrier();
  let words = (args.vocabSize + 1u) / 2u;
  return RowLogits(row * args.vocabSize, flags, extension, numBiases, mask, sequence * words);
}

fn countOf(row: RowLogits, token: u32) -> u32 {
  return (counts[row.counts + token / 2u] >> (16u * (token % 2u))) & 0xffffu;
}

// A binary search. The bias of a banned token is `noScore`.
fn biasOf(row: RowLogits, token: u32) -> f32 {
  let pairs = row.extension + EXTENSION_WORDS;
  var low = 0u;
  var high = row.numBiases;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (extensions[pairs + 2u * middle] < token) {
      low = middle + 1u;
    } else {
      high = middle;
    }
  }
  if (low < row.numBiases && extensions[pairs + 2u * low] == token) {
    return bitcast<f32>(extensions[pairs + 2u * low + 1u]);
  }
  return 0.0;
}

fn logitOf(row: RowLogits, token: u32) -> f32 {
  var logit = logits[row.first + token];
  if ((row.flags & SAMPLING_MASK) != 0u && ((extensions[row.mask + token / 32u] >> (token % 32u)) & 1u) == 0u) {
    return noScore;
  }
  if (((atomicLoad(&listed[(token / 32u) % filterWords]) >> (token % 32u)) & 1u) != 0u) {
    let bias = biasOf(row, token);
    if (bias == noScore) {
      return noScore;
    }
    logit += bias;
  }
  if ((row.flags & SAMPLING_PENALTIES) != 0u) {
    let count = countOf(row, token);
    if (count != 0u) {
      let repetition = bitcast<f32>(extensions[row.extension + EXTENSION_REPETITION]);
      logit = select(logit / repetition, logit * repetition, logit < 0.0);
      let often = count & mostOften;
      if (often != 0u) {
        logit -= bitcast<f32>(extensions[row.extension + EXTENSION_FREQUENCY]) * f32(often);
        logit -= bitcast<f32>(extensions[row.extension + EXTENSION_PRESENCE]);
      }
    }
  }
  return logit;
}

// The least logit that may be sampled, in ordered bits.
fn leastLogit(row: RowLogits, maximum: f32) -> u32 {
  var least = orderedBits(noScore) + 1u;
  if ((row.flags & SAMPLING_MIN_P) != 0u) {
    least = max(least, orderedBits(maximum + bitcast<f32>(extensions[row.extension + EXTENSION_MIN_P])));
  }
  return least;
}

fn resultWords() -> u32 {
  return args.resultWords;
}

// After a token was chosen: counts it, and writes what was asked about its probability, which is that of the logits as they are.
fn closeRow(row: RowLogits, chosen: u32, result: u32, local: u32) {
  if ((row.flags & SAMPLING_PENALTIES) != 0u && local == 0u) {
    let count = countOf(row, chosen);
    if ((count & mostOften) < mostOften) {
      counts[row.counts + chosen / 2u] += 1u << (16u * (chosen % 2u));
    }
  }
  if ((row.flags & SAMPLING_LOGPROBS) != 0u) {
    // The likeliest of an invocation's own tokens, which are every so manieth: a column.
    var score = noScore;
    var token = 0u;
    for (var t = local; t < args.vocabSize; t += invocations) {
      if (logits[row.first + t] > score) {
        score = logits[row.first + t];
        token = t;
      }
    }
    var likeliest = reduceBest(score, token, local);
    let maximum = logits[row.first + likeliest];
    var mass = 0.0;
    for (var t = local; t < args.vocabSize; t += invocations) {
      mass += exp(logits[row.first + t] - maximum);
    }
    let logMass = log(reduceSum(mass, local));
    if (local == 0u) {
      results[result + PLAIN_RESULT_WORDS] = bitcast<u32>(min(0.0, logits[row.first + chosen] - maximum - logMass));
    }
    let numTop = extensions[row.extension + EXTENSION_NUM_TOP];
    for (var i = 0u; i < numTop; i++) {
      let logit = logits[row.first + likeliest];
      if (local == 0u) {
        let pair = result + PLAIN_RESULT_WORDS + 1u + 2u * i;
        results[pair] = likeliest;
        results[pair + 1u] = bitcast<u32>(min(0.0, logit - maximum - logMass));
      }
      if (i + 1u < numTop) {
        // All look for the next one of its column; then the likeliest of all columns is the next.
        let column = likeliest % invocations;
        var next = noScore;
        var nextToken = 0u;
        for (var t = column + local * invocations; t < args.vocabSize; t += invocations * invocations) {
          let other = logits[row.first + t];
          if (other > next && (other < logit || (other == logit && t > likeliest))) {
            next = other;
            nextToken = t;
          }
        }
        let found = reduceBest(next, nextToken, local);
        let foundScore = workgroupUniformLoad(&bestScore[0]);
        if (local == column) {
          score = foundScore;
          token = found;
        }
        likeliest = reduceBest(score, token, local);
      }
    }
  }
}
