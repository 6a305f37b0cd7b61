// Matrix product without workgroup memory, for adapters that compute on the CPU: there a barrier costs more than what it lets the
// invocations share. An invocation computes four input rows x eight weight rows, four and four in registers. A single input row, which is
// what decoding one sequence has, goes through a loop of its own with all eight, because there reading the input and its gain for each
// weight row is a good part of the work. Four invocations are the SIMD width of such adapters, and small workgroups spread evenly.

// An input row's part in the sums of an invocation: its products with the four weight rows, and its sum of squares.
struct Sums {
  products: vec4f,
  squares: f32,
}

struct Weights4 {
  a: Eight,
  b: Eight,
  c: Eight,
  d: Eight,
}

fn withGain(values: Eight, i: u32) -> Eight {
  let at = args.gainOffset / 4u + 2u * i;
  return Eight(values.low * gain[at], values.high * gain[at + 1u]);
}

fn addRow(sums: Sums, inputAt: u32, i: u32, weights: Weights4) -> Sums {
  var values = Eight(input[inputAt + 2u * i], input[inputAt + 2u * i + 1u]);
  var squares = sums.squares;
  if (normalized) {
    squares += dot8(values, values);
    values = withGain(values, i);
  }
  let products = vec4f(dot8(values, weights.a), dot8(values, weights.b), dot8(values, weights.c), dot8(values, weights.d));
  return Sums(sums.products + products, squares);
}

fn storeFour(row: u32, column: u32, sums: Sums) {
  var values = sums.products;
  if (normalized) {
    values *= inverseRms(sums.squares);
  }
  if (swiglu) {
    for (var pair = 0u; pair < 2u; pair++) {
      let gate = column + 2u * pair;
      if (gate < args.outputSize) {
        store(row, gate / 2u, silu(withBias(values[2u * pair], gate)) * withBias(values[2u * pair + 1u], gate + 1u));
      }
    }
  } else {
    for (var j = 0u; j < 4u; j++) {
      if (column + j < args.outputSize) {
        store(row, column + j, withBias(values[j], column + j));
      }
    }
  }
}

fn weightsRow(column: u32) -> u32 {
  return min(column, args.outputSize - 1u) * (args.inputSize / 8u);
}

fn oneRow(row: u32, column: u32) {
  let input0 = inputRow(row) * (args.inputStride / 4u);
  let weights0 = weightsRow(column);
  let weights1 = weightsRow(column + 1u);
  let weights2 = weightsRow(column + 2u);
  let weights3 = weightsRow(column + 3u);
  let weights4 = weightsRow(column + 4u);
  let weights5 = weightsRow(column + 5u);
  let weights6 = weightsRow(column + 6u);
  let weights7 = weightsRow(column + 7u);
  var first = vec4f(0.0);
  var second = vec4f(0.0);
  var squares = 0.0;
  for (var i = 0u; i < args.inputSize / 8u; i++) {
    var values = Eight(input[input0 + 2u * i], input[input0 + 2u * i + 1u]);
    if (normalized) {
      squares += dot8(values, values);
      values = withGain(values, i);
    }
    first += vec4f(
      dot8(values, loadWeights8(weights0 + i)),
      dot8(values, loadWeights8(weights1 + i)),
      dot8(values, loadWeights8(weights2 + i)),
      dot8(values, loadWeights8(weights3 + i)),
    );
    second += vec4f(
      dot8(values, loadWeights8(weights4 + i)),
      dot8(values, loadWeights8(weights5 + i)),
      dot8(values, loadWeights8(weights6 + i)),
      dot8(values, loadWeights8(weights7 + i)),
    );
  }
  storeFour(row, column, Sums(first, squares));
  storeFour(row, column + 4u, Sums(second, squares));
}

fn fourRows(row: u32, column: u32) {
  let weights0 = weightsRow(column);
  let weights1 = weightsRow(column + 1u);
  let weights2 = weightsRow(column + 2u);
  let weights3 = weightsRow(column + 3u);
  let rows = min(4u, numRows() - row);
  let pitch = args.inputStride / 4u;
  // A row beyond the last repeats the last, and is not stored.
  let input0 = inputRow(row) * pitch;
  let input1 = inputRow(row + 1u) * pitch;
  let input2 = inputRow(row + min(2u, rows - 1u)) * pitch;
  let input3 = inputRow(row + min(3u, rows - 1u)) * pitch;
  var sums0 = Sums(vec4f(0.0), 0.0);
  var sums1 = sums0;
  var sums2 = sums0;
  var sums3 = sums0;
  for (var i = 0u; i < args.inputSize / 8u; i++) {
    let four = Weights4(loadWeights8(weights0 + i), loadWeights8(weights1 + i), loadWeights8(weights2 + i), loadWeights8(weights3 + i));
    sums0 = addRow(sums0, input0, i, four);
    sums1 = addRow(sums1, input1, i, four);
    sums2 = addRow(sums2, input2, i, four);
    sums3 = addRow(sums3, input3, i, four);
  }
  storeFour(row, column, sums0);
  storeFour(row + 1u, column, sums1);
  if (rows > 2u) {
    storeFour(row + 2u, column, sums2);
  }
  if (rows > 3u) {
    storeFour(row + 3u, column, sums3);
  }
}

@compute @workgroup_size(4)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let column = (id.z * grid.x * 4u + id.x) * 8u;
  let row = id.y * 4u;
  if (column >= args.outputSize) {
    return;
  }
  if (numRows() - row == 1u) {
    oneRow(row, column);
    return;
  }
  fourRows(row, column);
  if (column + 4u < args.outputSize) {
    fourRows(row, column + 4u);
  }
}
