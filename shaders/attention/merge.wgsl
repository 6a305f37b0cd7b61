// Joins the partial states (o / l, m, l) of rows whose keys were split, by their maxima: M = max m, L = sum l e^(m - M),
// o = sum (o / l) l e^(m - M) / L. A workgroup takes one row and head and goes through the states 64 at a time: an invocation first owns one
// state's maximum and sum, then every 64th output value.

@group(0) @binding(0) var<storage, read> plan: array<u32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

const invocations = 64u;
const valuesPerInvocation = (headDim + invocations - 1u) / invocations;

var<workgroup> maxima: array<f32, invocations>;
var<workgroup> sums: array<f32, invocations>;

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = plan[MERGE_ROWS] + workgroup.x * MERGE_WORDS;
  let token = plan[row];
  let first = plan[row + 1u];
  let count = plan[row + 2u];
  let head = workgroup.y;

  var maximum = noScore;
  var denominator = 0.0;
  var numerators: array<f32, valuesPerInvocation>;
  for (var i = 0u; i < valuesPerInvocation; i++) { // unrolled
    numerators[i] = 0.0;
  }
  for (var begin = 0u; begin < count; begin += invocations) {
    let states = min(invocations, count - begin);
    if (local < states) {
      let at = ((first + begin + local) * numHeads + head) * PARTIAL_WORDS + headDim;
      maxima[local] = partials[at];
      sums[local] = partials[at + 1u];
    }
    workgroupBarrier();
    let before = maximum;
    for (var s = 0u; s < states; s++) {
      maximum = max(maximum, maxima[s]);
    }
    let factor = rescale(before, maximum);
    denominator *= factor;
    for (var i = 0u; i < valuesPerInvocation; i++) { // unrolled
      numerators[i] *= factor;
    }
    for (var s = 0u; s < states; s++) {
      let share = sums[s] * rescale(maxima[s], maximum);
      let at = ((first + begin + s) * numHeads + head) * PARTIAL_WORDS + local;
      denominator += share;
      for (var i = 0u; i < valuesPerInvocation; i++) { // unrolled
        if (local + i * invocations < headDim) {
          numerators[i] += share * partials[at + i * invocations];
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < valuesPerInvocation; i++) { // unrolled
    let d = local + i * invocations;
    if (d < headDim) {
      output[(token * numHeads + head) * headDim + d] = select(numerators[i] / denominator, 0.0, denominator == 0.0);
    }
  }
  if (local == 0u && args.logSumExp != 0u) {
    partials[args.logSumExp + token * numHeads + head] = logSumExp(maximum, denominator);
  }
}
