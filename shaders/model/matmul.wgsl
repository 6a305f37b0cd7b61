// Matrix product for many input rows: a workgroup computes a tile of 64 input rows x 64 weight rows, 256 invocations of 4 x 4 each.
// Both operands pass through workgroup memory, 16 columns at a time: half of the invocations fetch eight weights each, the other half
// eight inputs. Rows of the tiles are five vectors apart, so that the 16 invocations that read 16 rows at once hit different banks.

const tile = 64u;
const depth = 4u; // vectors of four columns
const pitch = depth + 1u;

var<workgroup> inputTile: array<vec4f, tile * pitch>;
var<workgroup> weightTile: array<vec4f, tile * pitch>;
var<workgroup> squares: array<f32, 2u * tile>; // the two loaders of an input row

// The weight row that column c of the tile holds. An invocation owns columns x, x + 16, x + 32, x + 48; with swiglu two of these are a pair.
fn weightRow(firstColumn: u32, c: u32) -> u32 {
  if (swiglu) {
    return firstColumn + 2u * (c % 16u + c / 32u * 16u) + c / 16u % 2u;
  }
  return firstColumn + c;
}

fn products(a: vec4f, x: u32, k: u32) -> vec4f {
  return vec4f(
    dot(a, weightTile[x * pitch + k]),
    dot(a, weightTile[(x + 16u) * pitch + k]),
    dot(a, weightTile[(x + 32u) * pitch + k]),
    dot(a, weightTile[(x + 48u) * pitch + k]),
  );
}

fn storeFour(row: u32, firstColumn: u32, x: u32, sums: vec4f) {
  if (row >= numRows()) {
    return;
  }
  var values = sums;
  if (normalized) {
    let r = row % tile;
    values *= inverseRms(squares[2u * r] + squares[2u * r + 1u]);
  }
  if (swiglu) {
    for (var half = 0u; half < 2u; half++) {
      let column = weightRow(firstColumn, x + 32u * half);
      if (column < args.outputSize) {
        store(row, column / 2u, silu(withBias(values[2u * half], column)) * withBias(values[2u * half + 1u], column + 1u));
      }
    }
  } else {
    for (var j = 0u; j < 4u; j++) {
      let column = firstColumn + x + 16u * j;
      if (column < args.outputSize) {
        store(row, column, withBias(values[j], column));
      }
    }
  }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let firstColumn = workgroup.x * tile;
  let firstRow = workgroup.y * tile;
  let x = local % 16u;
  let y = local / 16u;
  let eights = args.inputSize / 8u;

  // What this invocation fetches: half (0 or 1) of the 16 columns of one tile row.
  let fetchesInput = local >= 128u;
  let fetched = local % 128u / 2u;
  let half = local % 2u;
  let isInput = fetchesInput && firstRow + fetched < numRows();
  let inputAt = select(0u, inputRow(firstRow + fetched) * (args.inputStride / 4u), isInput);
  let column = weightRow(firstColumn, fetched);

  var sums0 = vec4f(0.0);
  var sums1 = vec4f(0.0);
  var sums2 = vec4f(0.0);
  var sums3 = vec4f(0.0);
  var sumOfSquares = 0.0;
  for (var first = 0u; first < eights; first += depth / 2u) {
    let eight = first + half;
    var values = Eight(vec4f(0.0), vec4f(0.0));
    let at = fetched * pitch + 2u * half;
    if (fetchesInput) {
      if (isInput && eight < eights) {
        values = Eight(input[inputAt + 2u * eight], input[inputAt + 2u * eight + 1u]);
        if (normalized) {
          sumOfSquares += dot8(values, values);
          values.low *= gain[args.gainOffset / 4u + 2u * eight];
          values.high *= gain[args.gainOffset / 4u + 2u * eight + 1u];
        }
      }
      inputTile[at] = values.low;
      inputTile[at + 1u] = values.high;
    } else {
      if (column < args.outputSize && eight < eights) {
        values = loadWeights8(column * eights + eight);
      }
      weightTile[at] = values.low;
      weightTile[at + 1u] = values.high;
    }
    workgroupBarrier();
    for (var k = 0u; k < depth; k++) {
      sums0 += products(inputTile[y * pitch + k], x, k);
      sums1 += products(inputTile[(y + 16u) * pitch + k], x, k);
      sums2 += products(inputTile[(y + 32u) * pitch + k], x, k);
      sums3 += products(inputTile[(y + 48u) * pitch + k], x, k);
    }
    workgroupBarrier();
  }
  if (normalized) {
    if (fetchesInput) {
      squares[local % 128u] = sumOfSquares;
    }
    workgroupBarrier();
  }
  storeFour(firstRow + y, firstColumn, x, sums0);
  storeFour(firstRow + y + 16u, firstColumn, x, sums1);
  storeFour(firstRow + y + 32u, firstColumn, x, sums2);
  storeFour(firstRow + y + 48u, firstColumn, x, sums3);
}
