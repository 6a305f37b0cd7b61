// What shaders/attention/matrix.wgsl computes, by plain code: invocation `matrixLane` of a subgroup has row lane / 2 of a left matrix, and eight
// columns of a result, of which it has all that it needs of a right matrix. Rounds where the extension does: operands are f16, sums f32.

struct Left {
  row: array<f32, 16>,
}

struct Right {
  columns: array<f32, 128>, // [16][8]
}

struct Result {
  values: array<f32, 8>,
}

var<private> matrixLane: u32;
var<workgroup> exchanged: array<f32, invocations>;

fn halfOf(words: vec4<u32>, i: u32) -> f32 {
  return unpack2x16float(words[i / 2u])[i % 2u];
}

fn loadQueries(at: u32) -> Left {
  var left: Left;
  for (var i = 0u; i < 16u; i++) {
    left.row[i] = halfOf(scores[at + matrixLane / 2u * scoreStride + i / 8u], i % 8u);
  }
  return left;
}

fn loadWeights(at: u32) -> Left {
  var left: Left;
  for (var i = 0u; i < 16u; i++) {
    left.row[i] = halfOf(weights[at + matrixLane / 2u * weightStride + i / 8u], i % 8u);
  }
  return left;
}

fn loadKeys(at: u32) -> Right {
  var right: Right;
  for (var r = 0u; r < 16u; r++) {
    for (var c = 0u; c < 8u; c++) {
      right.columns[8u * r + c] = halfOf(staged[at + (matrixLane % 2u * 8u + c) * stagedStride + r / 8u], r % 8u);
    }
  }
  return right;
}

fn loadValues(at: u32) -> Right {
  var right: Right;
  for (var r = 0u; r < 16u; r++) {
    let words = staged[at + r * stagedStride + matrixLane % 2u];
    for (var c = 0u; c < 8u; c++) {
      right.columns[8u * r + c] = halfOf(words, c);
    }
  }
  return right;
}

fn zeroResult() -> Result {
  return Result();
}

fn multiplyAdd(left: Left, right: Right, sum: Result) -> Result {
  var l = left;
  var r = right;
  var result = sum;
  for (var k = 0u; k < 16u; k++) {
    for (var c = 0u; c < 8u; c++) {
      result.values[c] += l.row[k] * r.columns[8u * k + c];
    }
  }
  return result;
}

fn placeOfResult(at: u32) -> u32 {
  return at + matrixLane / 2u * scoreStride + matrixLane % 2u * 2u;
}

fn storeResult(at: u32, result: Result) {
  let place = placeOfResult(at);
  let v = result.values;
  scores[place] = bitcast<vec4<u32>>(vec4f(v[0], v[1], v[2], v[3]));
  scores[place + 1u] = bitcast<vec4<u32>>(vec4f(v[4], v[5], v[6], v[7]));
}

fn loadResult(at: u32) -> Result {
  let low = bitcast<vec4f>(scores[placeOfResult(at)]);
  let high = bitcast<vec4f>(scores[placeOfResult(at) + 1u]);
  return Result(array<f32, 8>(low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w));
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
