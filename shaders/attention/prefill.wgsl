// Attention of several query tokens of one sequence: of a work item, a KV head and a tile of rows, see tile.wgsl.
// Rows beyond the item's tokens or the group's heads are spare: they are computed on zeros and never written.
//
// Keys go by in tiles of keyTile through workgroup memory, keys first and then, in their place, values, as they are stored: reading workgroup
// memory is what limits the products on a GPU, and half the bytes are read in half the time. Both products are blocked in registers:
// scores in blocks of rowsPerThread x keysPerThread, outputs in blocks of outputRows x outputVectors columns. Neighbouring rows lie one vector apart from
// a power of two, which keeps the banks of workgroup memory apart. The next keys or values are on their way while a product is worked out.
// Four barriers per tile. Keys that no row of the tile sees are not read: they may have no block any more.

const rowGroups = rowTile / rowsPerThread;
const keyGroups = keyTile / keysPerThread;
const groupSteps = keyGroups / groupsAtOnce;
const invocations = rowGroups * keyGroups;
const columns = headDim / 4u;
const queryStride = columns + 1u;
const tileStride = columns + unitVectors;
const tileLoads = (keyTile * units + invocations - 1u) / invocations;
const loadsAhead = min(tileLoads, max(1u, min(8u, invocations / 16u))); // a CPU has no use for more, and takes long to compile them
const queryLoads = (rowTile * columns + invocations - 1u) / invocations;
const queriesAtOnce = min(queryLoads, max(1u, min(4u, invocations / 64u)));
const sumParts = min(8u, min(keyGroups, columns));
const outputRows = rowTile / outputRowGroups;
const columnGroups = invocations / outputRowGroups;
const outputVectors = (columns + columnGroups - 1u) / columnGroups;

// Arrays of arrays, so that indices which are constants cost nothing: a check of bounds, in compilers that check, is of the others alone.
var<workgroup> queries: array<array<array<vec4f, queryStride>, rowGroups>, rowsPerThread>; // [row / rowGroups][row % rowGroups]
var<workgroup> querySums: array<f32, rowTile>; // where codes have an offset
// The tile's keys, then its values: [key / keyGroups], then a key of that group, by as many as outputs take at once.
var<workgroup> tileRows: array<array<array<array<Column, tileStride>, groupsAtOnce>, groupSteps>, keysPerThread>;
var<workgroup> weights: array<array<array<Weights, groupsAtOnce>, groupSteps>, rowTile>; // of keys g, g + keyGroups, ... of a tile, with the values' scales
var<workgroup> maxima: array<atomic<u32>, rowTile>;
var<workgroup> factors: array<f32, rowTile>;

fn keepLoad(loaded: PoolLoad, n: u32, local: u32) {
  let i = n * invocations + local;
  if (i < keyTile * units) {
    let key = i / units;
    let group = key % keyGroups;
    for (var v = 0u; v < unitVectors; v++) { // unrolled
      tileRows[key / keyGroups][group / groupsAtOnce][group % groupsAtOnce][i % units * unitVectors + v] = columnOf(loaded, v);
    }
  }
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[PREFILL_ITEMS] + workgroup.x * ITEM_WORDS;
  let firstToken = plan[item + ITEM_TOKEN];
  let tokens = plan[item + ITEM_TOKENS];
  let tableStart = plan[item + ITEM_TABLE_ROW] * args.tableStride;
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let kvHead = workgroup.y;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile);
  let positions = plan[POSITIONS];
  let bounds = findBounds(firstToken, tokens, keyEnd);

  for (var row = local; row < rowTile; row += invocations) {
    let head = row % headTile;
    atomicStore(&maxima[row], orderedBits(startMaximum(firstHead + head, head < heads, segment)));
    if (row < tokens) {
      spans[row] = loadSpan(firstToken + row);
    }
  }
  workgroupBarrier();
  let plainScores = hasPlainScores();

  // As the first product has it: rows rowGroup, rowGroup + rowGroups, ... and keys keyGroup, keyGroup + keyGroups, ...
  let keyGroup = local % keyGroups;
  let rowGroup = local / keyGroups;
  var maximum: array<f32, rowsPerThread>;
  var sum: array<vec2f, rowsPerThread>; // of weights, without the values' scales and, where codes have an offset, with them
  for (var i = 0u; i < rowsPerThread; i++) { // unrolled
    let head = (rowGroup + i * rowGroups) % headTile;
    maximum[i] = startMaximum(firstHead + head, head < heads, segment);
    sum[i] = vec2f(select(0.0, 1.0, maximum[i] != noScore && keyGroup == 0u), 0.0);
  }
  // As the second one has it.
  let columnGroup = local % columnGroups;
  let outputRow = local / columnGroups;
  var accumulated: array<vec4f, outputRows * outputVectors>;
  for (var i = 0u; i < outputRows * outputVectors; i++) { // unrolled
    accumulated[i] = vec4f(0.0);
  }

  var turn = 0u;
  var tile = nextTile(plan[item + ITEM_KEY_BEGIN], keyTile, bounds.firstInWindow);
  var following = nextTile(tile + keyTile, keyTile, bounds.firstInWindow);
  var allSeen = isAllSeen(tile, bounds);
  var allSeenNext = isAllSeen(following, bounds);
  // What a tile needs is looked up a round ahead: nobody waits for it.
  var nextSlots: array<u32, lookups>;
  for (var n = 0u; n < lookups; n++) { // unrolled
    let slot = findSlot(tile, allSeen, keyEnd, tokens, tableStart, n, local);
    keepRow(0u, slot, kvHead, n, local);
    keepScales(0u, findScales(slot, kvHead), n, local);
    nextSlots[n] = findSlot(following, allSeenNext, keyEnd, tokens, tableStart, n, local);
  }
  workgroupBarrier();
  var loaded: array<PoolLoad, loadsAhead>;
  for (var n = 0u; n < loadsAhead; n++) { // unrolled
    loaded[n] = loadOfTile(0u, 0u, n, local);
  }
  for (var step = 0u; step < queryLoads; step += queriesAtOnce) {
    // Spare rows are loaded, too, and there is one branch for all: nothing makes loads wait for one another.
    var at: array<u32, queriesAtOnce>;
    var dimension: array<u32, queriesAtOnce>;
    var position: array<u32, queriesAtOnce>;
    var values: array<vec4f, queriesAtOnce>;
    for (var n = 0u; n < queriesAtOnce; n++) { // unrolled
      let i = (step + n) * invocations + local;
      let row = i / columns;
      let token = firstToken + min(row / headTile, tokens - 1u);
      at[n] = queryAt(token, firstHead + min(row % headTile, heads - 1u));
      position[n] = plan[positions + token];
      dimension[n] = 4u * (i % columns);
      values[n] = loadUnturned(at[n], dimension[n]);
    }
    if (args.rotaryHalf != 0u) {
      for (var n = 0u; n < queriesAtOnce; n++) { // unrolled
        values[n] = rotate(values[n], at[n], dimension[n], position[n]);
      }
    }
    for (var n = 0u; n < queriesAtOnce; n++) { // unrolled
      let i = (step + n) * invocations + local;
      let row = i / columns;
      if (i < rowTile * columns) {
        let exists = row / headTile < tokens && row % headTile < heads;
        queries[row / rowGroups][row % rowGroups][i % columns] = select(vec4f(0.0), args.scale * values[n], exists);
      }
    }
  }
  if (codeOffset != 0.0) {
    workgroupBarrier();
    for (var row = local; row < rowTile; row += invocations) {
      var total = vec4f(0.0);
      for (var c = 0u; c < columns; c++) { // unrolled
        total += queries[row / rowGroups][row % rowGroups][c];
      }
      querySums[row] = codeOffset * (total.x + total.y + total.z + total.w);
    }
  }
  while (tile < keyEnd) {
    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      keepLoad(loaded[n], n, local);
    }
    for (var n = loadsAhead; n < tileLoads; n++) {
      keepLoad(loadOfTile(turn, 0u, n, local), n, local);
    }
    workgroupBarrier();

    let later = nextTile(following + keyTile, keyTile, bounds.firstInWindow);
    let allSeenLater = isAllSeen(later, bounds);
    var laterSlots: array<u32, lookups>;
    var nextScales: array<vec2f, lookups>;
    for (var n = 0u; n < lookups; n++) { // unrolled
      laterSlots[n] = findSlot(later, allSeenLater, keyEnd, tokens, tableStart, n, local);
      nextScales[n] = findScales(nextSlots[n], kvHead);
    }
    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      loaded[n] = loadOfTile(turn, valueOffset(), n, local);
    }
    var scores: array<f32, rowsPerThread * keysPerThread>;
    for (var i = 0u; i < rowsPerThread * keysPerThread; i++) { // unrolled
      scores[i] = 0.0;
    }
    for (var u = 0u; u < units; u++) { // unrolled if unrollUnits
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        var q: array<vec4f, rowsPerThread>;
        for (var i = 0u; i < rowsPerThread; i++) { // unrolled
          q[i] = queries[i][rowGroup][u * unitVectors + v];
        }
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          let k = unpackColumn(tileRows[j][keyGroup / groupsAtOnce][keyGroup % groupsAtOnce][u * unitVectors + v]);
          for (var i = 0u; i < rowsPerThread; i++) { // unrolled
            scores[i * keysPerThread + j] = k.w * q[i].w + (k.z * q[i].z + (k.y * q[i].y + (k.x * q[i].x + scores[i * keysPerThread + j])));
          }
        }
      }
    }
    var keyScale: array<f32, keysPerThread>;
    var valueScale: array<f32, keysPerThread>;
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      keyScale[j] = 1.0;
      valueScale[j] = 1.0;
      if (tokenScales) {
        let both = scales[turn * keyTile + keyGroup + j * keyGroups];
        keyScale[j] = codeFactor * both.x;
        valueScale[j] = both.y;
      } else if (kvDtype >= kvInt8) {
        keyScale[j] = codeFactor * args.keyScale;
      }
    }
    if (kvDtype >= kvInt8) {
      for (var i = 0u; i < rowsPerThread; i++) { // unrolled
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          if (codeOffset != 0.0) {
            scores[i * keysPerThread + j] += querySums[rowGroup + i * rowGroups];
          }
          scores[i * keysPerThread + j] *= keyScale[j];
        }
      }
    }
    if (!(allSeen && plainScores)) {
      for (var i = 0u; i < rowsPerThread; i++) { // unrolled
        let t = (rowGroup + i * rowGroups) / headTile;
        let head = (rowGroup + i * rowGroups) % headTile;
        let exists = t < tokens && head < heads;
        let end = select(0u, min(keyEnd, spans[min(t, tokens - 1u)].keyEnd), exists);
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          let key = tile + keyGroup + j * keyGroups;
          var score = noScore;
          if (plainScores && bounds.endsAlone) {
            score = select(noScore, scores[i * keysPerThread + j], key < end);
          } else if (exists) {
            score = maskedScore(scores[i * keysPerThread + j], t, firstToken, firstHead + head, key, keyEnd);
          }
          scores[i * keysPerThread + j] = score;
        }
      }
    }
    for (var i = 0u; i < rowsPerThread; i++) { // unrolled
      var highest = noScore;
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        highest = max(highest, scores[i * keysPerThread + j]);
      }
      atomicMax(&maxima[rowGroup + i * rowGroups], orderedBits(highest));
    }
    for (var n = 0u; n < lookups; n++) { // unrolled
      keepRow(1u - turn, nextSlots[n], kvHead, n, local);
    }
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
      var scaled: Weights;
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        let p = weight(scores[i * keysPerThread + j], updated);
        scaled[j] = scaledWeight(p, valueScale[j]);
        sum[i] += vec2f(p, select(0.0, scaled[j], codeOffset != 0.0));
      }
      weights[row][keyGroup / groupsAtOnce][keyGroup % groupsAtOnce] = scaled;
    }
    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      keepLoad(loaded[n], n, local);
    }
    for (var n = loadsAhead; n < tileLoads; n++) {
      keepLoad(loadOfTile(turn, valueOffset(), n, local), n, local);
    }
    for (var n = 0u; n < lookups; n++) { // unrolled
      keepScales(1u - turn, nextScales[n], n, local);
      nextSlots[n] = laterSlots[n];
    }
    workgroupBarrier();

    for (var n = 0u; n < loadsAhead; n++) { // unrolled
      loaded[n] = loadOfTile(1u - turn, 0u, n, local);
    }
    for (var i = 0u; i < outputRows; i++) { // unrolled
      let factor = factors[outputRow + i * outputRowGroups];
      if (factor != 1.0) { // a row's maximum hardly ever rises
        for (var c = 0u; c < outputVectors; c++) { // unrolled
          accumulated[i * outputVectors + c] *= factor;
        }
      }
    }
    for (var step = 0u; step < groupSteps; step++) {
      for (var n = 0u; n < groupsAtOnce; n++) { // unrolled
        var p: array<Weights, outputRows>;
        for (var i = 0u; i < outputRows; i++) { // unrolled
          p[i] = weights[outputRow + i * outputRowGroups][step][n];
        }
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          for (var c = 0u; c < outputVectors; c++) { // unrolled
            let value = unpackColumn(tileRows[j][step][n][min(columnGroup + c * columnGroups, columns - 1u)]);
            for (var i = 0u; i < outputRows; i++) { // unrolled
              accumulated[i * outputVectors + c] += p[i][j] * value;
            }
          }
        }
      }
    }
    workgroupBarrier();
    tile = following;
    following = later;
    allSeen = allSeenNext;
    allSeenNext = allSeenLater;
    turn = 1u - turn;
  }

  for (var i = 0u; i < rowsPerThread; i++) { // unrolled
    var both: Weights;
    both.x = sum[i].x;
    both.y = sum[i].y;
    weights[rowGroup + i * rowGroups][keyGroup / groupsAtOnce][keyGroup % groupsAtOnce] = both;
  }
  workgroupBarrier();
  // In the place of queries, which nobody reads any more: a few sums of each row.
  for (var i = local; i < rowTile * sumParts; i += invocations) {
    let row = i / sumParts;
    var total = vec2f(0.0);
    for (var g = i % sumParts; g < keyGroups; g += sumParts) {
      total += weights[row][g / groupsAtOnce][g % groupsAtOnce].xy;
    }
    queries[row / rowGroups][row % rowGroups][i % sumParts] = vec4f(total, 0.0, 0.0);
  }
  workgroupBarrier();
  for (var i = 0u; i < outputRows; i++) { // unrolled
    let row = outputRow + i * outputRowGroups;
    let t = row / headTile;
    if (t < tokens && row % headTile < heads) {
      var total = vec2f(0.0);
      for (var part = 0u; part < sumParts; part++) { // unrolled
        total += queries[row / rowGroups][row % rowGroups][part].xy;
      }
      let highest = fromOrderedBits(atomicLoad(&maxima[row]));
      for (var c = 0u; c < outputVectors; c++) { // unrolled
        let column = columnGroup + c * columnGroups;
        if (column < columns) {
          var values = codeFactor * (accumulated[i * outputVectors + c] + codeOffset * total.y);
          if (kvDtype >= kvInt8 && !tokenScales) {
            values *= args.valueScale;
          }
          storeColumns(spans[t], segment, firstToken + t, firstHead + row % headTile, column, values, highest, total.x);
        }
      }
    }
  }
}
