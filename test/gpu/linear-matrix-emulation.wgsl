// What shaders/model/matrix.wgsl does, with matrix-emulation.wgsl.

fn loadRows(part: u32, at: u32) -> Left {
  let place = at + matrixLane / 2u * stagedStride;
  return leftOf(staged[part][place], staged[part][place + 1u]);
}

fn storeResult(part: u32, result: Result) {
  let place = matrixLane / 2u * keptStride + matrixLane % 2u * 2u;
  staged[part][place] = bitcast<vec4<u32>>(result.low);
  staged[part][place + 1u] = bitcast<vec4<u32>>(result.high);
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  matrixLane = local % 32u;
  multiplyTile(workgroup, local, local / 32u);
}
