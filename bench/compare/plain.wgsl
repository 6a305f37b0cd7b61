// Attention over a contiguous cache [sequence][head][token][value] as one would write it in an afternoon: a workgroup per (token, head), an invocation
// per value, tiles of as many keys, online softmax. No sharing of keys among query heads or tokens, no splitting of long rows, no subgroups.
// In front of it: type Cell and unpackCell of the storage format, and numHeads, numKvHeads, headDim.

struct Arguments {
  // New tokens of each sequence.
  queryLen: u32,
  // Tokens of each sequence, the new ones included.
  seqLen: u32,
}

@group(0) @binding(0) var<uniform> args: Arguments;
@group(0) @binding(1) var<storage, read> queries: array<vec4f>;
@group(0) @binding(2) var<storage, read> keys: array<Cell>;
@group(0) @binding(3) var<storage, read> values: array<Cell>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

const cellsPerRow = headDim / 4u;

var<workgroup> query: array<vec4f, cellsPerRow>;
var<workgroup> weights: array<f32, headDim>;
var<workgroup> reduced: array<f32, headDim>;

@compute @workgroup_size(headDim)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let token = group.y;
  let row = token * numHeads + head;
  let visible = args.seqLen - args.queryLen + token % args.queryLen + 1u;
  let firstRow = (token / args.queryLen * numKvHeads + head / (numHeads / numKvHeads)) * args.seqLen;
  if (lane < cellsPerRow) {
    query[lane] = queries[row * cellsPerRow + lane] * inverseSqrt(f32(headDim));
  }
  workgroupBarrier();

  var maximum = -3e38;
  var sum = 0.0;
  var result = 0.0;
  for (var first = 0u; first < visible; first += headDim) {
    let count = min(headDim, visible - first);
    var score = -3e38;
    if (lane < count) {
      let at = (firstRow + first + lane) * cellsPerRow;
      score = 0.0;
      for (var i = 0u; i < cellsPerRow; i++) {
        score += dot(query[i], unpackCell(keys[at + i]));
      }
    }
    reduced[lane] = score;
    workgroupBarrier();
    for (var half = headDim / 2u; half > 0u; half /= 2u) {
      if (lane < half) {
        reduced[lane] = max(reduced[lane], reduced[lane + half]);
      }
      workgroupBarrier();
    }
    let newMaximum = max(maximum, reduced[0]);
    weights[lane] = select(0.0, exp(score - newMaximum), lane < count);
    workgroupBarrier();

    let rescale = exp(maximum - newMaximum);
    sum *= rescale;
    result *= rescale;
    maximum = newMaximum;
    for (var key = 0u; key < count; key++) {
      sum += weights[key];
      result += weights[key] * unpackCell(values[(firstRow + first + key) * cellsPerRow + lane / 4u])[lane % 4u];
    }
    workgroupBarrier();
  }
  output[row * headDim + lane] = result / sum;
}
