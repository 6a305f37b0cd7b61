// The paged pool of one layer: [blocks][key, value][blockSize][numKvHeads][headDim], the layout of src/attention/layout.ts.
// A row is the headDim values of one token and head. Row numbers count rows of the whole pool, keys and values alike.
// Needs the prelude's `headDim` and `kvDtype`.

override blockSize: u32;
override numKvHeads: u32;

const kvF32 = 0u;
const kvF16 = 1u;

// The row that holds the key of a slot; slot = block * blockSize + offset within the block.
fn keyRow(slot: u32, head: u32) -> u32 {
  let block = slot / blockSize;
  return (block * blockSize + slot) * numKvHeads + head;
}

// The value's row lies this far behind the key's.
fn valueRowOffset() -> u32 {
  return blockSize * numKvHeads;
}
