// Attention of single query tokens: a workgroup takes one work item (a token and a range of its keys), one KV head and up to headTile
// of the query heads that share it, so that every key and value row is read once for all of them.
//
// Keys go by in tiles of as many as there are invocations. In the first phase an invocation owns one key of the tile: it reads the key's row in 16-byte loads and
// scores it for every head. In the second phase an invocation owns eight output values of one head and walks the tile's values; where
// there are fewer outputs than invocations, several "lanes" share an output and split the keys. Two barriers per tile.
//
// Reads headDim * 2 values per key and head. Only visible keys are read: the others may have no block any more.

const invocations = keyTile;
const chunks = headDim / 8u;
const outputs = headTile * chunks; // groups of eight output values
const lanes = max(1u, invocations / outputs);
const outputsPerInvocation = (outputs + invocations - 1u) / invocations;

var<workgroup> queries: array<Eight, outputs>;
// Two of each, used in turn, so that a tile's writes need not wait for the last tile's reads.
var<workgroup> weights: array<f32, 2u * headTile * keyTile>;
var<workgroup> rows: array<u32, 2u * keyTile>; // the addresses of the tile's values, or noRow
var<workgroup> valueScales: array<f32, 2u * keyTile>;
var<workgroup> maxima: array<atomic<u32>, headTile>;
// Only where several lanes share an output.
const laneSlots = min(lanes - 1u, 1u) * lanes * outputs + 1u;
var<workgroup> laneSums: array<f32, laneSlots>;
var<workgroup> laneOutputs: array<Eight, laneSlots>;

const noRow = 0xffffffffu;

fn loadQuery(token: u32, head: u32, chunk: u32, position: u32) -> Eight {
  let at = token * constants.queryStride + constants.queryOffset + head * headDim;
  var values: array<f32, 8>;
  for (var i = 0u; i < 8u; i++) {
    let d = chunk * 8u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, constants.rotaryHalf)], d, position, constants.rotaryHalf);
  }
  return Eight(vec4f(values[0], values[1], values[2], values[3]), vec4f(values[4], values[5], values[6], values[7]));
}

@compute @workgroup_size(keyTile)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[DECODE_ITEMS] + workgroup.x * ITEM_WORDS;
  let token = plan[item + ITEM_TOKEN];
  let tableStart = plan[item + ITEM_TABLE_ROW] * constants.tableStride;
  let keyBegin = plan[item + ITEM_KEY_BEGIN];
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let span = loadSpan(token);
  let position = plan[plan[POSITIONS] + token];
  let kvHead = workgroup.y;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile); // the last tile of a group may have spare rows

  for (var i = local; i < outputs; i += invocations) {
    if (i / chunks < heads) {
      queries[i] = loadQuery(token, firstHead + i / chunks, i % chunks, position);
    }
  }
  if (local < headTile) {
    atomicStore(&maxima[local], orderedBits(startMaximum(firstHead + local, local < heads, segment)));
  }
  workgroupBarrier();

  let lane = local / outputs;
  var accumulated: array<Eight, outputsPerInvocation>;
  var maximum: array<f32, outputsPerInvocation>;
  var sum: array<f32, outputsPerInvocation>;
  for (var i = 0u; i < outputsPerInvocation; i++) {
    accumulated[i] = Eight(vec4f(0.0), vec4f(0.0));
    let g = (local + i * invocations) % outputs / chunks;
    maximum[i] = startMaximum(firstHead + g, g < heads, segment);
    sum[i] = select(0.0, 1.0, maximum[i] != noScore && lane == 0u);
  }

  var buffer = 0u;
  let firstInWindow = windowBegin(span);
  for (var tile = nextTile(keyBegin, keyTile, firstInWindow); tile < keyEnd; tile = nextTile(tile + keyTile, keyTile, firstInWindow)) {
    let count = min(keyTile, keyEnd - tile);
    let key = tile + local;
    var scores: array<f32, headTile>;
    for (var g = 0u; g < headTile; g++) {
      scores[g] = noScore;
    }
    rows[buffer * keyTile + local] = noRow;
    if (local < count && isVisible(span, key)) {
      let slot = slotOf(tableStart, key);
      let row = keyAddress(slot, kvHead);
      rows[buffer * keyTile + local] = row + valueOffset();
      var keyScale = constants.keyScale;
      if (tokenScales) {
        keyScale = rowScale(slot, kvHead, 0u);
        valueScales[buffer * keyTile + local] = rowScale(slot, kvHead, 1u);
      }
      for (var g = 0u; g < headTile; g++) {
        scores[g] = 0.0;
      }
      for (var c = 0u; c < chunks; c++) {
        let keys = loadRow8(row, c);
        for (var g = 0u; g < headTile; g++) {
          scores[g] += dot8(keys, queries[g * chunks + c]);
        }
      }
      for (var g = 0u; g < headTile; g++) {
        if (kvDtype >= kvInt8) {
          scores[g] *= keyScale;
        }
        scores[g] = finalScore(scores[g], span, token, firstHead + min(g, heads - 1u), key);
        atomicMax(&maxima[g], orderedBits(scores[g]));
      }
    }
    workgroupBarrier();

    for (var g = 0u; g < headTile; g++) {
      weights[(buffer * headTile + g) * keyTile + local] = weight(scores[g], fromOrderedBits(atomicLoad(&maxima[g])));
    }
    for (var i = 0u; i < outputsPerInvocation; i++) {
      let g = min((local + i * invocations) % outputs / chunks, headTile - 1u);
      let updated = fromOrderedBits(atomicLoad(&maxima[g]));
      let factor = rescale(maximum[i], updated);
      accumulated[i].low *= factor;
      accumulated[i].high *= factor;
      sum[i] *= factor;
      maximum[i] = updated;
    }
    workgroupBarrier();

    for (var i = 0u; i < outputsPerInvocation; i++) {
      let output8 = local + i * invocations;
      if (lane < lanes && (lanes > 1u || output8 < outputs)) {
        let g = output8 % outputs / chunks;
        let chunk = output8 % chunks;
        for (var k = lane; k < count; k += lanes) {
          let row = rows[buffer * keyTile + k];
          if (row == noRow) {
            continue;
          }
          let p = weights[(buffer * headTile + g) * keyTile + k];
          let values = loadRow8(row, chunk);
          sum[i] += p;
          var scaled = p;
          if (tokenScales) {
            scaled *= valueScales[buffer * keyTile + k];
          }
          accumulated[i].low += scaled * values.low;
          accumulated[i].high += scaled * values.high;
        }
      }
    }
    buffer = 1u - buffer;
  }

  // Join the lanes of each output.
  if (lanes > 1u) {
    if (lane < lanes) {
      laneOutputs[local] = accumulated[0];
      laneSums[local] = sum[0];
    }
    workgroupBarrier();
    if (local < outputs) {
      for (var other = 1u; other < lanes; other++) {
        accumulated[0].low += laneOutputs[other * outputs + local].low;
        accumulated[0].high += laneOutputs[other * outputs + local].high;
        sum[0] += laneSums[other * outputs + local];
      }
    }
  }

  for (var i = 0u; i < outputsPerInvocation; i++) {
    let output8 = local + i * invocations;
    let g = output8 / chunks;
    if (output8 >= outputs || g >= heads) {
      continue;
    }
    let column = output8 % chunks * 2u;
    var low = accumulated[i].low;
    var high = accumulated[i].high;
    if (kvDtype >= kvInt8 && !tokenScales) {
      low *= constants.valueScale;
      high *= constants.valueScale;
    }
    storeColumns(span, segment, token, firstHead + g, column, low, maximum[i], sum[i]);
    storeColumns(span, segment, token, firstHead + g, column + 1u, high, maximum[i], sum[i]);
  }
}
