// What the prefill kernels share. A workgroup takes one work item (a run of new tokens and a range of keys), one KV head and a tile of rows, a
// row being one token and one of the query heads that share the KV head; row = tokenInTile * headTile + head. Keys go by in tiles of keyTile.
// Needs the constants `invocations`, `rowTile`, `headTile` and `keyTile`.
// The item's tokens may belong to several sequences where its keys are a prefix that these share (cascade attention).

const units = headDim / unit; // loads of a row
const lookups = (keyTile + invocations - 1u) / invocations; // keys of a tile that an invocation looks up

var<workgroup> spans: array<Span, rowTile / headTile>; // by token of the item
// Of this tile and, in turn, the next one: addresses of the keys' rows, or noRow for keys that no token sees, and scales.
var<workgroup> rows: array<u32, 2u * keyTile>;
const scaleSlots = 2u * keyTile * scaleWords + 1u;
var<workgroup> scales: array<vec2f, scaleSlots>; // of a key and its value

// Which keys an item's tokens see: none between the kept keys and firstInWindow, and every token all of [seenBegin, seenEnd), without a bias.
struct Bounds {
  firstInWindow: u32,
  seenBegin: u32,
  seenEnd: u32,
  endsAlone: bool, // keys are hidden by where rows end, and by nothing else: there is no window, and no token has biases
}

const spansAtOnce = min(rowTile / headTile, max(1u, min(8u, invocations / 16u))); // a CPU takes long to compile more

// From memory that is uniform, so that loops with barriers are uniform. Several spans at once, whose loads do not wait for one another; the last
// token may be looked at several times.
fn findBounds(firstToken: u32, tokens: u32, keyEnd: u32) -> Bounds {
  var bounds = Bounds(keyEnd, 0u, keyEnd, args.window == 0u);
  for (var first = 0u; first < tokens; first += spansAtOnce) {
    for (var n = 0u; n < spansAtOnce; n++) { // unrolled
      let span = loadSpan(firstToken + min(first + n, tokens - 1u));
      let begin = windowBegin(span);
      bounds.firstInWindow = min(bounds.firstInWindow, begin);
      bounds.seenBegin = max(bounds.seenBegin, begin);
      bounds.seenEnd = min(bounds.seenEnd, min(span.keyEnd, select(span.keyEnd, span.biasBegin, span.bias != 0u)));
      bounds.seenEnd = min(bounds.seenEnd, select(keyEnd, span.index + args.window, args.window != 0u));
      bounds.endsAlone = bounds.endsAlone && span.bias == 0u;
    }
  }
  return bounds;
}

// Every token sees every key of the tile.
fn isAllSeen(tile: u32, bounds: Bounds) -> bool {
  return tile >= bounds.seenBegin && tile + keyTile <= bounds.seenEnd;
}

// The slot of an invocation's n-th key of a tile, or noRow where no token sees it.
fn findSlot(tile: u32, allSeen: bool, keyEnd: u32, tokens: u32, tableStart: u32, n: u32, local: u32) -> u32 {
  let i = n * invocations + local;
  let key = tile + i;
  var seen = allSeen;
  for (var t = 0u; t < tokens && key < keyEnd && !seen; t++) {
    seen = isVisible(spans[t], key);
  }
  if (!seen || i >= keyTile) {
    return noRow;
  }
  return slotOf(tableStart, key);
}

fn keepRow(turn: u32, slot: u32, kvHead: u32, n: u32, local: u32) {
  let i = n * invocations + local;
  if (i < keyTile) {
    rows[turn * keyTile + i] = select(keyAddress(slot, kvHead), noRow, slot == noRow);
  }
}

fn keepScales(turn: u32, found: vec2f, n: u32, local: u32) {
  let i = n * invocations + local;
  if (tokenScales && i < keyTile) {
    scales[turn * keyTile + i] = found;
  }
}

// An invocation's n-th load of a tile's keys, or, `offset` behind them, of its values.
fn loadOfTile(turn: u32, offset: u32, n: u32, local: u32) -> PoolLoad {
  let i = n * invocations + local;
  if (i >= keyTile * units) {
    return PoolLoad();
  }
  return loadVisible(rows[turn * keyTile + i / units], offset, i % units);
}

// The score of a key that a token may see, or not.
fn maskedScore(score: f32, t: u32, firstToken: u32, head: u32, key: u32, keyEnd: u32) -> f32 {
  let span = spans[t];
  if (key >= keyEnd || !isVisible(span, key)) {
    return noScore;
  }
  return finalScore(score, span, firstToken + t, head, key);
}
