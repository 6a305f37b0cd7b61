// How decode-matrix.wgsl multiplies keys in int8 by matrices of bytes: as they are stored, whole rows at a time, so that nothing is unpacked. Queries are
// those of query-bytes.wgsl. Sums are exact.

const byteMatrices = headDim / 32u;
const rowUnits = headDim / 16u; // vectors of sixteen bytes
const byteStride = rowUnits + 1u;
const queryColumns = headDim / 4u;

alias Queries = array<ByteHeads, 2u * byteMatrices>; // high bytes, then low ones
alias Products = ByteSums;

var<workgroup> largest: array<atomic<u32>, tileHeads>; // the bits of a query's largest magnitude
var<workgroup> querySteps: array<vec4f, tileHeads / 4u>;

// Puts queries where matrices are loaded from: bytes [high, low][head][value], 0 for heads that there are not.
fn stageQueries(token: u32, firstHead: u32, heads: u32, position: u32, local: u32) {
  for (var i = local; i < heads * queryColumns; i += invocations) {
    let magnitudes = abs(loadQuery(token, firstHead + i / queryColumns, i % queryColumns, position));
    atomicMax(&largest[i / queryColumns], bitcast<u32>(max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w))));
  }
  workgroupBarrier();
  if (local < tileHeads / 4u) {
    querySteps[local] = vec4f(queryStep(4u * local), queryStep(4u * local + 1u), queryStep(4u * local + 2u), queryStep(4u * local + 3u));
  }
  for (var i = local; i < tileHeads * rowUnits; i += invocations) {
    let head = i / rowUnits;
    let unit = i % rowUnits;
    var high = vec4<u32>();
    var low = vec4<u32>();
    if (head < heads) {
      // Not unrolled: four at once would need more registers than all that follows.
      for (var c = 0u; c < 4u; c++) {
        let query = roundQuery(loadQuery(token, firstHead + head, 4u * unit + c, position) / queryStep(head));
        high = vec4<u32>(high.yzw, query.x);
        low = vec4<u32>(low.yzw, query.y);
      }
    }
    staged[0][head * byteStride + unit] = high;
    staged[0][(tileHeads + head) * byteStride + unit] = low;
  }
}

fn queryStep(head: u32) -> f32 {
  return max(bitcast<f32>(atomicLoad(&largest[head])), 1e-30) / mostQuery;
}

fn stagedQueries() -> Queries {
  var queries: Queries;
  for (var part = 0u; part < 2u; part++) { // unrolled
    for (var d = 0u; d < byteMatrices; d++) { // unrolled
      queries[part * byteMatrices + d] = loadByteQueries(part * tileHeads * byteStride + 2u * d);
    }
  }
  return queries;
}

// The products of the 16 keys of block b, in steps of the query.
fn keyProducts(loads: Loads, b: u32, queries: Queries, subgroup: u32, lane: u32) -> Products {
  for (var r = 0u; r < loadRounds; r++) { // unrolled
    staged[subgroup][(r * rowsAtOnce + lane / rowUnits) * byteStride + lane % rowUnits] = loads[b * blockLoads + r];
  }
  workgroupBarrier();
  var products = noByteSums();
  for (var d = 0u; d < byteMatrices; d++) { // unrolled
    products = multiplyAddBytes(loadByteKeys(subgroup, 2u * d), queries[d], products);
  }
  products = times256(products);
  for (var d = 0u; d < byteMatrices; d++) { // unrolled
    products = multiplyAddBytes(loadByteKeys(subgroup, 2u * d), queries[byteMatrices + d], products);
  }
  workgroupBarrier();
  return products;
}

fn storeProducts(subgroup: u32, at: u32, products: Products) {
  storeByteSums(subgroup, at, products);
}

// Of a head, head i of four, as it was stored; without the scale of the key.
fn wholeProduct(stored: u32, quad: u32, i: u32) -> f32 {
  return querySteps[quad][i] * f32(bitcast<i32>(stored));
}
