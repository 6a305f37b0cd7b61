// Attention of single query tokens: a workgroup takes one work item (a token and a range of its keys), one KV head and up to headTile
// of the query heads that share it, so that every key and value row is read once for all of them.
//
// A team of keyThreads invocations reads a row together, a load of 16 bytes (a "unit") each, so that neighbours read neighbouring memory. The
// teams go through the item's keys in tiles of keysPerThread keys for each team. In a tile every invocation multiplies its units of the keys with
// the queries, and leaves the parts of the scores in workgroup memory; then each score is added up and finished by one invocation. Each team
// keeps a softmax state (maximum, sum, output) of its own for its keys, so that nothing else is shared until the end, when the teams' states are
// joined. Two barriers per tile. Values, and the next tile's keys, are on their way while scores are worked out.
//
// Reads headDim * 2 values per key and head. Only visible keys are read: the others may have no block any more.

const units = headDim / unit; // loads of a row
const unitsPerThread = units / keyThreads;
const teams = invocations / keyThreads;
const keyTile = teams * keysPerThread;
const columns = headDim / 4u;
const scoreStride = keyThreads + 1u; // odd steps keep the banks of workgroup memory apart
const scoreWords = keyTile * headTile * scoreStride;

var<workgroup> queries: array<vec4f, headTile * columns>;
// The parts of a tile's scores, [key][head][lane]; at the end what the teams hand over of one head, [team][headDim].
var<workgroup> parts: array<f32, max(scoreWords, teams * headDim)>;
var<workgroup> scores: array<f32, keyTile * headTile>;
// Of the last tile, this one and the next two, in turn: addresses of the keys' rows, or noRow, and the rows' scales.
var<workgroup> rows: array<u32, 4u * keyTile>;
const scaleSlots = 4u * keyTile * scaleWords + 1u;
var<workgroup> keyScales: array<f32, scaleSlots>;
var<workgroup> valueScales: array<f32, scaleSlots>;
var<workgroup> querySums: array<f32, headTile>; // where codes have an offset
var<workgroup> teamMaxima: array<f32, teams * headTile>;
var<workgroup> teamSums: array<f32, teams * headTile>;

const rawLoads = keysPerThread * unitsPerThread;

fn loadQuery(token: u32, head: u32, column: u32, position: u32) -> vec4f {
  let at = token * constants.queryStride + constants.queryOffset + head * headDim;
  var values: vec4f;
  for (var i = 0u; i < 4u; i++) {
    let d = column * 4u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, constants.rotaryHalf)], d, position, constants.rotaryHalf);
  }
  return values;
}

// The slot of an invocation's key of a tile, or noRow for one that is not visible or not of the tile.
fn findSlot(tile: u32, keyEnd: u32, span: Span, tableStart: u32, local: u32) -> u32 {
  let key = tile + local;
  if (local >= keyTile || key >= keyEnd || !isVisible(span, key)) {
    return noRow;
  }
  return slotOf(tableStart, key);
}

// A key's scale, or a value's, where rows have one.
fn findScale(slot: u32, kvHead: u32, isValue: u32) -> f32 {
  if (!tokenScales || slot == noRow) {
    return 1.0;
  }
  return rowScale(slot, kvHead, isValue);
}

fn keepScales(turn: u32, keyScale: f32, valueScale: f32, local: u32) {
  if (tokenScales && local < keyTile) {
    keyScales[turn * keyTile + local] = keyScale;
    valueScales[turn * keyTile + local] = valueScale;
  }
}

fn keepRow(turn: u32, slot: u32, kvHead: u32, local: u32) {
  if (local < keyTile) {
    rows[turn * keyTile + local] = select(keyAddress(slot, kvHead), noRow, slot == noRow);
  }
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[DECODE_ITEMS] + workgroup.x * ITEM_WORDS;
  let token = plan[item + ITEM_TOKEN];
  let tableStart = plan[item + ITEM_TABLE_ROW] * constants.tableStride;
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let span = loadSpan(token);
  let position = plan[plan[POSITIONS] + token];
  let kvHead = workgroup.y;
  alibi = constants.alibi;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile); // the last tile of a group may have spare rows
  let team = local / keyThreads;
  let lane = local % keyThreads;
  let firstInWindow = windowBegin(span);

  var tile = nextTile(plan[item + ITEM_KEY_BEGIN], keyTile, firstInWindow);
  for (var i = local; i < headTile * columns; i += invocations) {
    let head = i / columns;
    queries[i] = vec4f(0.0);
    if (head < heads) {
      queries[i] = loadQuery(token, firstHead + head, i % columns, position);
    }
  }
  var following = nextTile(tile + keyTile, keyTile, firstInWindow);
  let firstSlot = findSlot(tile, keyEnd, span, tableStart, local);
  var nextSlot = findSlot(following, keyEnd, span, tableStart, local);
  keepRow(0u, firstSlot, kvHead, local);
  keepRow(1u, nextSlot, kvHead, local);
  keepScales(0u, findScale(firstSlot, kvHead, 0u), findScale(firstSlot, kvHead, 1u), local);

  if (codeOffset != 0.0) {
    workgroupBarrier();
    for (var g = local; g < headTile; g += invocations) {
      var total = vec4f(0.0);
      for (var c = 0u; c < columns; c++) {
        total += queries[g * columns + c];
      }
      querySums[g] = codeOffset * (total.x + total.y + total.z + total.w);
    }
  }

  var accumulated: array<vec4f, headTile * unitsPerThread * unitVectors>;
  var maximum: array<f32, headTile>;
  var sum: array<f32, headTile>;
  var scaledSum: array<f32, headTile>; // where codes have an offset: the sum of weights times scales
  for (var g = 0u; g < headTile; g++) { // unrolled
    // A sink takes part in one team's state.
    maximum[g] = select(noScore, startMaximum(firstHead + g, g < heads, segment), team == 0u);
    sum[g] = select(0.0, 1.0, maximum[g] != noScore);
    scaledSum[g] = 0.0;
    for (var i = 0u; i < unitsPerThread * unitVectors; i++) { // unrolled
      accumulated[g * unitsPerThread * unitVectors + i] = vec4f(0.0);
    }
  }
  workgroupBarrier();

  var turn = 0u;
  var keys: array<PoolLoad, rawLoads>;
  var values: array<PoolLoad, rawLoads>;
  for (var j = 0u; j < keysPerThread; j++) { // unrolled
    let row = rows[j * teams + team];
    for (var u = 0u; u < unitsPerThread; u++) { // unrolled
      keys[j * unitsPerThread + u] = loadVisible(row, 0u, lane + u * keyThreads);
    }
  }
  while (tile < keyEnd) {
    let next = (turn + 1u) % 4u;
    let later = nextTile(following + keyTile, keyTile, firstInWindow);
    // Looked up here, kept below: by then they have arrived.
    let laterSlot = findSlot(later, keyEnd, span, tableStart, local);
    let nextKeyScale = findScale(nextSlot, kvHead, 0u);
    let nextValueScale = findScale(nextSlot, kvHead, 1u);
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      let row = rows[turn * keyTile + j * teams + team];
      for (var u = 0u; u < unitsPerThread; u++) { // unrolled
        values[j * unitsPerThread + u] = loadVisible(row, valueOffset(), lane + u * keyThreads);
      }
    }

    var products: array<f32, keysPerThread * headTile>;
    for (var i = 0u; i < keysPerThread * headTile; i++) { // unrolled
      products[i] = 0.0;
    }
    for (var u = 0u; u < unitsPerThread; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        var unpacked: array<vec4f, keysPerThread>;
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          unpacked[j] = unpackVector(keys[j * unitsPerThread + u], v);
        }
        for (var g = 0u; g < headTile; g++) { // unrolled
          let q = queries[g * columns + (lane + u * keyThreads) * unitVectors + v];
          for (var j = 0u; j < keysPerThread; j++) { // unrolled
            let k = unpacked[j];
            products[j * headTile + g] = k.w * q.w + (k.z * q.z + (k.y * q.y + (k.x * q.x + products[j * headTile + g])));
          }
        }
      }
    }
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      for (var g = 0u; g < headTile; g++) { // unrolled
        parts[((j * teams + team) * headTile + g) * scoreStride + lane] = products[j * headTile + g];
      }
    }
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      let row = rows[next * keyTile + j * teams + team];
      for (var u = 0u; u < unitsPerThread; u++) { // unrolled
        keys[j * unitsPerThread + u] = loadVisible(row, 0u, lane + u * keyThreads);
      }
    }
    keepRow((turn + 2u) % 4u, laterSlot, kvHead, local);
    keepScales(next, nextKeyScale, nextValueScale, local);
    nextSlot = laterSlot;
    workgroupBarrier();

    for (var i = local; i < keyTile * headTile; i += invocations) {
      let k = i / headTile;
      var score = noScore;
      if (rows[turn * keyTile + k] != noRow) {
        score = 0.0;
        for (var l = 0u; l < keyThreads; l++) { // unrolled
          score += parts[i * scoreStride + l];
        }
        if (codeOffset != 0.0) {
          score += querySums[i % headTile];
        }
        if (tokenScales) {
          score *= codeFactor * keyScales[turn * keyTile + k];
        } else if (kvDtype >= kvInt8) {
          score *= codeFactor * constants.keyScale;
        }
        score = finalScore(score, span, token, firstHead + min(i % headTile, heads - 1u), tile + k);
      }
      scores[i] = score;
    }
    workgroupBarrier();

    var weights: array<f32, keysPerThread * headTile>;
    for (var g = 0u; g < headTile; g++) { // unrolled
      let before = maximum[g];
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        maximum[g] = max(maximum[g], scores[(j * teams + team) * headTile + g]);
      }
      if (before != maximum[g]) {
        let factor = rescale(before, maximum[g]);
        sum[g] *= factor;
        scaledSum[g] *= factor;
        for (var i = 0u; i < unitsPerThread * unitVectors; i++) { // unrolled
          accumulated[g * unitsPerThread * unitVectors + i] *= factor;
        }
      }
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        let k = j * teams + team;
        var p = weight(scores[k * headTile + g], maximum[g]);
        sum[g] += p;
        if (tokenScales) {
          p *= select(0.0, valueScales[turn * keyTile + k], p > 0.0);
        }
        if (codeOffset != 0.0) {
          scaledSum[g] += p;
        }
        weights[j * headTile + g] = p;
      }
    }
    for (var u = 0u; u < unitsPerThread; u++) { // unrolled
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        for (var v = 0u; v < unitVectors; v++) { // unrolled
          let unpacked = unpackVector(values[j * unitsPerThread + u], v);
          for (var g = 0u; g < headTile; g++) { // unrolled
            accumulated[(g * unitsPerThread + u) * unitVectors + v] += weights[j * headTile + g] * unpacked;
          }
        }
      }
    }
    tile = following;
    following = later;
    turn = next;
  }

  // Join the teams' states.
  if (lane == 0u) {
    for (var g = 0u; g < headTile; g++) { // unrolled
      teamMaxima[team * headTile + g] = maximum[g];
      teamSums[team * headTile + g] = sum[g];
    }
  }
  workgroupBarrier();
  for (var g = 0u; g < headTile; g++) { // unrolled
    var all = noScore;
    for (var t = 0u; t < teams; t++) {
      all = max(all, teamMaxima[t * headTile + g]);
    }
    var total = 0.0;
    for (var t = 0u; t < teams; t++) {
      total += teamSums[t * headTile + g] * rescale(teamMaxima[t * headTile + g], all);
    }
    let factor = rescale(maximum[g], all);
    for (var u = 0u; u < unitsPerThread; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        let part = factor * codeFactor * (accumulated[(g * unitsPerThread + u) * unitVectors + v] + codeOffset * scaledSum[g]);
        let at = team * headDim + ((lane + u * keyThreads) * unitVectors + v) * 4u;
        for (var i = 0u; i < 4u; i++) {
          parts[at + i] = part[i];
        }
      }
    }
    workgroupBarrier();
    for (var column = local; column < columns && g < heads; column += invocations) {
      var result = vec4f(0.0);
      for (var t = 0u; t < teams; t++) {
        let at = t * headDim + column * 4u;
        result += vec4f(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]);
      }
      if (kvDtype >= kvInt8 && !tokenScales) {
        result *= constants.valueScale;
      }
      storeColumns(span, segment, token, firstHead + g, column, result, all, total);
    }
    workgroupBarrier();
  }
}
