// Joins the partial states of rows whose keys were split. A workgroup takes one row (a query token and head); an invocation owns every
// 64th of its headDim output values. Partials hold (o / l, m, l), so o = sum(o_s l_s e^(m_s - M)) / sum(l_s e^(m_s - M)).

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read> plan: array<u32>;
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
  for (var d = local; d < headDim; d += 64u) {
    var numerator = 0.0;
    var denominator = 0.0;
    for (var s = 0u; s < count; s++) {
      let at = ((first + s) * numHeads + head) * PARTIAL_WORDS;
      let share = partials[at + headDim + 1u] * rescale(partials[at + headDim], maximum);
      numerator += partials[at + d] * share;
      denominator += share;
    }
    output[(token * numHeads + head) * headDim + d] = select(numerator / denominator, 0.0, denominator == 0.0);
  }
}
