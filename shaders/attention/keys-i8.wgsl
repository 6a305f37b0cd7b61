// How multiply-f16.wgsl multiplies keys in int8: as they are stored, four at a time, by the dot products of bytes that many GPUs have an instruction for.
// A query's values are rounded to 16 bits, in two signed bytes each: 256 * high + low. Sums are exact.

alias Query = vec2<u32>; // four values, in steps: their high bytes, their low ones
alias KeyCodes = u32;
alias Product = vec2<i32>; // with high bytes, with low ones

// So that high bytes are 127 at most. No sum overflows: 128 * 32512 for each of 256 values is 2^30.
const mostQuery = 32512.0;

fn roundQuery(values: vec4f) -> Query {
  let steps = vec4<i32>(round(values));
  let low = ((steps + 128) & vec4<i32>(255)) - 128;
  return Query(pack4xI8((steps - low) >> vec4<u32>(8u)), pack4xI8(low));
}

fn keyCodes(load: PoolLoad, v: u32) -> KeyCodes {
  return load[v];
}

fn multiplyAdd(k: KeyCodes, q: Query, sum: Product) -> Product {
  return sum + Product(dot4I8Packed(k, q.x), dot4I8Packed(k, q.y));
}

fn productSum(product: Product) -> f32 {
  return f32(256 * product.x + product.y);
}
