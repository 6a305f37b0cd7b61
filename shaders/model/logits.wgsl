// What `sample.wgsl` samples from: a row of logits as they are. The other one is `adjusted.wgsl`.

struct Arguments {
  vocabSize: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [rows][vocabSize]
@group(0) @binding(1) var<storage, read> plan: array<u32>;
@group(0) @binding(2) var<storage, read_write> sampled: array<vec2<u32>>; // per sequence: token, 1 once a stop token came
@group(0) @binding(3) var<storage, read_write> results: array<u32>; // per row: the same

struct RowLogits {
  first: u32, // of the row
}

fn openRow(row: u32, at: u32, local: u32) -> RowLogits {
  return RowLogits(row * args.vocabSize);
}

fn logitOf(row: RowLogits, token: u32) -> f32 {
  return logits[row.first + token];
}

// The least logit that may be sampled, in ordered bits.
fn leastLogit(row: RowLogits, maximum: f32) -> u32 {
  return 0u;
}

fn resultWords() -> u32 {
  return PLAIN_RESULT_WORDS;
}

// After a token was chosen.
fn closeRow(row: RowLogits, chosen: u32, result: u32, local: u32) {
}
