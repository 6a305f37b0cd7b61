// How the decode kernels multiply keys in 8 bits beside values-f16.wgsl: in pairs of f16, too. Queries are those of query-steps.wgsl, rounded such that no sum
// of products overflows; a query's values are in the order of codes.

alias Query = vec4<f16>; // four values, in steps
alias KeyCodes = vec4<f16>;
alias Product = vec4<f16>;

const keyFactor = halvesFactor;

// Products of a query that an invocation adds up in one half, or in two which are then added.
const mostQuery = largestHalf / (halvesTop * f32(keyUnits * unit / 2u));

fn roundQuery(values: vec4f) -> Query {
  return Query(values.xzyw);
}

fn keyCodes(load: PoolLoad, v: u32) -> KeyCodes {
  return unpackHalves(load, v);
}

fn multiplyAdd(k: KeyCodes, q: Query, sum: Product) -> Product {
  return fma(k, q, sum);
}

fn productSum(product: Product) -> f32 {
  let pairs = product.xy + product.zw;
  return f32(pairs.x) + f32(pairs.y);
}
