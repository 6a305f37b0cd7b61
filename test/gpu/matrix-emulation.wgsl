// What shaders/attention/matrix.wgsl computes, by plain code: invocation `matrixLane` of a subgroup has row lane / 2 of a left matrix, and eight
// columns of a result, of which it has all that it needs of a right matrix. Rounds where the extension does: operands are f16, sums f32.
// Few rounds of loops, of which lavapipe allows an invocation 65,536.

struct Left {
  row: array<vec4f, 4>,
}

struct Right {
  rows: array<vec4f, 32>, // [16][8]
}

struct Result {
  low: vec4f,
  high: vec4f,
}

var<private> matrixLane: u32;
var<workgroup> exchanged: array<f32, invocations>;

fn lowHalf(words: vec4<u32>) -> vec4f {
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn highHalf(words: vec4<u32>) -> vec4f {
  return vec4f(unpack2x16float(words.z), unpack2x16float(words.w));
}

fn leftOf(first: vec4<u32>, second: vec4<u32>) -> Left {
  return Left(array<vec4f, 4>(lowHalf(first), highHalf(first), lowHalf(second), highHalf(second)));
}

fn loadQueries(at: u32) -> Left {
  let place = at + matrixLane / 2u * scoreStride;
  return leftOf(scores[place], scores[place + 1u]);
}

fn loadWeights(at: u32) -> Left {
  let place = at + matrixLane / 2u * weightStride;
  return leftOf(weights[place], weights[place + 1u]);
}

fn loadKeys(at: u32) -> Right {
  var right: Right;
  for (var i = 0u; i < 4u; i++) {
    let place = at + (matrixLane % 2u * 8u + i / 2u * 4u) * stagedStride + i % 2u;
    let a = staged[place];
    let b = staged[place + stagedStride];
    let c = staged[place + 2u * stagedStride];
    let d = staged[place + 3u * stagedStride];
    let low = transpose(mat4x4f(lowHalf(a), lowHalf(b), lowHalf(c), lowHalf(d)));
    let high = transpose(mat4x4f(highHalf(a), highHalf(b), highHalf(c), highHalf(d)));
    let first = i % 2u * 16u + i / 2u;
    right.rows[first] = low[0];
    right.rows[first + 2u] = low[1];
    right.rows[first + 4u] = low[2];
    right.rows[first + 6u] = low[3];
    right.rows[first + 8u] = high[0];
    right.rows[first + 10u] = high[1];
    right.rows[first + 12u] = high[2];
    right.rows[first + 14u] = high[3];
  }
  return right;
}

fn loadValues(at: u32) -> Right {
  var right: Right;
  for (var r = 0u; r < 16u; r++) {
    let words = staged[at + r * stagedStride + matrixLane % 2u];
    right.rows[2u * r] = lowHalf(words);
    right.rows[2u * r + 1u] = highHalf(words);
  }
  return right;
}

fn zeroResult() -> Result {
  return Result();
}

fn multiplyAdd(left: Left, right: Right, sum: Result) -> Result {
  var l = left;
  var r = right;
  var low = sum.low;
  var high = sum.high;
  for (var q = 0u; q < 4u; q++) {
    let x = l.row[q];
    low += x.x * r.rows[8u * q] + x.y * r.rows[8u * q + 2u] + x.z * r.rows[8u * q + 4u] + x.w * r.rows[8u * q + 6u];
    high += x.x * r.rows[8u * q + 1u] + x.y * r.rows[8u * q + 3u] + x.z * r.rows[8u * q + 5u] + x.w * r.rows[8u * q + 7u];
  }
  return Result(low, high);
}

fn placeOfResult(at: u32) -> u32 {
  return at + matrixLane / 2u * scoreStride + matrixLane % 2u * 2u;
}

fn storeResult(at: u32, result: Result) {
  scores[placeOfResult(at)] = bitcast<vec4<u32>>(result.low);
  scores[placeOfResult(at) + 1u] = bitcast<vec4<u32>>(result.high);
}

fn loadResult(at: u32) -> Result {
  return Result(bitcast<vec4f>(scores[placeOfResult(at)]), bitcast<vec4f>(scores[placeOfResult(at) + 1u]));
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
