// What prefill-matrix.wgsl does with matrices of subgroup-matrix.wgsl. Whatever computes the same may take the place of both.

// Rows of queries, from where scores will be.
fn loadQueries(part: u32, at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&scores[part], at, scoreStride);
}

fn loadWeights(part: u32, at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&weights[part], at, weightStride);
}

// Keys are the rows.
fn loadValues(part: u32, at: u32) -> Right {
  return subgroupMatrixLoad<Right, row_major>(&staged[part], at, stagedStride);
}

fn storeResult(part: u32, at: u32, result: Result) {
  subgroupMatrixStore<row_major>(&scores[part], at, result, scoreStride);
}

fn loadResult(part: u32, at: u32) -> Result {
  return subgroupMatrixLoad<Result, row_major>(&scores[part], at, scoreStride);
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
