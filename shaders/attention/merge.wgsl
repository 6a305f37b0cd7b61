// Joins the partial states (o / l, m, l) of rows whose keys were split, by their maxima: M = max m, L = sum l e^(m - M),
// o = sum (o / l) l e^(m - M) / L. A workgroup takes one row and head, an invocation every 64th output value.

@group(0) @binding(0) var<storage, read> plan: array<u32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = plan[MERGE_ROWS] + workgroup.x * MERGE_WORDS;
  let token = plan[row];
  let first = plan[row + 1u];
  let count = plan[row + 2u];
  let head = workgroup.y;

  var maximum = noScore;
  for (var s = 0u; s < count; s++) {
    maximum = max(maximum, partials[((first + s) * numHeads + head) * PARTIAL_WORDS + headDim]);
  }
  var denominator = 0.0;
  for (var s = 0u; s < count; s++) {
    let at = ((first + s) * numHeads + head) * PARTIAL_WORDS;
    denominator += partials[at + headDim + 1u] * rescale(partials[at + headDim], maximum);
  }
  for (var d = local; d < headDim; d += 64u) {
    var numerator = 0.0;
    for (var s = 0u; s < count; s++) {
      let at = ((first + s) * numHeads + head) * PARTIAL_WORDS;
      numerator += partials[at + d] * partials[at + headDim + 1u] * rescale(partials[at + headDim], maximum);
    }
    output[(token * numHeads + head) * headDim + d] = select(numerator / denominator, 0.0, denominator == 0.0);
  }
  if (local == 0u && args.logSumExp != 0u) {
    partials[args.logSumExp + token * numHeads + head] = logSumExp(maximum, denominator);
  }
}
