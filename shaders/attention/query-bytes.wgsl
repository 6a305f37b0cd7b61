// Queries for products of bytes: values are rounded to 16 bits, in two signed bytes each, 256 * high + low.

alias Query = vec2<u32>; // four values, in steps: their high bytes, their low ones

// So that high bytes are 127 at most. No sum overflows: 128 * 32512 for each of 256 values is 2^30.
const mostQuery = 32512.0;

fn roundQuery(values: vec4f) -> Query {
  let steps = vec4<i32>(round(values));
  let low = ((steps + 128) & vec4<i32>(255)) - 128;
  return Query(pack4xI8((steps - low) >> vec4<u32>(8u)), pack4xI8(low));
}
