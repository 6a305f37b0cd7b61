// Reads rows of the pool bound as `pool: array<vec4<u32>>`.

// Values [8 * i, 8 * i + 8) of a row.
fn loadRow8(row: u32, i: u32) -> Eight {
  if (kvDtype == kvF16) {
    return unpackHalf8(pool[row * (headDim / 8u) + i]);
  }
  let at = row * (headDim / 4u) + 2u * i;
  return Eight(bitcast<vec4f>(pool[at]), bitcast<vec4f>(pool[at + 1u]));
}

// The slot of a key position of the sequence whose block table starts at `tableStart`.
fn slotOf(tableStart: u32, position: u32) -> u32 {
  return blockTable[tableStart + position / blockSize] * blockSize + position % blockSize;
}
