// What shaders/attention/narrow-matrix.wgsl does, by plain code: an invocation has a row of a left matrix, lane / 2, and four columns of the others.
// Rounds where the extension does: operands are f16, sums f32.

struct Keys {
  row: array<vec4f, 4>,
}

struct Heads {
  rows: array<vec4f, 16>,
}

alias Sums = vec4f;

var<private> matrixLane: u32;
var<private> firstOfSubgroup: u32;
var<workgroup> exchanged: array<vec4f, invocations>;
var<workgroup> found: atomic<u32>;

fn fourHalves(first: u32, second: u32) -> vec4f {
  return vec4f(unpack2x16float(first), unpack2x16float(second));
}

fn loadKeys(subgroup: u32, at: u32) -> Keys {
  let place = at + matrixLane / 2u * stagedStride;
  let low = staged[subgroup][place];
  let high = staged[subgroup][place + 1u];
  return Keys(
    array<vec4f, 4>(fourHalves(low.x, low.y), fourHalves(low.z, low.w), fourHalves(high.x, high.y), fourHalves(high.z, high.w)),
  );
}

fn loadValues(subgroup: u32, at: u32) -> Keys {
  let value = matrixLane / 2u;
  var keys: Keys;
  for (var k = 0u; k < 16u; k++) {
    let word = staged[subgroup][at + k * stagedStride + value / 8u][value % 8u / 2u];
    keys.row[k / 4u][k % 4u] = unpack2x16float(word)[value % 2u];
  }
  return keys;
}

fn loadQueries(at: u32) -> Heads {
  var heads: Heads;
  for (var k = 0u; k < 16u; k++) {
    for (var n = 0u; n < 4u; n++) {
      let word = staged[0][at + (matrixLane % 2u * 4u + n) * queryStride + k / 8u][k % 8u / 2u];
      heads.rows[k][n] = unpack2x16float(word)[k % 2u];
    }
  }
  return heads;
}

fn loadWeights(subgroup: u32, at: u32) -> Heads {
  var heads: Heads;
  for (var k = 0u; k < 16u; k++) {
    let row = weights[subgroup][at + k];
    heads.rows[k] = fourHalves(row[matrixLane % 2u * 2u], row[matrixLane % 2u * 2u + 1u]);
  }
  return heads;
}

fn storeSums(subgroup: u32, at: u32, sums: Sums) {
  staged[subgroup][at + matrixLane / 2u * sumsStride + matrixLane % 2u] = bitcast<vec4<u32>>(sums);
}

fn loadSums(subgroup: u32, at: u32) -> Sums {
  return bitcast<vec4f>(staged[subgroup][at + matrixLane / 2u * sumsStride + matrixLane % 2u]);
}

fn noSums() -> Sums {
  return Sums();
}

fn multiplyAdd(keys: Keys, heads: Heads, sums: Sums) -> Sums {
  var k = keys;
  var h = heads;
  var result = sums;
  for (var i = 0u; i < 4u; i++) {
    let four = k.row[i];
    result += four.x * h.rows[4u * i] + four.y * h.rows[4u * i + 1u] + four.z * h.rows[4u * i + 2u] + four.w * h.rows[4u * i + 3u];
  }
  return result;
}

fn unbiasedHalves(halves: u32) -> u32 {
  return pack2x16float(unpack2x16float(halves) - 1152.0);
}

fn exchange(own: vec4f) {
  workgroupBarrier();
  exchanged[firstOfSubgroup + matrixLane] = own;
  workgroupBarrier();
}

fn fromLane(value: u32, lane: u32) -> u32 {
  exchange(vec4f(bitcast<f32>(value)));
  return bitcast<u32>(exchanged[firstOfSubgroup + lane].x);
}

// Of the workgroup, so that barriers may stand behind it: a head that needs no new reference keeps its own.
fn anyOfSubgroup(condition: bool) -> bool {
  if (condition) {
    atomicStore(&found, 1u);
  }
  let any = workgroupUniformLoad(&found) != 0u;
  atomicStore(&found, 0u);
  workgroupBarrier();
  return any;
}

fn highestOfKeys(own: vec4f) -> vec4f {
  exchange(own);
  var highest = own;
  for (var k = 0u; k < keyLanes; k++) {
    highest = max(highest, exchanged[firstOfSubgroup + matrixLane / keyLanes * keyLanes + k]);
  }
  return highest;
}

fn sumOfKeys(own: vec4f) -> vec4f {
  exchange(own);
  var sum = vec4f(0.0);
  for (var k = 0u; k < keyLanes; k++) {
    sum += exchanged[firstOfSubgroup + matrixLane / keyLanes * keyLanes + k];
  }
  return sum;
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  matrixLane = local % 32u;
  firstOfSubgroup = local / 32u * 32u;
  attendToken(workgroup, local, local / 32u, matrixLane);
}
