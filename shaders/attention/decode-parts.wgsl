// What both decode kernels share: shaders/attention/decode.wgsl and decode-teams.wgsl.

const columns = headDim / 4u;
const units = headDim / unit; // loads of a row
const unitsPerThread = units / keyThreads;
const teams = invocations / keyThreads;
const rawLoads = keysPerThread * unitsPerThread;

// A new reference is taken when a score is higher by so much: e^16 is far from where sums of weights overflow, and from where the weights of a
// few thousand small ones are lost.
const slack = 16.0;

// Columns [4 * column, 4 * column + 4) of a query, turned and scaled.
fn loadQuery(token: u32, head: u32, column: u32, position: u32) -> vec4f {
  let at = token * constants.queryStride + constants.queryOffset + head * headDim;
  var values: vec4f;
  for (var i = 0u; i < 4u; i++) {
    let d = column * 4u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, constants.rotaryHalf)], d, position, constants.rotaryHalf);
  }
  return values;
}

// The slot of a key, or noRow for one that is not visible or not of the item.
fn findSlot(key: u32, keyEnd: u32, span: Span, tableStart: u32) -> u32 {
  if (key >= keyEnd || !isVisible(span, key)) {
    return noRow;
  }
  return slotOf(tableStart, key);
}

// The address of the row of a slot's key, or noRow.
fn findRow(slot: u32, kvHead: u32) -> u32 {
  return select(keyAddress(slot, kvHead), noRow, slot == noRow);
}
