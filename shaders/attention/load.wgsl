// Reads rows of the pool, through the prelude's `poolLoad(buffer, at) -> PoolLoad`, a vector of `loadWords` u32.

// Values [8 * i, 8 * i + 8) of the row at an address, without their scale.
fn loadRow8(address: u32, i: u32) -> Eight {
  let buffer = address >> bufferShift;
  let at = address & addressMask;
  if (kvDtype == kvF32) {
    return Eight(bitcast<vec4f>(fourWords(buffer, at, 8u * i)), bitcast<vec4f>(fourWords(buffer, at, 8u * i + 4u)));
  }
  if (kvDtype == kvF16) {
    return unpackHalf8(fourWords(buffer, at, 4u * i));
  }
  let words = twoWords(buffer, at, 2u * i);
  if (kvDtype == kvInt8) {
    return Eight(vec4f(unpack4xI8(words.x)), vec4f(unpack4xI8(words.y)));
  }
  if (kvDtype == kvE4m3) {
    return Eight(unpackE4m3(words.x), unpackE4m3(words.y));
  }
  return Eight(unpackE5m2(words.x), unpackE5m2(words.y));
}

fn rowScale(slot: u32, head: u32, isValue: u32) -> f32 {
  let word = scaleWord(slot, head, isValue);
  return bitcast<f32>(poolLoad(bufferOf(slot), word / loadWords)[word % loadWords]);
}

// The slot of a key of the sequence whose block table starts at `tableStart`.
fn slotOf(tableStart: u32, key: u32) -> u32 {
  return blockTable[tableStart + key / blockSize] * blockSize + key % blockSize;
}
