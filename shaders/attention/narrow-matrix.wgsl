// What decode-matrix.wgsl does with matrices that a subgroup of 32 invocations holds in registers, by the extension
// chromium_experimental_subgroup_matrix: f16 operands, f32 results. Which invocation has which element is not known, so all that is not a
// product goes through the subgroup's part of workgroup memory. Places are counted in vectors of eight f16 or four f32; they are constant, so that
// compilers see that a matrix lies within the part: else they check, and load it value by value. Whatever computes the same may take the place of
// these functions.

alias Keys = subgroup_matrix_left<f16, 16, 16>; // [key][value of its row], or values [value of the row][key]
alias Heads = subgroup_matrix_right<f16, 8, 16>; // queries [value][head], or weights [key][head]
alias Sums = subgroup_matrix_result<f32, 8, 16>; // scores [key][head], or outputs [value][head]

fn loadKeys(subgroup: u32, at: u32) -> Keys {
  return subgroupMatrixLoad<Keys, row_major>(&staged[subgroup], at, stagedStride);
}

fn loadValues(subgroup: u32, at: u32) -> Keys {
  return subgroupMatrixLoad<Keys, col_major>(&staged[subgroup], at, stagedStride);
}

fn loadQueries(at: u32) -> Heads {
  return subgroupMatrixLoad<Heads, col_major>(&staged[0], at, queryStride);
}

fn loadWeights(subgroup: u32, at: u32) -> Heads {
  return subgroupMatrixLoad<Heads, row_major>(&weights[subgroup], at, 1u);
}

fn storeSums(subgroup: u32, at: u32, sums: Sums) {
  subgroupMatrixStore<row_major>(&staged[subgroup], at, sums, sumsStride);
}

fn loadSums(subgroup: u32, at: u32) -> Sums {
  return subgroupMatrixLoad<Sums, row_major>(&staged[subgroup], at, sumsStride);
}

fn noSums() -> Sums {
  return Sums(0.0);
}

fn multiplyAdd(keys: Keys, heads: Heads, sums: Sums) -> Sums {
  return subgroupMatrixMultiplyAccumulate(keys, heads, sums);
}

// Two bytes of int8, as biasedHalves makes them.
fn unbiasedHalves(halves: u32) -> u32 {
  return bitcast<u32>(bitcast<vec2<f16>>(halves) - 1152.0h);
}

// What another invocation of the subgroup has.
fn fromLane(value: u32, lane: u32) -> u32 {
  return subgroupShuffle(value, lane);
}

@diagnostic(off, subgroup_uniformity) // the same for all
fn anyOfSubgroup(condition: bool) -> bool {
  return subgroupAny(condition);
}

// Over the invocations that have the same heads.
@diagnostic(off, subgroup_uniformity) // called by all or by none
fn highestOfKeys(own: vec4f) -> vec4f {
  var highest = own;
  for (var across = 1u; across < keyLanes; across *= 2u) {
    highest = max(highest, subgroupShuffleXor(highest, across));
  }
  return highest;
}

fn sumOfKeys(own: vec4f) -> vec4f {
  var sum = own;
  for (var across = 1u; across < keyLanes; across *= 2u) {
    sum += subgroupShuffleXor(sum, across);
  }
  return sum;
}

@compute @workgroup_size(invocations)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  attendToken(workgroup, local, subgroup, lane);
}
