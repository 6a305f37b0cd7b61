// Scatters the step's changed block-table entries: an invocation writes one (index, value) pair. What a step sends to the GPU thus grows
// with the blocks that it adds, not with the context.

@group(0) @binding(0) var<storage, read> plan: array<u32>;
@group(0) @binding(1) var<storage, read_write> blockTable: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < plan[NUM_TABLE_UPDATES]) {
    let at = plan[TABLE_UPDATES] + 2u * id.x;
    blockTable[plan[at]] = plan[at + 1u];
  }
}
