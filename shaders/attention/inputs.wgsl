// What the attention kernels read beside the pool.

// What stays the same in a layer.
struct Constants {
  queryStride: u32, // f32 values from one token's queries to the next's
  queryOffset: u32,
  rotaryHalf: u32,
  tableStride: u32, // block-table entries of one sequence
  keyScale: f32, // a stored key times this is the key, where tokens have no scale of their own
  valueScale: f32,
  alibi: u32, // see score.wgsl
  sinks: u32,
  logSumExp: u32, // where in `partials` rows leave their log-sum-exp; 0: nowhere
  values: array<f32>, // a slope for each head, a sink logit for each head, the data of the caller's modifications
}

@group(0) @binding(0) var<storage, read> query: array<f32>;
@group(0) @binding(1) var<storage, read> blockTable: array<u32>;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> rotary: array<vec2f>;
@group(0) @binding(4) var<storage, read> constants: Constants;
