// What prefill-matrix.wgsl does with matrices of subgroup-matrix.wgsl. Whatever computes the same may take the place of both.

// Rows of queries, from where scores will be.
fn loadQueries(at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&scores, at, scoreStride);
}

fn loadWeights(at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&weights, at, weightStride);
}

// Keys are the rows.
fn loadValues(at: u32) -> Right {
  return subgroupMatrixLoad<Right, row_major>(&staged, at, stagedStride);
}

fn storeResult(at: u32, result: Result) {
  subgroupMatrixStore<row_major>(&scores, at, result, scoreStride);
}

fn loadResult(at: u32) -> Result {
  return subgroupMatrixLoad<Result, row_major>(&scores, at, scoreStride);
}

// What the invocation has that shares a row's keys.
fn fromPartner(value: f32, local: u32) -> f32 {
  return subgroupShuffleXor(value, partnerBit);
}

@compute @workgroup_size(invocations)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  attendRows(workgroup, local, subgroup, lane);
}
