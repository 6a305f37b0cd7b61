// What the attention kernels read beside the pool. `args` has, too, what stays the same in a layer: it is at hand at once, where memory would be
// waited for.
//   queryStride   f32 values from one token's queries to the next's; queryOffset: where a token's begin
//   tableStride   block-table entries of one sequence
//   keyScale      a stored key times this is the key, and valueScale the same of values, where tokens have no scale of their own
//   logSumExp     where in `partials` rows leave their log-sum-exp; 0: nowhere

@group(0) @binding(0) var<storage, read> query: array<f32>;
@group(0) @binding(1) var<storage, read> blockTable: array<u32>;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> rotary: array<vec2f>;
@group(0) @binding(4) var<storage, read> layerData: array<f32>; // a slope for each head, a sink logit for each, the data of the caller's modifications

fn queryAt(token: u32, head: u32) -> u32 {
  return token * args.queryStride + args.queryOffset + head * headDim;
}

// For rotary.wgsl.
fn unturned(at: u32) -> f32 {
  return query[at];
}

// Values [4 * column, 4 * column + 4) of a query, turned to its position.
fn loadQuery(token: u32, head: u32, column: u32, position: u32) -> vec4f {
  return loadTurned(queryAt(token, head), 4u * column, position);
}
