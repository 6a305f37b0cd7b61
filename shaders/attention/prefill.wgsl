// Attention of several query tokens of one sequence: a workgroup takes one work item (a run of new tokens and a range of keys), one KV
// head and a tile of rows, a row being one token and one of the query heads that share the KV head; row = tokenInTile * headTile + head.
// Rows beyond the item's tokens or the group's heads are spare: they are computed on zeros and never written.
//
// Keys go by in tiles of keyTile through workgroup memory, keys first and then, in their place, values. Both products are blocked in registers:
// scores in blocks of rowsPerThread x keysPerThread, outputs in blocks of outputRows x outputColumns vectors of four. Neighbouring rows lie
// one vector apart from a power of two, which keeps the banks of workgroup memory apart. The next keys or values are on their way while a
// product is worked out. Four barriers per tile. Keys that no row of the tile sees are not read: they may have no block any more.
// The item's tokens may belong to several sequences where its keys are a prefix that these share (cascade attention).

const rowGroups = rowTile / rowsPerThread;
const keyGroups = keyTile / keysPerThread;
const invocations = rowGroups * keyGroups;
const columns = headDim / 4u;
const rowStride = columns + 1u;
const units = headDim / unit; // loads of a row
const tileLoads = (keyTile * units + invocations - 1u) / invocations;
const loadsAhead = min(tileLoads, 8u);
const outputRowGroups = min(rowTile, 4u);
const outputRows = rowTile / outputRowGroups;
const columnGroups = invocations / outputRowGroups;
const outputColumns = (columns + columnGroups - 1u) / columnGroups;

var<workgroup> queries: array<vec4f, rowTile * rowStride>;
var<workgroup> tileRows: array<vec4f, keyTile * rowStride>; // the tile's keys, then its values
var<workgroup> weights: array<Weights, rowTile * keyGroups>; // of keys g, g + keyGroups, ... of a tile
var<workgroup> maxima: array<atomic<u32>, rowTile>;
var<workgroup> factors: array<f32, rowTile>;
var<workgroup> sums: array<f32, rowTile * keyGroups>;
var<workgroup> spans: array<Span, rowTile>; // by token of the item
// Of this tile and, in turn, the next one: addresses of the keys' rows, or noRow for keys that no token sees, and scales.
var<workgroup> rows: array<u32, 2u * keyTile>;
var<workgroup> keyScales: array<f32, 2u * keyTile>;
var<workgroup> valueScales: array<f32, 2u * keyTile>;

fn loadQuery(token: u32, head: u32, column: u32, position: u32) -> vec4f {
  let at = token * constants.queryStride + constants.queryOffset + head * headDim;
  var values: vec4f;
  for (var i = 0u; i < 4u; i++) {
    let d = column * 4u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, constants.rotaryHalf)], d, position, constants.rotaryHalf);
  }
  return values;
}

// Looks up the rows of a tile's keys.
fn findRows(turn: u32, tile: u32, keyEnd: u32, tokens: u32, tableStart: u32, kvHead: u32, local: u32) {
  for (var i = local; i < keyTile; i += invocations) {
    let key = tile + i;
    var seen = false;
    for (var t = 0u; t < tokens && key < keyEnd && !seen; t++) {
      seen = isVisible(spans[t], key);
    }
    let at = turn * keyTile + i;
    rows[at] = noRow;
    if (seen) {
      let slot = slotOf(tableStart, key);
      rows[at] = keyAddress(slot, kvHead);
      if (tokenScales) {
        let both = rowScales(slot, kvHead);
        keyScales[at] = both.x;
        valueScales[at] = both.y;
      }
    }
  }
}

// An invocation's n-th load of a tile.
fn loadOfTile(turn: u32, offset: u32, n: u32, local: u32) -> PoolLoad {
  let i = n * invocations + local;
  if (i >= keyTile * units) {
    return PoolLoad();
  }
  return loadVisible(rows[turn * keyTile + i / units], offset, i % units);
}

fn keepLoad(loaded: PoolLoad, scale: f32, n: u32, local: u32) {
  let i = n * invocations + local;
  if (i < keyTile * units) {
    let at = i / units * rowStride + i % units * unitVectors;
    for (var v = 0u; v < unitVectors; v++) { // unrolled
      tileRows[at + v] = scale * (unpackVector(loaded, v) + codeOffset);
    }
  }
}

fn scaleOfLoad(turn: u32, n: u32, local: u32, isValue: bool) -> f32 {
  if (!tokenScales) {
    return codeFactor;
  }
  let k = turn * keyTile + min((n * invocations + local) / units, keyTile - 1u);
  if (rows[k] == noRow) {
    return 0.0;
  }
  return codeFactor * select(keyScales[k], valueScales[k], isValue);
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[PREFILL_ITEMS] + workgroup.x * ITEM_WORDS;
  let firstToken = plan[item + ITEM_TOKEN];
  let tokens = plan[item + ITEM_TOKENS];
  let tableStart = plan[item + ITEM_TABLE_ROW] * constants.tableStride;
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let kvHead = workgroup.y;
  alibi = constants.alibi;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile);

  for (var i = local; i < rowTile * columns; i += invocations) {
    let row = i / columns;
    let t = row / headTile;
    let at = row * rowStride + i % columns;
    queries[at] = vec4f(0.0);
    if (t < tokens && row % headTile < heads) {
      let position = plan[plan[POSITIONS] + firstToken + t];
      queries[at] = loadQuery(firstToken + t, firstHead + row % headTile, i % columns, position);
    }
  }
  for (var row = local; row < rowTile; row += invocations) {
    let head = row % headTile;
    atomicStore(&maxima[row], orderedBits(startMaximum(firstHead + head, head < heads, segment)));
    if (row < tokens) {
      spans[row] = loadSpan(firstToken + row);
    }
  }
  workgroupBarrier();
  var firstInWindow = keyEnd;
  for (var t = 0u; t < tokens; t++) {
    firstInWindow = min(firstInWindow, windowBegin(loadSpan(firstToken + t))); // of uniform memory, so that loops with barriers are uniform
  }

  // As the first product has it: rows rowGroup, rowGroup + rowGroups, ... and keys keyGroup, keyGroup + keyGroups, ...
  let keyGroup = local % keyGroups;
  let rowGroup = local / keyGroups;
  var maximum: array<f32, rowsPerThread>;
  var sum: array<f32, rowsPerThread>;
  for (var i = 0u; i < rowsPerThread; i++) { // unrolled
    let head = (rowGroup + i * rowGroups) % headTile;
    maximum[i] = startMaximum(firstHead + head, head < heads, segment);
    sum[i] = select(0.0, 1.0, maximum[i] != noScore && keyGroup == 0u);
  }
  // As the second one has it.
  let columnGroup = local % columnGroups;
  let outputRow = local / columnGroups;
  var accumulated: array<vec4f, outputRows * outputColumns>;
  for (var i = 0u; i < outputRows * outputColumns; i++) { // unrolled
    accumulated[i] = vec4f(0.0);
  }

  var turn = 0u;
  var tile = nextTile(plan[item + ITEM_KEY_BEGIN], keyTile, firstInWindow);
  findRows(0u, tile, keyEnd, tokens, tableStart, kvHead, local);
  workgroupBarrier();
  var loaded: array<PoolLoad, loadsAhead>;
  for (var n = 0u; n < loadsAhead; n++) { // unrolled
    loaded[n] = loadOfTile(0u, 0u, n, local);
  }
  while (tile < keyEnd) {
    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      keepLoad(loaded[n], scaleOfLoad(turn, n, local, false), n, local);
    }
    for (var n = loadsAhead; n < tileLoads; n++) {
      keepLoad(loadOfTile(turn, 0u, n, local), scaleOfLoad(turn, n, local, false), n, local);
    }
    workgroupBarrier();

    let following = nextTile(tile + keyTile, keyTile, firstInWindow);
    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      loaded[n] = loadOfTile(turn, valueOffset(), n, local);
    }
    var scores: array<f32, rowsPerThread * keysPerThread>;
    for (var i = 0u; i < rowsPerThread * keysPerThread; i++) { // unrolled
      scores[i] = 0.0;
    }
    for (var c = 0u; c < columns; c++) {
      var q: array<vec4f, rowsPerThread>;
      for (var i = 0u; i < rowsPerThread; i++) { // unrolled
        q[i] = queries[(rowGroup + i * rowGroups) * rowStride + c];
      }
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        let k = tileRows[(keyGroup + j * keyGroups) * rowStride + c];
        for (var i = 0u; i < rowsPerThread; i++) { // unrolled
          scores[i * keysPerThread + j] = k.w * q[i].w + (k.z * q[i].z + (k.y * q[i].y + (k.x * q[i].x + scores[i * keysPerThread + j])));
        }
      }
    }
    for (var i = 0u; i < rowsPerThread; i++) { // unrolled
      let row = rowGroup + i * rowGroups;
      let t = row / headTile;
      let head = row % headTile;
      var highest = noScore;
      if (t < tokens && head < heads) {
        let span = spans[t];
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          let key = tile + keyGroup + j * keyGroups;
          var score = noScore;
          if (key < keyEnd && isVisible(span, key)) {
            score = scores[i * keysPerThread + j];
            if (kvDtype >= kvInt8 && !tokenScales) {
              score *= constants.keyScale;
            }
            score = finalScore(score, span, firstToken + t, firstHead + head, key);
          }
          scores[i * keysPerThread + j] = score;
          highest = max(highest, score);
        }
        atomicMax(&maxima[row], orderedBits(highest));
      } else {
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          scores[i * keysPerThread + j] = noScore;
        }
      }
    }
    findRows(1u - turn, following, keyEnd, tokens, tableStart, kvHead, local);
    workgroupBarrier();

    for (var i = 0u; i < rowsPerThread; i++) { // unrolled
      let row = rowGroup + i * rowGroups;
      let updated = fromOrderedBits(atomicLoad(&maxima[row]));
      let factor = rescale(maximum[i], updated);
      sum[i] *= factor;
      maximum[i] = updated;
      if (keyGroup == 0u) {
        factors[row] = factor;
      }
      var p: Weights;
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        p[j] = weight(scores[i * keysPerThread + j], updated);
        sum[i] += p[j];
      }
      weights[row * keyGroups + keyGroup] = p;
    }
    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      keepLoad(loaded[n], scaleOfLoad(turn, n, local, true), n, local);
    }
    for (var n = loadsAhead; n < tileLoads; n++) {
      keepLoad(loadOfTile(turn, valueOffset(), n, local), scaleOfLoad(turn, n, local, true), n, local);
    }
    workgroupBarrier();

    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      loaded[n] = loadOfTile(1u - turn, 0u, n, local);
    }
    for (var i = 0u; i < outputRows; i++) { // unrolled
      let factor = factors[outputRow + i * outputRowGroups];
      for (var c = 0u; c < outputColumns; c++) { // unrolled
        accumulated[i * outputColumns + c] *= factor;
      }
    }
    for (var g = 0u; g < keyGroups; g++) {
      var p: array<Weights, outputRows>;
      for (var i = 0u; i < outputRows; i++) { // unrolled
        p[i] = weights[(outputRow + i * outputRowGroups) * keyGroups + g];
      }
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        for (var c = 0u; c < outputColumns; c++) { // unrolled
          let value = tileRows[(g + j * keyGroups) * rowStride + min(columnGroup + c * columnGroups, columns - 1u)];
          for (var i = 0u; i < outputRows; i++) { // unrolled
            accumulated[i * outputColumns + c] += p[i][j] * value;
          }
        }
      }
    }
    workgroupBarrier();
    tile = following;
    turn = 1u - turn;
  }

  for (var i = 0u; i < rowsPerThread; i++) { // unrolled
    sums[(rowGroup + i * rowGroups) * keyGroups + keyGroup] = sum[i];
  }
  workgroupBarrier();
  for (var i = 0u; i < outputRows; i++) { // unrolled
    let row = outputRow + i * outputRowGroups;
    let t = row / headTile;
    if (t < tokens && row % headTile < heads) {
      var total = 0.0;
      for (var g = 0u; g < keyGroups; g++) {
        total += sums[row * keyGroups + g];
      }
      let highest = fromOrderedBits(atomicLoad(&maxima[row]));
      for (var c = 0u; c < outputColumns; c++) { // unrolled
        let column = columnGroup + c * columnGroups;
        if (column < columns) {
          var values = accumulated[i * outputColumns + c];
          if (kvDtype >= kvInt8 && !tokenScales) {
            values *= constants.valueScale;
          }
          storeColumns(spans[t], segment, firstToken + t, firstHead + row % headTile, column, values, highest, total);
        }
      }
    }
  }
}
