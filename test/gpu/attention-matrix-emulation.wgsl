// What shaders/attention/matrix.wgsl does, with matrix-emulation.wgsl.

var<workgroup> exchanged: array<f32, invocations>;

fn loadQueries(part: u32, at: u32) -> Left {
  let place = at + matrixLane / 2u * scoreStride;
  return leftOf(scores[part][place], scores[part][place + 1u]);
}

fn loadWeights(part: u32, at: u32) -> Left {
  let place = at + matrixLane / 2u * weightStride;
  return leftOf(weights[part][place], weights[part][place + 1u]);
}

fn loadValues(part: u32, at: u32) -> Right {
  var right: Right;
  for (var r = 0u; r < 16u; r++) {
    let words = staged[part][at + r * stagedStride + matrixLane % 2u];
    right.rows[2u * r] = lowHalf(words);
    right.rows[2u * r + 1u] = highHalf(words);
  }
  return right;
}

fn placeOfResult(at: u32) -> u32 {
  return at + matrixLane / 2u * scoreStride + matrixLane % 2u * 2u;
}

fn storeResult(part: u32, at: u32, result: Result) {
  scores[part][placeOfResult(at)] = bitcast<vec4<u32>>(result.low);
  scores[part][placeOfResult(at) + 1u] = bitcast<vec4<u32>>(result.high);
}

fn loadResult(part: u32, at: u32) -> Result {
  return Result(bitcast<vec4f>(scores[part][placeOfResult(at)]), bitcast<vec4f>(scores[part][placeOfResult(at) + 1u]));
}

fn fromPartner(value: f32, local: u32) -> f32 {
  exchanged[local] = value;
  workgroupBarrier();
  let partner = exchanged[local ^ partnerBit];
  workgroupBarrier();
  return partner;
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  matrixLane = local % 32u;
  attendRows(workgroup, local, local / 32u, matrixLane);
}
