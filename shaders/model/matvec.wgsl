// Matrix product for few input rows, at the speed of reading the weights: a workgroup computes four neighbouring weight rows for one
// input row. 16 lanes share a weight row: each reads every 16th group of eight weights in one 16-byte load (16-bit weights).

const lanes = 16u;
const rowsPerWorkgroup = 4u;

// Per invocation: its part of the product, and of the input row's sum of squares.
var<workgroup> parts: array<vec2f, lanes * rowsPerWorkgroup>;
var<workgroup> results: array<f32, rowsPerWorkgroup>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) local: u32) {
  let firstColumn = (workgroup.z * grid.x + workgroup.x) * rowsPerWorkgroup;
  let row = workgroup.y;
  let column = firstColumn + local / lanes;
  let lane = local % lanes;

  let eights = args.inputSize / 8u;
  let inputAt = inputRow(row) * (args.inputStride / 4u);
  var product = 0.0;
  var squares = 0.0;
  if (column < args.outputSize) {
    for (var i = lane; i < eights; i += lanes) {
      var values = Eight(input[inputAt + 2u * i], input[inputAt + 2u * i + 1u]);
      if (normalized) {
        squares += dot8(values, values);
        values.low *= gain[args.gainOffset / 4u + 2u * i];
        values.high *= gain[args.gainOffset / 4u + 2u * i + 1u];
      }
      product += dot8(values, loadWeights8(column * eights + i));
    }
  }
  parts[local] = vec2f(product, squares);
  workgroupBarrier();

  if (local < rowsPerWorkgroup) {
    var sum = vec2f(0.0);
    for (var i = 0u; i < lanes; i++) {
      sum += parts[local * lanes + i];
    }
    if (normalized) {
      sum.x *= inverseRms(sum.y);
    }
    results[local] = sum.x;
  }
  workgroupBarrier();

  if (swiglu) {
    let pair = firstColumn + 2u * local;
    if (local < rowsPerWorkgroup / 2u && pair < args.outputSize) {
      store(row, pair / 2u, silu(withBias(results[2u * local], pair)) * withBias(results[2u * local + 1u], pair + 1u));
    }
  } else if (local < rowsPerWorkgroup && firstColumn + local < args.outputSize) {
    store(row, firstColumn + local, withBias(results[local], firstColumn + local));
  }
}
