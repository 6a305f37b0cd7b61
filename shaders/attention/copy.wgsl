// Copies whole blocks of a layer's pool: for a fork whose sequences share a block that one of them is about to write. A workgroup copies 64
// words of one block; source and destination are never in one launch twice.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let pair = plan[BLOCK_COPIES] + workgroup.y * 2u;
  let word = workgroup.x * 64u + local;
  if (word >= blockWords()) {
    return;
  }
  let source = plan[pair];
  let destination = plan[pair + 1u];
  let value = poolRead(source / blocksPerBuffer, source % blocksPerBuffer * blockWords() + word);
  poolStore(destination / blocksPerBuffer, destination % blocksPerBuffer * blockWords() + word, value);
}
