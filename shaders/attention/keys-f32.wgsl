// How the decode kernels multiply keys: in f32. A code times codeFactor, after codeOffset is added, is the value without its scale.

alias Query = vec4f; // four values of a query
alias KeyCodes = vec4f; // four codes of a key
alias Product = f32; // of a query with codes of a key

const keyFactor = codeFactor;

var<workgroup> queries: array<Query, headTile * columns>;
var<workgroup> querySums: array<f32, headTile>; // where codes have an offset

fn loadQueries(token: u32, firstHead: u32, heads: u32, position: u32, local: u32) {
  for (var i = local; i < headTile * columns; i += invocations) {
    let head = i / columns;
    queries[i] = vec4f(0.0);
    if (head < heads) {
      queries[i] = args.scale * loadQuery(token, firstHead + head, i % columns, position);
    }
  }
}

// What the codes' offset adds to a head's scores.
fn finishQueries(local: u32) {
  if (codeOffset != 0.0) {
    workgroupBarrier();
    for (var g = local; g < headTile; g += invocations) {
      var total = vec4f(0.0);
      for (var c = 0u; c < columns; c++) { // unrolled
        total += queries[g * columns + c];
      }
      querySums[g] = codeOffset * (total.x + total.y + total.z + total.w);
    }
  }
}

// The product of a head's query with a whole key, without the key's scale.
fn wholeProduct(product: f32, g: u32) -> f32 {
  var whole = product;
  if (codeOffset != 0.0) {
    whole += querySums[g];
  }
  return whole;
}

fn keyCodes(load: PoolLoad, v: u32) -> KeyCodes {
  return unpackVector(load, v);
}

fn multiplyAdd(k: KeyCodes, q: Query, sum: Product) -> Product {
  return k.w * q.w + (k.z * q.z + (k.y * q.y + (k.x * q.x + sum)));
}

fn productSum(product: Product) -> f32 {
  return product;
}
