// Merges two attention states, (output, log-sum-exp), of the same queries over two sets of keys into that of their union. With M the larger
// log-sum-exp: o = (a e^(lse_a - M) + b e^(lse_b - M)) / (e^(lse_a - M) + e^(lse_b - M)). An invocation takes four values of a row.
// A state whose log-sum-exp is the sentinel has seen no key; its output is not read.

struct Arguments {
  numRows: u32, // tokens times heads
  columns: u32, // vectors of four values in a row
}

@group(0) @binding(0) var<storage, read> outputA: array<vec4f>;
@group(0) @binding(1) var<storage, read> logSumExpA: array<f32>;
@group(0) @binding(2) var<storage, read> outputB: array<vec4f>;
@group(0) @binding(3) var<storage, read> logSumExpB: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> logSumExpOut: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let index = id.y * grid.x * 64u + id.x;
  let row = index / args.columns;
  if (row >= args.numRows) {
    return;
  }
  let a = logSumExpA[row];
  let b = logSumExpB[row];
  let maximum = max(a, b);
  var weights = 0.0;
  var sum = vec4f(0.0);
  if (a > noScore) {
    weights = exp(a - maximum);
    sum = weights * outputA[index];
  }
  if (b > noScore) {
    let p = exp(b - maximum);
    weights += p;
    sum += p * outputB[index];
  }
  output[index] = sum * select(1.0 / weights, 0.0, weights == 0.0);
  if (index % args.columns == 0u) {
    logSumExpOut[row] = logSumExp(max(maximum, noScore), weights);
  }
}
