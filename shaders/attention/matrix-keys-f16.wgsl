// How decode-matrix.wgsl multiplies keys: as f16, by queries rounded to f16.

alias Queries = array<Heads, matrices>;
alias Products = Sums;

// Puts queries where matrices are loaded from: f16 [head][unit], 0 for heads that there are not.
fn stageQueries(token: u32, firstHead: u32, heads: u32, position: u32, local: u32) {
  for (var i = local; i < tileHeads * units; i += invocations) {
    let head = i / units;
    var packed = vec4<u32>();
    if (head < heads) {
      packed = packedQuery(token, firstHead + head, i % units, position);
    }
    staged[0][head * queryStride + i % units] = packed;
  }
}

fn packedQuery(token: u32, head: u32, place: u32, position: u32) -> vec4<u32> {
  let column = 2u * unitAt(place);
  let low = inOrder(loadQuery(token, head, column, position));
  return packHalf8(clampHalf8(Eight(low, inOrder(loadQuery(token, head, column + 1u, position)))));
}

fn stagedQueries() -> Queries {
  var queries: Queries;
  for (var d = 0u; d < matrices; d++) { // unrolled
    queries[d] = loadQueries(2u * d);
  }
  return queries;
}

// The products of the 16 keys of block b.
fn keyProducts(loads: Loads, b: u32, queries: Queries, subgroup: u32, lane: u32) -> Products {
  var products = noSums();
  for (var part = 0u; part < parts; part++) { // unrolled
    stage(loads, b, part, subgroup, lane);
    workgroupBarrier();
    for (var d = 0u; d < partMatrices; d++) { // unrolled
      products = multiplyAdd(loadKeys(subgroup, 2u * d), queries[part * partMatrices + d], products);
    }
    workgroupBarrier();
  }
  return products;
}

fn storeProducts(subgroup: u32, at: u32, products: Products) {
  storeSums(subgroup, at, products);
}

// Of a head, head i of four, as it was stored; without the scale of the key.
fn wholeProduct(stored: u32, quad: u32, i: u32) -> f32 {
  return bitcast<f32>(stored);
}
