// What shaders/model/matrix.wgsl does, with matrix-emulation.wgsl.

fn loadRows(at: u32) -> Left {
  let place = at + matrixLane / 2u * stagedStride;
  return leftOf(staged[place], staged[place + 1u]);
}

fn storeResult(at: u32, result: Result) {
  let place = at + matrixLane / 2u * keptStride + matrixLane % 2u * 2u;
  staged[place] = bitcast<vec4<u32>>(result.low);
  staged[place + 1u] = bitcast<vec4<u32>>(result.high);
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  matrixLane = local % 32u;
  multiplyTile(workgroup, local, local / 32u);
}
