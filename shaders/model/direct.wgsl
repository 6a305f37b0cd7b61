// Matrix product without workgroup memory, for adapters that compute on the CPU: there a barrier costs more than what it lets the
// invocations share. An invocation computes four input rows x four weight rows in registers; a single input row is computed alone.

struct Weights4 {
  a: Eight,
  b: Eight,
  c: Eight,
  d: Eight,
}

// Four products of an input row, and the row's sum of squares so far.
struct Sums {
  products: vec4f,
  squares: f32,
}

fn weightsOf(column: u32, eights: u32, i: u32) -> Eight {
  return loadWeights8(min(column, args.outputSize - 1u) * eights + i);
}

fn addRow(sums: Sums, inputAt: u32, i: u32, weights: Weights4) -> Sums {
  var values = Eight(input[inputAt + 2u * i], input[inputAt + 2u * i + 1u]);
  var squares = sums.squares;
  if (normalized) {
    squares += dot8(values, values);
    values.low *= gain[args.gainOffset / 4u + 2u * i];
    values.high *= gain[args.gainOffset / 4u + 2u * i + 1u];
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

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let column = (id.z * grid.x * 16u + id.x) * 4u;
  let row = id.y * 4u;
  if (column >= args.outputSize) {
    return;
  }
  let rows = min(4u, numRows() - row);
  let inputPitch = args.inputStride / 4u;
  let at0 = inputRow(row) * inputPitch;
  var at1 = 0u;
  var at2 = 0u;
  var at3 = 0u;
  if (rows > 1u) {
    at1 = inputRow(row + 1u) * inputPitch;
  }
  if (rows > 2u) {
    at2 = inputRow(row + 2u) * inputPitch;
  }
  if (rows > 3u) {
    at3 = inputRow(row + 3u) * inputPitch;
  }
  let eights = args.inputSize / 8u;
  var sums0 = Sums(vec4f(0.0), 0.0);
  var sums1 = sums0;
  var sums2 = sums0;
  var sums3 = sums0;
  for (var i = 0u; i < eights; i++) {
    let four = Weights4(
      weightsOf(column, eights, i),
      weightsOf(column + 1u, eights, i),
      weightsOf(column + 2u, eights, i),
      weightsOf(column + 3u, eights, i),
    );
    sums0 = addRow(sums0, at0, i, four);
    if (rows > 1u) {
      sums1 = addRow(sums1, at1, i, four);
      sums2 = addRow(sums2, at2, i, four);
      sums3 = addRow(sums3, at3, i, four);
    }
  }
  storeFour(row, column, sums0);
  if (rows > 1u) {
    storeFour(row + 1u, column, sums1);
  }
  if (rows > 2u) {
    storeFour(row + 2u, column, sums2);
  }
  if (rows > 3u) {
    storeFour(row + 3u, column, sums3);
  }
}
