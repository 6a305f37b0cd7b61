// What matmul-matrix.wgsl does with matrices of subgroup-matrix.wgsl. Whatever computes the same may take the place of both.

fn loadRows(part: u32, at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&staged[part], at, stagedStride);
}

fn storeResult(part: u32, result: Result) {
  subgroupMatrixStore<row_major>(&staged[part], 0u, result, keptStride);
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32, @builtin(subgroup_id) subgroup: u32) {
  multiplyTile(workgroup, local, subgroup);
}
