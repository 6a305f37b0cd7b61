// Matrix product for many input rows: a workgroup computes a tile of rowTile input rows x columnTile weight rows ("columns", of the output), an
// invocation a block of rowsPerThread x columnsPerThread of it, in registers.
//
// Both operands pass through workgroup memory in f32, `depth` of the columns that are summed over (k) at a time, and there a vector holds four
// neighbouring rows at one k: an invocation loads as many vectors as its block has rows and columns together for four of the sums' terms, and
// neighbouring invocations load neighbouring vectors, so that no banks collide. Who stages turns four rows by loading from each and storing
// across; a task is four rows of one operand and four (inputs) or eight (weights) k. The next tasks' loads are on their way while the product is
// worked out. With two stages the next tiles have a place of their own: one barrier for each round instead of two.
//
// Rows and columns beyond the last repeat the last one and are not stored; beyond the last k are zeros.

const rowQuads = rowTile / 4u;
const columnQuads = columnTile / 4u;
const rowThreads = rowTile / rowsPerThread; // a multiple of 4
const columnThreads = columnTile / columnsPerThread; // a multiple of 8
const invocations = rowThreads * columnThreads;
const blockRowQuads = rowsPerThread / 4u;
const blockColumnQuads = columnsPerThread / 4u;
const inputTasks = rowQuads * (depth / 4u);
const weightTasks = columnQuads * (depth / 8u);
const tasksPerThread = (inputTasks + weightTasks + invocations - 1u) / invocations;

// Arrays of arrays, so that indices which are constants cost nothing: a check of bounds, in compilers that check, is of the others alone.
var<workgroup> inputTile: array<array<array<array<vec4f, rowThreads>, blockRowQuads>, depth>, stages>; // [stage][k][row / 4]
var<workgroup> weightTile: array<array<array<array<vec4f, columnThreads>, blockColumnQuads>, depth>, stages>; // [stage][k][column / 4]
var<workgroup> squares: array<vec4f, inputTasks>; // [k / 4][row / 4]

// What a task brought: four rows' loads, and the gains of an input task.
struct Task {
  loads: array<Packed8, 4>,
  gains: vec4f,
}

fn loadTask(t: u32, first: u32, firstRow: u32, firstColumn: u32) -> Task {
  var task: Task;
  if (t < inputTasks) {
    let k = first + t / rowQuads * 4u;
    if (k < args.inputSize) {
      let row = firstRow + t % rowQuads * 4u;
      for (var l = 0u; l < 4u; l++) { // unrolled
        let at = inputRow(min(row + l, numRows() - 1u)) * (args.inputStride / 4u) + k / 4u;
        task.loads[l].first = bitcast<vec4<u32>>(input[at]);
      }
      if (normalized) {
        task.gains = gain[(args.gainOffset + k) / 4u];
      }
    }
  } else if (t < inputTasks + weightTasks) {
    let w = t - inputTasks;
    let k = first + w / columnQuads * 8u;
    if (k < args.inputSize) {
      let column = firstColumn + w % columnQuads * 4u;
      for (var l = 0u; l < 4u; l++) { // unrolled
        task.loads[l] = loadPacked8((min(column + l, args.outputSize - 1u) * args.inputSize + k) / 8u);
      }
    }
  }
  return task;
}

// Puts a task into the tiles. Gives the sums of squares of its four input rows.
fn keepTask(task: Task, t: u32, stage: u32) -> vec4f {
  var sums = vec4f(0.0);
  if (t < inputTasks) {
    let a = bitcast<vec4f>(task.loads[0].first);
    let b = bitcast<vec4f>(task.loads[1].first);
    let c = bitcast<vec4f>(task.loads[2].first);
    let d = bitcast<vec4f>(task.loads[3].first);
    let first = t / rowQuads * 4u;
    let quad = t % rowQuads;
    for (var k = 0u; k < 4u; k++) { // unrolled
      let four = vec4f(a[k], b[k], c[k], d[k]);
      if (normalized) {
        sums += four * four;
        inputTile[stage][first + k][quad / rowThreads][quad % rowThreads] = four * task.gains[k];
      } else {
        inputTile[stage][first + k][quad / rowThreads][quad % rowThreads] = four;
      }
    }
  } else if (t < inputTasks + weightTasks) {
    let w = t - inputTasks;
    let a = unpackWeights8(task.loads[0]);
    let b = unpackWeights8(task.loads[1]);
    let c = unpackWeights8(task.loads[2]);
    let d = unpackWeights8(task.loads[3]);
    let first = w / columnQuads * 8u;
    let quad = w % columnQuads;
    for (var k = 0u; k < 4u; k++) { // unrolled
      weightTile[stage][first + k][quad / columnThreads][quad % columnThreads] = vec4f(a.low[k], b.low[k], c.low[k], d.low[k]);
      weightTile[stage][first + k + 4u][quad / columnThreads][quad % columnThreads] = vec4f(a.high[k], b.high[k], c.high[k], d.high[k]);
    }
  }
  return sums;
}

fn storeFour(row: u32, column: u32, values: vec4f) {
  for (var j = 0u; j < 4u; j++) { // unrolled
    if (column + j < args.outputSize) {
      if (!swiglu) {
        store(row, column + j, withBias(values[j], column + j));
      } else if (j % 2u == 0u) {
        store(row, (column + j) / 2u, silu(withBias(values[j], column + j)) * withBias(values[(j + 1u) % 4u], column + j + 1u));
      }
    }
  }
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  // Neighbouring workgroups take other rows of the same columns, whose weights are in the GPU's cache then.
  let firstRow = workgroup.x * rowTile;
  let firstColumn = workgroup.y * columnTile;
  // 32 neighbouring invocations are 4 x 8 of the tile: they load few different vectors.
  let x = local % 8u + local / 32u % (columnThreads / 8u) * 8u;
  let y = local / 8u % 4u + local / (4u * columnThreads) * 4u;

  var sums: array<vec4f, rowsPerThread * blockColumnQuads>;
  for (var n = 0u; n < rowsPerThread * blockColumnQuads; n++) { // unrolled
    sums[n] = vec4f(0.0);
  }
  var sumsOfSquares: array<vec4f, tasksPerThread>;
  var tasks: array<Task, tasksPerThread>;
  for (var n = 0u; n < tasksPerThread; n++) { // unrolled
    sumsOfSquares[n] = vec4f(0.0);
    tasks[n] = loadTask(n * invocations + local, 0u, firstRow, firstColumn);
  }
  var stage = 0u;
  for (var first = 0u; first < args.inputSize; first += depth) {
    for (var n = 0u; n < tasksPerThread; n++) { // unrolled
      sumsOfSquares[n] += keepTask(tasks[n], n * invocations + local, stage);
    }
    workgroupBarrier();
    for (var n = 0u; n < tasksPerThread; n++) { // unrolled
      tasks[n] = loadTask(n * invocations + local, first + depth, firstRow, firstColumn);
    }
    for (var k = 0u; k < depth; k++) { // unrolled if unrollDepth
      var w: array<vec4f, blockColumnQuads>;
      for (var c = 0u; c < blockColumnQuads; c++) { // unrolled
        w[c] = weightTile[stage][k][c][x];
      }
      for (var q = 0u; q < blockRowQuads; q++) { // unrolled
        let four = inputTile[stage][k][q][y];
        for (var i = 0u; i < 4u; i++) { // unrolled
          for (var c = 0u; c < blockColumnQuads; c++) { // unrolled
            sums[(4u * q + i) * blockColumnQuads + c] += four[i] * w[c];
          }
        }
      }
    }
    if (stages == 1u) {
      workgroupBarrier();
    }
    stage = (stage + 1u) % stages;
  }

  if (normalized) {
    for (var n = 0u; n < tasksPerThread; n++) { // unrolled
      if (n * invocations + local < inputTasks) {
        squares[n * invocations + local] = sumsOfSquares[n];
      }
    }
    workgroupBarrier();
  }
  for (var q = 0u; q < blockRowQuads; q++) { // unrolled
    let quad = y + q * rowThreads;
    var total = vec4f(0.0);
    if (normalized) {
      for (var part = 0u; part < depth / 4u; part++) {
        total += squares[part * rowQuads + quad];
      }
    }
    for (var i = 0u; i < 4u; i++) { // unrolled
      let row = firstRow + quad * 4u + i;
      if (row < numRows()) {
        for (var c = 0u; c < blockColumnQuads; c++) { // unrolled
          var values = sums[(4u * q + i) * blockColumnQuads + c];
          if (normalized) {
            values *= inverseRms(total[i]);
          }
          storeFour(row, firstColumn + (x + c * columnThreads) * 4u, values);
        }
      }
    }
  }
}
