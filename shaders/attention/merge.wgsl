// Joins the partial states (o / l, m, l) of rows whose keys were split, by their maxima: M = max m, L = sum l e^(m - M),
// o = sum (o / l) l e^(m - M) / L. A workgroup takes one row and head and goes through the states, as many as it has invocations at a time: an
// invocation first owns one state's maximum and sum; then groups of `lanes` invocations take states in turn, a lane every so many output values.

@group(0) @binding(0) var<storage, read> plan: array<u32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

const lanes = min(invocations, 32u);
const groups = invocations / lanes;
const valuesPerLane = (headDim + lanes - 1u) / lanes;
const ahead = 8u; // states that a lane reads at once

var<workgroup> highest: atomic<u32>;
var<workgroup> shares: array<f32, invocations>;
var<workgroup> sums: array<f32, groups * headDim>;
var<workgroup> denominators: array<f32, groups>;

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = plan[MERGE_ROWS] + workgroup.x * MERGE_WORDS;
  let token = plan[row];
  let first = plan[row + 1u];
  let count = plan[row + 2u];
  let head = workgroup.y;
  let group = local / lanes;
  let lane = local % lanes;

  var maximum = noScore;
  var denominator = 0.0;
  var numerators: array<f32, valuesPerLane>;
  for (var i = 0u; i < valuesPerLane; i++) { // unrolled
    numerators[i] = 0.0;
  }
  for (var begin = 0u; begin < count; begin += invocations) {
    let states = min(invocations, count - begin);
    var own = noScore;
    var sum = 0.0;
    if (local < states) {
      let at = ((first + begin + local) * numHeads + head) * PARTIAL_WORDS + headDim;
      own = partials[at];
      sum = partials[at + 1u];
      atomicMax(&highest, orderedBits(own));
    }
    workgroupBarrier();
    let before = maximum;
    maximum = fromOrderedBits(atomicLoad(&highest));
    let factor = rescale(before, maximum);
    denominator *= factor;
    for (var i = 0u; i < valuesPerLane; i++) { // unrolled
      numerators[i] *= factor;
    }
    shares[local] = sum * rescale(own, maximum);
    workgroupBarrier();
    for (var s = group; s < states; s += groups * ahead) {
      for (var a = 0u; a < ahead; a++) { // unrolled
        let state = s + a * groups;
        if (state < states) {
          let share = shares[state];
          let at = ((first + begin + state) * numHeads + head) * PARTIAL_WORDS + lane;
          denominator += share;
          for (var i = 0u; i < valuesPerLane; i++) { // unrolled
            if (lane + i * lanes < headDim) {
              numerators[i] += share * partials[at + i * lanes];
            }
          }
        }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < valuesPerLane; i++) { // unrolled
    if (lane + i * lanes < headDim) {
      sums[group * headDim + lane + i * lanes] = numerators[i];
    }
  }
  if (lane == 0u) {
    denominators[group] = denominator;
  }
  workgroupBarrier();
  denominator = 0.0;
  for (var g = 0u; g < groups; g++) { // unrolled
    denominator += denominators[g];
  }
  for (var d = local; d < headDim; d += invocations) {
    var value = 0.0;
    for (var g = 0u; g < groups; g++) { // unrolled
      value += sums[g * headDim + d];
    }
    output[(token * numHeads + head) * headDim + d] = select(value / denominator, 0.0, denominator == 0.0);
  }
  if (local == 0u && args.logSumExp != 0u) {
    partials[args.logSumExp + token * numHeads + head] = logSumExp(maximum, denominator);
  }
}
