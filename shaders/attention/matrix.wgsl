// Matrices of 16 x 16 that a subgroup of 32 invocations holds in registers, by the extension chromium_experimental_subgroup_matrix: f16
// operands, f32 results. Which invocation has which element is not known, so all that is not a product goes through workgroup memory.
// Places are counted in vectors of eight f16 or four f32. Whatever computes the same may take the place of this part.

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Result = subgroup_matrix_result<f32, 16, 16>;

// Rows of queries, from where scores will be.
fn loadQueries(at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&scores, at, scoreStride);
}

fn loadWeights(at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&weights, at, weightStride);
}

// Keys are the columns.
fn loadKeys(at: u32) -> Right {
  return subgroupMatrixLoad<Right, col_major>(&staged, at, stagedStride);
}

// Keys are the rows.
fn loadValues(at: u32) -> Right {
  return subgroupMatrixLoad<Right, row_major>(&staged, at, stagedStride);
}

fn zeroResult() -> Result {
  return Result(0.0);
}

fn multiplyAdd(left: Left, right: Right, sum: Result) -> Result {
  return subgroupMatrixMultiplyAccumulate(left, right, sum);
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
