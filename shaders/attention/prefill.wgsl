// Attention of several query tokens of one sequence: a workgroup takes one work item (a run of new tokens and a range of keys), one KV
// head and a tile of rows, a row being one token and one of the query heads that share the KV head; row = tokenInTile * headTile + head.
// Rows beyond the item's tokens or the group's heads are spare: they are computed on zeros and never written.
//
// Keys go by in tiles of keyTile through workgroup memory. First an invocation owns one key and every rowGroups-th row and scores them;
// then the tile's values take the keys' place, and an invocation owns one vector of four output columns for every columnGroups-th row.
// Four barriers per tile. Causal: a row sees keys up to its own position.

struct Arguments {
  scale: f32,
  queryStride: u32, // f32 values from one token's queries to the next's
  queryOffset: u32,
  rotaryHalf: u32,
  tableStride: u32, // block-table entries of one sequence
}

@group(0) @binding(0) var<storage, read> query: array<f32>;
@group(0) @binding(1) var<storage, read> pool: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> blockTable: array<u32>;
@group(0) @binding(3) var<storage, read> plan: array<u32>;
@group(0) @binding(4) var<storage, read> rotary: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> output: array<vec4f>;

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

fn loadQuery(token: u32, head: u32, column: u32, position: u32) -> vec4f {
  let at = token * args.queryStride + args.queryOffset + head * headDim;
  var values: vec4f;
  for (var i = 0u; i < 4u; i++) {
    let d = column * 4u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, args.rotaryHalf)], d, position, args.rotaryHalf);
  }
  return values;
}

// Fills tileRows with `count` key or value rows, and the rest with zeros: a slot that may hold garbage is not read.
fn loadTile(tableStart: u32, firstKey: u32, count: u32, kvHead: u32, rowOffset: u32, local: u32) {
  for (var i = local; i < keyTile * (headDim / 8u); i += invocations) {
    let k = i / (headDim / 8u);
    let chunk = i % (headDim / 8u);
    var values = Eight(vec4f(0.0), vec4f(0.0));
    if (k < count) {
      values = loadRow8(keyRow(slotOf(tableStart, firstKey + k), kvHead) + rowOffset, chunk);
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
  let firstPosition = plan[item + ITEM_POSITION];
  let tableStart = plan[item + ITEM_TABLE_ROW] * args.tableStride;
  let keyBegin = plan[item + ITEM_KEY_BEGIN];
  let keyEnd = plan[item + ITEM_KEY_END];
  let kvHead = workgroup.y;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile);

  for (var i = local; i < rowTile * columns; i += invocations) {
    let row = i / columns;
    let t = row / headTile;
    queries[i] = vec4f(0.0);
    if (t < tokens && row % headTile < heads) {
      queries[i] = loadQuery(firstToken + t, firstHead + row % headTile, i % columns, firstPosition + t);
    }
  }
  if (local < rowTile) {
    atomicStore(&maxima[local], orderedBits(noScore));
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
    maximum[i] = noScore;
    sum[i] = 0.0;
  }

  for (var tile = keyBegin; tile < keyEnd; tile += keyTile) {
    let count = min(keyTile, keyEnd - tile);
    loadTile(tableStart, tile, count, kvHead, 0u, local);
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
      let visible = scoreKey < count && tile + scoreKey <= firstPosition + row / headTile;
      scores[i] = select(noScore, scores[i], visible);
      if (row < rowTile) {
        atomicMax(&maxima[row], orderedBits(scores[i]));
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
    loadTile(tableStart, tile, count, kvHead, valueRowOffset(), local);
    workgroupBarrier();

    if (columnGroup < columnGroups) {
      for (var k = 0u; k < count; k++) {
        let values = tileRows[k * columns + column];
        for (var i = 0u; i < rowsPerColumnGroup; i++) {
          let p = weights[min(columnGroup + i * columnGroups, rowTile - 1u) * keyTile + k];
          accumulated[i] += p * values;
          sum[i] += p;
        }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < rowsPerColumnGroup; i++) {
    let row = columnGroup + i * columnGroups;
    let t = row / headTile;
    if (columnGroup < columnGroups && row < rowTile && t < tokens && row % headTile < heads) {
      let at = ((firstToken + t) * numHeads + firstHead + row % headTile) * columns + column;
      output[at] = accumulated[i] * select(1.0 / sum[i], 0.0, sum[i] == 0.0);
    }
  }
}
