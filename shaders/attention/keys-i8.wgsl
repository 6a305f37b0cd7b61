// How the decode kernels multiply keys in int8 where WGSL has dot products of bytes: as they are stored, four at a time, for which many GPUs have an
// instruction. Queries are those of query-steps.wgsl and query-bytes.wgsl. Sums are exact.

alias KeyCodes = u32;
alias Product = vec2<i32>; // with high bytes, with low ones

const keyFactor = 1.0;

fn keyCodes(load: PoolLoad, v: u32) -> KeyCodes {
  return load[v];
}

fn multiplyAdd(k: KeyCodes, q: Query, sum: Product) -> Product {
  return sum + Product(dot4I8Packed(k, q.x), dot4I8Packed(k, q.y));
}

fn productSum(product: Product) -> f32 {
  return f32(256 * product.x + product.y);
}
