// Matrix product by matrices of 16 x 16 (see subgroup-matrix.wgsl), f16 operands and f32 sums: a workgroup computes a tile of rowTile input rows x
// columnTile weight rows ("columns", of the output). Its subgroups stand in a grid of rowGroups x columnGroups, each with a block of rowBlocks x
// columnBlocks matrices in registers; depthGroups of them share a block, each with a part of the columns that are summed over (k), and are
// added up at the end. A matrix that is loaded from workgroup memory, which limits the products, meets rowBlocks or columnBlocks others.
//
// Both operands pass through workgroup memory in f16, `depth` k at a time, as they lie in memory: eight k to a vector, rows an odd number of
// vectors apart, so that no banks collide. The next tiles' loads are on their way while the product is worked out. With two stages they have a
// place of their own: one barrier for each round instead of two.
//
// Input rows are rounded to f16, with their gain, and what f16 cannot hold becomes the largest that it can; weights have 16 bits, and bf16 turns
// into f16. Rows and columns beyond the last repeat the last one and are not stored; beyond the last k are zeros.

const groups = rowGroups * columnGroups;
const subgroupCount = groups * depthGroups;
const invocations = 32u * subgroupCount;
const rowTile = rowGroups * rowBlocks * 16u;
const columnTile = columnGroups * columnBlocks * 16u;
const depthUnits = depth / 8u; // vectors of eight f16
const ownUnits = depthUnits / depthGroups;
const stagedStride = ownUnits + 1u; // odd
const keptStride = 5u; // of a result's rows
const partSize = 16u * max(stagedStride, keptStride);
const stageParts = (rowTile + columnTile) / 16u * depthGroups;
const rowStep = invocations / depthUnits; // rows that all invocations load at once
const inputLoads = (rowTile + rowStep - 1u) / rowStep;
const weightLoads = (columnTile + rowStep - 1u) / rowStep;
const ownDepthBlocks = depth / 16u / depthGroups;
const keptBlocks = min(columnBlocks, 2u); // matrices of a result that a subgroup writes out at once
const keptChunks = columnBlocks / keptBlocks;

// Operands, f16: input rows, then weights [16 rows][depth group], each part [row][unit]; in the end squares, then results, f32.
var<workgroup> staged: array<array<vec4<u32>, partSize>, max(stages * stageParts, subgroupCount * keptBlocks)>;
var<workgroup> inverses: array<f32, rowTile>; // 1 / rms of each input row

fn loadInput(at: u32, k: u32) -> Eight {
  if (k < args.inputSize) {
    return Eight(input[at + k / 4u], input[at + k / 4u + 1u]);
  }
  return Eight();
}

fn loadGains(k: u32) -> Eight {
  if (normalized && k < args.inputSize) {
    let at = (args.gainOffset + k) / 4u;
    return Eight(gain[at], gain[at + 1u]);
  }
  return Eight();
}

fn loadWeights(at: u32, k: u32) -> vec4<u32> {
  if (k < args.inputSize) {
    return weights[at + k / 8u];
  }
  return vec4<u32>();
}

// Where a row's unit is: the part, and its place there. Weights' rows are behind the input rows.
fn partOf(row: u32, depthGroup: u32) -> u32 {
  return row / 16u * depthGroups + depthGroup;
}

fn placeOf(row: u32, unit: u32) -> u32 {
  return row % 16u * stagedStride + unit % ownUnits;
}

// The product of a row and a column of the blocks that were written out last.
fn keptSum(block: u32, row: u32, column: u32) -> f32 {
  var sum = 0.0;
  for (var g = 0u; g < depthGroups; g++) { // unrolled
    let part = (g * groups + block) * keptBlocks + column / 16u;
    sum += bitcast<f32>(staged[part][row * keptStride + column % 16u / 4u][column % 4u]);
  }
  return sum;
}

fn multiplyTile(workgroup: vec3u, local: u32, subgroup: u32) {
  // Neighbouring workgroups take other rows of the same columns, whose weights are in the GPU's cache then.
  let firstRow = workgroup.x * rowTile;
  let firstColumn = workgroup.y * columnTile;
  let block = subgroup % groups;
  let depthGroup = subgroup / groups;
  let firstLeft = partOf(block / columnGroups * rowBlocks * 16u, depthGroup);
  let firstRight = partOf(rowTile + block % columnGroups * columnBlocks * 16u, depthGroup);

  // An invocation loads the same eight k of every rowStep-th row of both operands.
  let rows = numRows();
  let unit = local % depthUnits;
  let ownRow = local / depthUnits;
  let ownGroup = unit / ownUnits;
  var inputAt: array<u32, inputLoads>;
  var inputs: array<Eight, inputLoads>;
  var sumsOfSquares: array<f32, inputLoads>;
  for (var n = 0u; n < inputLoads; n++) { // unrolled
    inputAt[n] = inputRow(min(firstRow + ownRow + n * rowStep, rows - 1u)) * (args.inputStride / 4u);
    inputs[n] = loadInput(inputAt[n], 8u * unit);
    sumsOfSquares[n] = 0.0;
  }
  var weightsAt: array<u32, weightLoads>;
  var columns: array<vec4<u32>, weightLoads>;
  for (var n = 0u; n < weightLoads; n++) { // unrolled
    weightsAt[n] = min(firstColumn + ownRow + n * rowStep, args.outputSize - 1u) * (args.inputSize / 8u);
    columns[n] = loadWeights(weightsAt[n], 8u * unit);
  }
  var gains = loadGains(8u * unit);
  var sums: array<Result, rowBlocks * columnBlocks>;
  for (var i = 0u; i < rowBlocks * columnBlocks; i++) { // unrolled
    sums[i] = zeroResult();
  }

  var base = 0u;
  for (var first = 0u; first < args.inputSize; first += depth) {
    for (var n = 0u; n < inputLoads; n++) { // unrolled
      var values = inputs[n];
      if (normalized) {
        sumsOfSquares[n] += dot8(values, values);
        values = Eight(values.low * gains.low, values.high * gains.high);
      }
      if (ownRow + n * rowStep < rowTile) {
        let row = ownRow + n * rowStep;
        staged[base + partOf(row, ownGroup)][placeOf(row, unit)] = packHalf8(clampHalf8(values));
      }
    }
    for (var n = 0u; n < weightLoads; n++) { // unrolled
      var packed = columns[n];
      if (weightDtype == weightBF16) {
        packed = packHalf8(clampHalf8(unpackBrain8(packed)));
      }
      if (ownRow + n * rowStep < columnTile) {
        let row = rowTile + ownRow + n * rowStep;
        staged[base + partOf(row, ownGroup)][placeOf(row, unit)] = packed;
      }
    }
    workgroupBarrier();
    let next = first + depth + 8u * unit;
    for (var n = 0u; n < inputLoads; n++) { // unrolled
      inputs[n] = loadInput(inputAt[n], next);
    }
    for (var n = 0u; n < weightLoads; n++) { // unrolled
      columns[n] = loadWeights(weightsAt[n], next);
    }
    gains = loadGains(next);
    for (var d = 0u; d < ownDepthBlocks; d++) { // unrolled
      var lefts: array<Left, rowBlocks>;
      for (var r = 0u; r < rowBlocks; r++) { // unrolled
        lefts[r] = loadRows(base + firstLeft + r * depthGroups, 2u * d);
      }
      for (var c = 0u; c < columnBlocks; c++) { // unrolled
        let right = loadColumns(base + firstRight + c * depthGroups, 2u * d);
        for (var r = 0u; r < rowBlocks; r++) { // unrolled
          sums[r * columnBlocks + c] = multiplyAdd(lefts[r], right, sums[r * columnBlocks + c]);
        }
      }
    }
    if (stages == 1u) {
      workgroupBarrier();
    } else {
      base = stageParts - base;
    }
  }

  workgroupBarrier();
  if (normalized) {
    for (var n = 0u; n < inputLoads; n++) { // unrolled
      if (ownRow + n * rowStep < rowTile) {
        let row = ownRow + n * rowStep;
        staged[partOf(row, ownGroup)][placeOf(row, unit)] = vec4<u32>(bitcast<u32>(sumsOfSquares[n]));
      }
    }
    workgroupBarrier();
    for (var row = local; row < rowTile; row += invocations) {
      var total = 0.0;
      for (var u = 0u; u < depthUnits; u++) {
        total += bitcast<f32>(staged[partOf(row, u / ownUnits)][placeOf(row, u)].x);
      }
      inverses[row] = inverseRms(total);
    }
    workgroupBarrier();
  }
  let results = select(16u * keptBlocks, 8u * keptBlocks, swiglu); // of a row of a chunk
  for (var r = 0u; r < rowBlocks; r++) { // unrolled
    for (var c = 0u; c < keptChunks; c++) { // unrolled
      for (var b = 0u; b < keptBlocks; b++) { // unrolled
        storeResult(subgroup * keptBlocks + b, sums[r * columnBlocks + c * keptBlocks + b]);
      }
      workgroupBarrier();
      for (var i = local; i < groups * 16u * results; i += invocations) {
        let source = i / (16u * results);
        let blockRow = i / results % 16u;
        let blockColumn = select(i % results, 2u * (i % results), swiglu);
        let tileRow = (source / columnGroups * rowBlocks + r) * 16u + blockRow;
        let column = firstColumn + (source % columnGroups * columnBlocks + c * keptBlocks) * 16u + blockColumn;
        if (firstRow + tileRow < rows && column < args.outputSize) {
          var inverse = 1.0;
          if (normalized) {
            inverse = inverses[tileRow];
          }
          let value = withBias(keptSum(source, blockRow, blockColumn) * inverse, column);
          if (swiglu) {
            let up = withBias(keptSum(source, blockRow, blockColumn + 1u) * inverse, column + 1u);
            store(firstRow + tileRow, column / 2u, silu(value) * up);
          } else {
            store(firstRow + tileRow, column, value);
          }
        }
      }
      workgroupBarrier();
    }
  }
}
