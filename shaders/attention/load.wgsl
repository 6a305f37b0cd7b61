// Reads rows of the pool by loads, through the prelude's `poolLoad(buffer, at) -> PoolLoad`, a vector of `loadWords` u32. The prelude also has
// `unit`, the values of a load, and `unpackVector(load, v) -> vec4f`, four of them as codes: codeFactor * (code + codeOffset) is the value
// without its scale.

// Unit i of the row at an address, as it is stored.
fn loadUnit(address: u32, i: u32) -> PoolLoad {
  return poolLoad(address >> bufferShift, (address & addressMask) + i);
}

const noRow = 0xffffffffu;

// A unit of a visible row, and zeros of one that is not: a slot that may hold garbage is not read.
fn loadVisible(row: u32, offset: u32, i: u32) -> PoolLoad {
  if (row == noRow) {
    return PoolLoad();
  }
  return loadUnit(row + offset, i);
}

// The scales of a slot's key and value, where tokens have them.
fn scalesOf(slot: u32, head: u32) -> vec2f {
  if (!tokenScales) {
    return vec2f(1.0);
  }
  let word = scaleWord(slot, head);
  let loaded = poolLoad(bufferOf(slot), word / loadWords);
  return bitcast<vec2f>(scalePair(loaded, word % loadWords));
}

fn findScales(slot: u32, head: u32) -> vec2f {
  if (slot == noRow) {
    return vec2f(1.0);
  }
  return scalesOf(slot, head);
}

// The slot of a key of the sequence whose block table starts at `tableStart`.
fn slotOf(tableStart: u32, key: u32) -> u32 {
  return blockTable[tableStart + key / blockSize] * blockSize + key % blockSize;
}
