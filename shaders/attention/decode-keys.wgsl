// What all decode kernels share: which keys a single query token sees, where they are, and what becomes of their scores.

fn isSeen(key: u32, keyEnd: u32, span: Span) -> bool {
  return key < keyEnd && isVisible(span, key);
}

// Keys [x, y) of the item that are seen and whose scores stay what they are. Where a tile has others, what the token's span says is read
// again, so that it takes no registers while tiles are plain, as nearly all are.
fn plainKeys(span: Span, keyEnd: u32) -> vec2<u32> {
  let inWindow = select(span.index + args.window, keyEnd, args.window == 0u);
  let unbiased = select(keyEnd, span.biasBegin, span.bias != 0u);
  return select(vec2<u32>(keyEnd, 0u), vec2<u32>(windowBegin(span), min(min(keyEnd, span.keyEnd), min(inWindow, unbiased))), hasPlainScores());
}

fn isPlain(tile: u32, keysPerTile: u32, plain: vec2<u32>) -> bool {
  return tile >= plain.x && tile + keysPerTile <= plain.y;
}

// The slot of a key of the item. One that is not seen may have no block; the token's own key takes its place, so that loads need no condition, and
// its weight is 0.
fn firstSlot(key: u32, keyEnd: u32, span: Span, tableStart: u32) -> u32 {
  return slotOf(tableStart, select(span.index, key, isSeen(key, keyEnd, span)));
}

// The same while tiles go by: in those that are plain the span is not needed.
fn findSlot(key: u32, plainTile: bool, keyEnd: u32, token: u32, tableStart: u32) -> u32 {
  if (plainTile) {
    return slotOf(tableStart, key);
  }
  return firstSlot(key, keyEnd, loadSpan(token), tableStart);
}

// What becomes of a score in a tile that is not plain.
fn seenScore(score: f32, token: u32, head: u32, key: u32, keyEnd: u32) -> f32 {
  let span = loadSpan(token);
  if (!isSeen(key, keyEnd, span)) {
    return noScore;
  }
  return finalScore(score, span, token, head, key);
}
