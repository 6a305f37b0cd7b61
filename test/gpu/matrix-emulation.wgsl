// What shaders/subgroup-matrix.wgsl computes, by plain code: invocation `matrixLane` of a subgroup has row lane / 2 of a left matrix, and eight
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

fn lowHalf(words: vec4<u32>) -> vec4f {
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn highHalf(words: vec4<u32>) -> vec4f {
  return vec4f(unpack2x16float(words.z), unpack2x16float(words.w));
}

fn leftOf(first: vec4<u32>, second: vec4<u32>) -> Left {
  return Left(array<vec4f, 4>(lowHalf(first), highHalf(first), lowHalf(second), highHalf(second)));
}

fn loadColumns(part: u32, at: u32) -> Right {
  var right: Right;
  for (var i = 0u; i < 4u; i++) {
    let place = at + (matrixLane % 2u * 8u + i / 2u * 4u) * stagedStride + i % 2u;
    let a = staged[part][place];
    let b = staged[part][place + stagedStride];
    let c = staged[part][place + 2u * stagedStride];
    let d = staged[part][place + 3u * stagedStride];
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
