// Looks up the embeddings of the step's tokens: an invocation copies eight values of one token. A token id with the top bit set is not
// an id but names the row of `sampled` that holds one: the last token of a sequence, which never left the GPU.

struct Arguments {
  hiddenSize: u32,
}

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>; // [vocabSize][hiddenSize]
@group(0) @binding(1) var<storage, read> plan: array<u32>;
@group(0) @binding(2) var<storage, read> sampled: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> hidden: array<vec4f>; // [tokens][hiddenSize]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let token = workgroup.y;
  let eights = args.hiddenSize / 8u;
  let i = workgroup.x * 64u + local;
  if (i >= eights) {
    return;
  }
  var id = plan[plan[TOKEN_IDS] + token];
  if ((id & SAMPLED_TOKEN) != 0u) {
    id = sampled[id & ~SAMPLED_TOKEN].x;
  }
  let values = loadWeights8(id * eights + i);
  hidden[(token * eights + i) * 2u] = values.low;
  hidden[(token * eights + i) * 2u + 1u] = values.high;
}
