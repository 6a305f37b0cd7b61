// What the two matrix products (matvec.wgsl for few rows, matmul.wgsl for many) share: output = f(input x weights^T), where
//   normalized: each input row is RMS-normalised first. The gain goes into the product; 1 / rms, which all outputs of a row share, is
//               applied at the end, so that the squares are summed while the row is read for the product anyhow.
//   swiglu:     weight rows come in pairs (gate, up), and a pair gives one output silu(gate) * up (Shazeer 2020).
//   accumulate: the result is added to the output (the residual stream) instead of replacing it.
//   gathered:   input rows are those that the plan lists for logits.

struct Arguments {
  inputSize: u32, // columns of the weights; a multiple of 8
  outputSize: u32, // rows of the weights
  inputStride: u32, // f32 values from one input row to the next; a multiple of 4
  outputStride: u32,
  gainOffset: u32, // where in `gain` this layer's begins; a multiple of 4
  biasOffset: u32,
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [outputSize][inputSize]
@group(0) @binding(2) var<storage, read> gain: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
@group(0) @binding(5) var<storage, read_write> output: array<f32>;

override normalized: bool;
override swiglu: bool;
override accumulate: bool;
override gathered: bool;
override biased: bool;

fn inputRow(row: u32) -> u32 {
  if (gathered) {
    return plan[plan[LOGIT_ROWS] + row];
  }
  return row;
}

fn numRows() -> u32 {
  if (gathered) {
    return plan[NUM_LOGIT_ROWS];
  }
  return plan[NUM_TOKENS];
}

fn inverseRms(sumOfSquares: f32) -> f32 {
  return inverseSqrt(sumOfSquares / f32(args.inputSize) + args.epsilon);
}

fn withBias(value: f32, column: u32) -> f32 {
  if (biased) {
    return value + bias[args.biasOffset + column];
  }
  return value;
}

fn silu(x: f32) -> f32 {
  return x / (1.0 + exp(-x));
}

fn store(row: u32, column: u32, value: f32) {
  let at = row * args.outputStride + column;
  if (accumulate) {
    output[at] += value;
  } else {
    output[at] = value;
  }
}
