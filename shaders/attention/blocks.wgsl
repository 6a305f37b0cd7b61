// Where things are in the paged pool of one layer; the layout of src/attention/layout.ts. A pool is one buffer or several of
// `blocksPerBuffer` blocks each. A block is [key, value][numKvHeads][blockSize] rows of headDim values, then, where each token and head has
// scales of its own, [numKvHeads][blockSize] pairs of f32 (of the key, of the value).
// Needs the prelude's `headDim`, `kvDtype`, `tokenScales`, `poolBuffers`, `blocksPerBuffer`, and `loadWords`, the u32 of one load;
// for 8-bit codes it has `largestCode`, too, the largest magnitude of one that is written.

override blockSize: u32;
override numKvHeads: u32;

const kvF32 = 0u;
const kvF16 = 1u;
const kvInt8 = 2u;
const kvE4m3 = 3u;
const kvE5m2 = 4u;

const valueBytes = select(select(1u, 2u, kvDtype == kvF16), 4u, kvDtype == kvF32);
const rowWords = headDim * valueBytes / 4u;
const rowLoads = rowWords / loadWords;
const scaleWords = select(0u, 1u, tokenScales);

// An address counts loads from the start of a buffer; its upper bits number the buffer, where there are several.
const bufferShift = 29u;
const addressMask = select((1u << bufferShift) - 1u, 0xffffffffu, poolBuffers == 1u);

fn rowsOfBlock() -> u32 {
  return 2u * blockSize * numKvHeads;
}

// u32 of a block.
fn blockWords() -> u32 {
  return rowsOfBlock() * (rowWords + scaleWords);
}

// Which of a block's keys, or values, or pairs of scales; slot = block * blockSize + offset within the block.
fn rowInBlock(slot: u32, head: u32) -> u32 {
  return head * blockSize + slot % blockSize;
}

// The address of the row that holds a slot's key.
fn keyAddress(slot: u32, head: u32) -> u32 {
  let block = slot / blockSize;
  let row = rowInBlock(slot, head);
  if (poolBuffers == 1u) {
    return block * (blockWords() / loadWords) + row * rowLoads;
  }
  return ((block / blocksPerBuffer) << bufferShift) | (block % blocksPerBuffer * (blockWords() / loadWords) + row * rowLoads);
}

// The value's row lies this far behind the key's.
fn valueOffset() -> u32 {
  return blockSize * numKvHeads * rowLoads;
}

// Where the scales of a slot's key and value are, one behind the other, in u32 from the start of their buffer.
fn scaleWord(slot: u32, head: u32) -> u32 {
  return slot / blockSize % blocksPerBuffer * blockWords() + rowsOfBlock() * rowWords + 2u * rowInBlock(slot, head);
}

fn bufferOf(slot: u32) -> u32 {
  return slot / blockSize / blocksPerBuffer;
}
