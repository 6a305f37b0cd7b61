// How multiply-f16.wgsl multiplies keys in int8: as they are stored, four at a time, by the dot products of bytes that many GPUs have an instruction for.
// Queries are those of query-bytes.wgsl. Sums are exact.

alias KeyCodes = u32;
alias Product = vec2<i32>; // with high bytes, with low ones

fn keyCodes(load: PoolLoad, v: u32) -> KeyCodes {
  return load[v];
}

fn multiplyAdd(k: KeyCodes, q: Query, sum: Product) -> Product {
  return sum + Product(dot4I8Packed(k, q.x), dot4I8Packed(k, q.y));
}

fn productSum(product: Product) -> f32 {
  return f32(256 * product.x + product.y);
}
