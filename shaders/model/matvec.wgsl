// Matrix product for few input rows, at the speed of reading the weights: a workgroup takes rowTile input rows and as many weight rows
// ("columns", of the output) as its teams have, so that a weight is read and unpacked once for all these rows.
//
// A team of `lanes` invocations shares columnsPerThread columns: each lane reads every lanes-th group of eight weights of them, in 16-byte loads
// where weights have 16 bits, and multiplies it with the same columns of all input rows. The loads of `steps` groups are on their way meanwhile.
// The lanes' parts are added up at the end, through workgroup memory, a few rows at a time: what a workgroup has of it keeps others from its
// core. `helpers` invocations share the parts of a sum. Input rows beyond the last and columns beyond the last repeat the last one and are not
// stored.

const columns = teams * columnsPerThread;
const invocations = teams * lanes;
const sumsOfRow = columns + 1u; // the last one is of the row's squares
const partStride = lanes + helpers; // keeps the banks of workgroup memory apart
const squaresPerThread = (rowTile + teams - 1u) / teams;

var<workgroup> parts: array<array<f32, partStride>, partRows * sumsOfRow>; // [row and column][lane]
var<workgroup> totals: array<array<f32, helpers>, rowTile * sumsOfRow>; // [row and column][helper]

// As multiplications with an addition each.
fn addDot8(sum: f32, a: Eight, b: Eight) -> f32 {
  let low = a.low.w * b.low.w + (a.low.z * b.low.z + (a.low.y * b.low.y + (a.low.x * b.low.x + sum)));
  return a.high.w * b.high.w + (a.high.z * b.high.z + (a.high.y * b.high.y + (a.high.x * b.high.x + low)));
}

fn product(row: u32, column: u32) -> f32 {
  var sum = 0.0;
  for (var h = 0u; h < helpers; h++) { // unrolled
    sum += totals[row * sumsOfRow + column][h];
  }
  return sum;
}

fn inverseRmsOf(row: u32) -> f32 {
  if (!normalized) {
    return 1.0;
  }
  return inverseRms(product(row, columns));
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) local: u32) {
  // Neighbouring workgroups take other rows of the same columns, whose weights are in the GPU's cache then.
  let firstRow = workgroup.x * rowTile;
  let firstColumn = (workgroup.z * grid.y + workgroup.y) * columns;
  let team = local / lanes;
  let lane = local % lanes;
  let eights = args.inputSize / 8u;

  var weightsAt: array<u32, columnsPerThread>;
  for (var j = 0u; j < columnsPerThread; j++) { // unrolled
    weightsAt[j] = min(firstColumn + team * columnsPerThread + j, args.outputSize - 1u) * eights;
  }
  var packed: array<Packed8, steps * columnsPerThread>;
  for (var s = 0u; s < steps; s++) { // unrolled
    for (var j = 0u; j < columnsPerThread; j++) { // unrolled
      packed[s * columnsPerThread + j] = loadPacked8(weightsAt[j] + min(lane + s * lanes, eights - 1u));
    }
  }
  var inputAt: array<u32, rowTile>;
  for (var r = 0u; r < rowTile; r++) { // unrolled
    inputAt[r] = inputRow(min(firstRow + r, numRows() - 1u)) * (args.inputStride / 4u);
  }
  var sums: array<f32, rowTile * columnsPerThread>;
  for (var n = 0u; n < rowTile * columnsPerThread; n++) { // unrolled
    sums[n] = 0.0;
  }
  var sumsOfSquares: array<f32, squaresPerThread>; // of rows team, team + teams, ...: the teams share this work
  for (var n = 0u; n < squaresPerThread; n++) { // unrolled
    sumsOfSquares[n] = 0.0;
  }

  for (var first = lane; first < eights; first += steps * lanes) {
    for (var s = 0u; s < steps; s++) { // unrolled
      let i = first + s * lanes;
      if (i < eights) {
        var unpacked: array<Eight, columnsPerThread>;
        for (var j = 0u; j < columnsPerThread; j++) { // unrolled
          unpacked[j] = unpackWeights8(packed[s * columnsPerThread + j]);
          packed[s * columnsPerThread + j] = loadPacked8(weightsAt[j] + min(i + steps * lanes, eights - 1u));
        }
        var gains = Eight(vec4f(1.0), vec4f(1.0));
        if (normalized) {
          gains = Eight(gain[args.gainOffset / 4u + 2u * i], gain[args.gainOffset / 4u + 2u * i + 1u]);
        }
        // On the weights of a few columns, or on the values of a single row: whatever is fewer multiplications.
        if (normalized && rowTile > 1u) {
          for (var j = 0u; j < columnsPerThread; j++) { // unrolled
            unpacked[j] = Eight(unpacked[j].low * gains.low, unpacked[j].high * gains.high);
          }
        }
        for (var r = 0u; r < rowTile; r++) { // unrolled
          var values = Eight(input[inputAt[r] + 2u * i], input[inputAt[r] + 2u * i + 1u]);
          if (normalized && team == r % teams) {
            sumsOfSquares[r / teams] = addDot8(sumsOfSquares[r / teams], values, values);
          }
          if (normalized && rowTile == 1u) {
            values = Eight(values.low * gains.low, values.high * gains.high);
          }
          for (var j = 0u; j < columnsPerThread; j++) { // unrolled
            sums[r * columnsPerThread + j] = addDot8(sums[r * columnsPerThread + j], values, unpacked[j]);
          }
        }
      }
    }
  }

  for (var part = 0u; part < rowTile / partRows; part++) { // unrolled
    for (var p = 0u; p < partRows; p++) { // unrolled
      const r = part * partRows + p;
      for (var j = 0u; j < columnsPerThread; j++) { // unrolled
        parts[p * sumsOfRow + team * columnsPerThread + j][lane] = sums[r * columnsPerThread + j];
      }
      if (normalized && team == r % teams) {
        parts[p * sumsOfRow + columns][lane] = sumsOfSquares[r / teams];
      }
    }
    workgroupBarrier();
    for (var n = local; n < partRows * sumsOfRow * helpers; n += invocations) {
      let helper = n % helpers;
      var sum = 0.0;
      for (var l = 0u; l < lanes / helpers; l++) { // unrolled
        sum += parts[n / helpers][l * helpers + helper];
      }
      totals[part * partRows * sumsOfRow + n / helpers][helper] = sum;
    }
    workgroupBarrier();
  }

  let results = select(columns, columns / 2u, swiglu);
  for (var n = local; n < rowTile * results; n += invocations) {
    let r = n / results;
    let row = firstRow + r;
    let c = select(n % results, 2u * (n % results), swiglu);
    let column = firstColumn + c;
    if (row < numRows() && column < args.outputSize) {
      let inverse = inverseRmsOf(r);
      let value = withBias(product(r, c) * inverse, column);
      if (swiglu) {
        store(row, column / 2u, silu(value) * withBias(product(r, c + 1u) * inverse, column + 1u));
      } else {
        store(row, column, value);
      }
    }
  }
}
