// Attention of several query tokens of one sequence: a workgroup takes one work item (a run of new tokens and a range of keys), one KV
// head and a tile of rows, a row being one token and one of the query heads that share the KV head; row = tokenInTile * headTile + head.
// Rows beyond the item's tokens or the group's heads are spare: they are computed on zeros and never written.
//
// Keys go by in tiles of keyTile through workgroup memory. First an invocation owns one key and every rowGroups-th row and scores them;
// then the tile's values take the keys' place, and an invocation owns one vector of four output columns for every columnGroups-th row.
// Four barriers per tile. Keys that no row of the tile sees are not read: they may have no block any more.
// The item's tokens may belong to several sequences where its keys are a prefix that these share (cascade attention).

const invocations = 64u;
const columns = headDim / 4u;
const rowGroups = invocations / keyTile;
const rowsPerGroup = (rowTile + rowGroups - 1u) / rowGroups;
const columnGroups = invocations / columns;
const rowsPerColumnGroup = (rowTile + columnGroups - 1u) / columnGroups;

var<workgroup> queries: array<vec4f, rowTile * columns>;
var<workgroup> tileRows: array<vec4f, keyTile * columns>; // the tile's keys, then its values
var<workgroup> weights: array<f32, rowTile * keyTile>;
var<workgroup> maxima: array<atomic<u32>, rowTile>;
var<workgroup> spans: array<Span, rowTile>; // by token of the item
var<workgroup> valueScales: array<f32, keyTile>;
var<workgroup> keyScales: array<f32, keyTile>;
var<workgroup> live: array<u32, keyTile>; // 1: some token of the item sees the key

fn loadQuery(token: u32, head: u32, column: u32, position: u32) -> vec4f {
  let at = token * constants.queryStride + constants.queryOffset + head * headDim;
  var values: vec4f;
  for (var i = 0u; i < 4u; i++) {
    let d = column * 4u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, constants.rotaryHalf)], d, position, constants.rotaryHalf);
  }
  return values;
}

// Fills tileRows with key or value rows, and those that are not live with zeros: a slot that may hold garbage is not read.
fn loadTile(tableStart: u32, firstKey: u32, kvHead: u32, isValue: u32, local: u32) {
  for (var i = local; i < keyTile * (headDim / 8u); i += invocations) {
    let k = i / (headDim / 8u);
    let chunk = i % (headDim / 8u);
    var values = Eight(vec4f(0.0), vec4f(0.0));
    if (live[k] != 0u) {
      let slot = slotOf(tableStart, firstKey + k);
      values = loadRow8(keyAddress(slot, kvHead) + isValue * valueOffset(), chunk);
      if (tokenScales && chunk == 0u) {
        if (isValue == 0u) {
          keyScales[k] = rowScale(slot, kvHead, 0u);
        } else {
          valueScales[k] = rowScale(slot, kvHead, 1u);
        }
      }
    }
    tileRows[k * columns + 2u * chunk] = values.low;
    tileRows[k * columns + 2u * chunk + 1u] = values.high;
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[PREFILL_ITEMS] + workgroup.x * ITEM_WORDS;
  let firstToken = plan[item + ITEM_TOKEN];
  let tokens = plan[item + ITEM_TOKENS];
  let tableStart = plan[item + ITEM_TABLE_ROW] * constants.tableStride;
  let keyBegin = plan[item + ITEM_KEY_BEGIN];
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let kvHead = workgroup.y;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile);

  for (var i = local; i < rowTile * columns; i += invocations) {
    let row = i / columns;
    let t = row / headTile;
    queries[i] = vec4f(0.0);
    if (t < tokens && row % headTile < heads) {
      let position = plan[plan[POSITIONS] + firstToken + t];
      queries[i] = loadQuery(firstToken + t, firstHead + row % headTile, i % columns, position);
    }
  }
  if (local < rowTile) {
    let head = local % headTile;
    atomicStore(&maxima[local], orderedBits(startMaximum(firstHead + head, head < heads, segment)));
  }
  if (local < tokens) {
    spans[local] = loadSpan(firstToken + local);
  }
  var firstInWindow = keyEnd;
  for (var t = 0u; t < tokens; t++) {
    firstInWindow = min(firstInWindow, windowBegin(loadSpan(firstToken + t)));
  }

  let scoreKey = local % keyTile;
  let scoreGroup = local / keyTile;
  let column = local % columns;
  let columnGroup = local / columns;
  var accumulated: array<vec4f, rowsPerColumnGroup>;
  var maximum: array<f32, rowsPerColumnGroup>;
  var sum: array<f32, rowsPerColumnGroup>;
  for (var i = 0u; i < rowsPerColumnGroup; i++) {
    accumulated[i] = vec4f(0.0);
    let head = (columnGroup + i * columnGroups) % headTile;
    maximum[i] = startMaximum(firstHead + head, head < heads, segment);
    sum[i] = select(0.0, 1.0, maximum[i] != noScore);
  }
  workgroupBarrier();

  for (var tile = nextTile(keyBegin, keyTile, firstInWindow); tile < keyEnd; tile = nextTile(tile + keyTile, keyTile, firstInWindow)) {
    let count = min(keyTile, keyEnd - tile);
    if (local < keyTile) {
      var seen = false;
      for (var t = 0u; t < tokens && !seen; t++) {
        seen = local < count && isVisible(spans[t], tile + local);
      }
      live[local] = select(0u, 1u, seen);
    }
    workgroupBarrier();
    loadTile(tableStart, tile, kvHead, 0u, local);
    workgroupBarrier();

    var scores: array<f32, rowsPerGroup>;
    for (var i = 0u; i < rowsPerGroup; i++) {
      scores[i] = 0.0;
    }
    for (var c = 0u; c < columns; c++) {
      let keys = tileRows[scoreKey * columns + c];
      for (var i = 0u; i < rowsPerGroup; i++) {
        scores[i] += dot(keys, queries[min(scoreGroup + i * rowGroups, rowTile - 1u) * columns + c]);
      }
    }
    for (var i = 0u; i < rowsPerGroup; i++) {
      let row = scoreGroup + i * rowGroups;
      let t = row / headTile;
      let key = tile + scoreKey;
      let score = scores[i];
      scores[i] = noScore;
      if (row < rowTile && t < tokens && row % headTile < heads && scoreKey < count) {
        let span = spans[t];
        if (isVisible(span, key)) {
          var scale = 1.0;
          if (kvDtype >= kvInt8) {
            scale = constants.keyScale;
            if (tokenScales) {
              scale = keyScales[scoreKey];
            }
          }
          scores[i] = finalScore(score * scale, span, firstToken + t, firstHead + row % headTile, key);
          atomicMax(&maxima[row], orderedBits(scores[i]));
        }
      }
    }
    workgroupBarrier();

    for (var i = 0u; i < rowsPerGroup; i++) {
      let row = scoreGroup + i * rowGroups;
      if (row < rowTile) {
        weights[row * keyTile + scoreKey] = weight(scores[i], fromOrderedBits(atomicLoad(&maxima[row])));
      }
    }
    for (var i = 0u; i < rowsPerColumnGroup; i++) {
      let row = min(columnGroup + i * columnGroups, rowTile - 1u);
      let updated = fromOrderedBits(atomicLoad(&maxima[row]));
      let factor = rescale(maximum[i], updated);
      accumulated[i] *= factor;
      sum[i] *= factor;
      maximum[i] = updated;
    }
    loadTile(tableStart, tile, kvHead, 1u, local);
    workgroupBarrier();

    if (columnGroup < columnGroups) {
      for (var k = 0u; k < count; k++) {
        var values = tileRows[k * columns + column];
        if (tokenScales) {
          values *= select(0.0, valueScales[k], live[k] != 0u);
        }
        for (var i = 0u; i < rowsPerColumnGroup; i++) {
          let p = weights[min(columnGroup + i * columnGroups, rowTile - 1u) * keyTile + k];
          sum[i] += p;
          accumulated[i] += p * values;
        }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < rowsPerColumnGroup; i++) {
    let row = columnGroup + i * columnGroups;
    let t = row / headTile;
    if (columnGroup < columnGroups && row < rowTile && t < tokens && row % headTile < heads) {
      var values = accumulated[i];
      if (kvDtype >= kvInt8 && !tokenScales) {
        values *= constants.valueScale;
      }
      storeColumns(spans[t], segment, firstToken + t, firstHead + row % headTile, column, values, maximum[i], sum[i]);
    }
  }
}
