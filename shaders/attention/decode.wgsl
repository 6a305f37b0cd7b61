// Attention of single query tokens: a workgroup takes one work item (a token and a range of its keys), one KV head and up to headTile
// of the query heads that share it, so that every key and value row is read once for all of them.
//
// A team of keyThreads invocations reads a key together, a load (a "unit") or several each, so that neighbours read neighbouring memory. The
// teams go through the item's keys in tiles of keysPerThread keys for each team. In a tile every invocation multiplies its units of the keys with
// the queries, and leaves the parts of the scores in workgroup memory; then one invocation for each key adds up the key's scores and makes them
// weights, relative to references, and each crew, a team or several, adds the weighted values of its share of the keys to outputs of its own, which
// are joined at the end. The reference of a head is a score that was the highest when it was taken; a new one is taken only when a score is higher by
// `slack`, so that hardly any tile has to rescale what was added before (as in FlashAttention-4). Two barriers per tile; values, and the next tile's
// keys, are on their way meanwhile. Workgroup memory is read and written by vectors of four heads. Where subgroups are, decode-teams.wgsl does
// without barriers.
//
// Neighbouring workgroups take the KV heads of one work item, whose rows are neighbours in memory. Reads headDim * 2 values per key and head. Only
// visible keys are read: the others may have no block any more.

const keyTile = teams * keysPerThread; // a key for each invocation, or fewer
const headVectors = (headTile + 3u) / 4u;
const partStride = keyThreads + 1u; // odd steps keep the banks of workgroup memory apart
const tileVectors = keyTile * headVectors;

// The parts of a tile's scores, [key][lane][head]; at the end what the crews hand over of one head, [crew][column].
const partVectors = max(tileVectors * partStride, crews * columns);
var<workgroup> parts: array<vec4f, partVectors>;
var<workgroup> scores: array<vec4f, 2u * tileVectors>; // [turn][key][head]
var<workgroup> weights: array<Shares, 2u * tileVectors>; // the same; with the values' scales
// Of the last tile, this one and the next two, in turn: addresses of the keys' rows, and the scales of keys and values.
var<workgroup> rows: array<u32, 4u * keyTile>;
const scaleSlots = 4u * keyTile * scaleWords + 1u;
var<workgroup> scales: array<vec2f, scaleSlots>;
var<workgroup> references: array<atomic<u32>, headTile>; // as ordered bits
var<workgroup> totals: array<vec2f, headTile>; // sums of weights, without the values' scales and with them
var<workgroup> raised: array<atomic<u32>, 2>; // the last even and the last odd round that raised a reference

fn partOf(crew: u32, column: u32) -> vec4f {
  return parts[crew * columns + column];
}

// The slot of an invocation's key of a tile; there may be fewer keys than invocations.
fn findTileSlot(tile: u32, plain: vec2<u32>, keyEnd: u32, token: u32, tableStart: u32, local: u32) -> u32 {
  return findSlot(tile + min(local, keyTile - 1u), isPlain(tile, keyTile, plain), keyEnd, token, tableStart);
}

fn keepScales(turn: u32, found: vec2f, local: u32) {
  if (tokenScales && local < keyTile) {
    scales[turn * keyTile + local] = found;
  }
}

fn keepRow(turn: u32, slot: u32, kvHead: u32, local: u32) {
  if (local < keyTile) {
    rows[turn * keyTile + local] = keyAddress(slot, kvHead);
  }
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[DECODE_ITEMS] + workgroup.y * ITEM_WORDS;
  let token = plan[item + ITEM_TOKEN];
  let tableStart = plan[item + ITEM_TABLE_ROW] * args.tableStride;
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let span = loadSpan(token);
  let position = plan[plan[POSITIONS] + token];
  let kvHead = workgroup.x;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile); // the last tile of a group may have spare rows
  let team = local / keyThreads;
  let lane = local % keyThreads;
  let crew = local / valueThreads;
  let valueLane = local % valueThreads;
  let firstInWindow = windowBegin(span);
  let plain = plainKeys(span, keyEnd);

  var tile = nextTile(plan[item + ITEM_KEY_BEGIN], keyTile, firstInWindow);
  loadQueries(token, firstHead, heads, position, local);
  var following = nextTile(tile + keyTile, keyTile, firstInWindow);
  var later = nextTile(following + keyTile, keyTile, firstInWindow);
  // What a tile needs is looked up rounds ahead, and kept in workgroup memory a round after it was asked for: nobody waits for it.
  let ownKey = min(local, keyTile - 1u);
  let slot = firstSlot(tile + ownKey, keyEnd, span, tableStart);
  let secondSlot = firstSlot(following + ownKey, keyEnd, span, tableStart);
  var laterSlot = firstSlot(later + ownKey, keyEnd, span, tableStart);
  var nextScales = scalesOf(secondSlot, kvHead);
  keepRow(0u, slot, kvHead, local);
  keepRow(1u, secondSlot, kvHead, local);
  keepScales(0u, scalesOf(slot, kvHead), local);
  for (var g = local; g < headTile; g += invocations) {
    atomicStore(&references[g], orderedBits(startMaximum(firstHead + g, g < heads, segment)));
  }

  finishQueries(local);

  var accumulated: array<vec4f, headTile * ownVectors>;
  var reference: array<f32, headTile>;
  for (var g = 0u; g < headTile; g++) { // unrolled
    reference[g] = startMaximum(firstHead + g, g < heads, segment);
    for (var i = 0u; i < ownVectors; i++) { // unrolled
      accumulated[g * ownVectors + i] = vec4f(0.0);
    }
  }
  // Of the keys that this invocation finishes: sums of weights, without the values' scales and, where codes have an offset, with them.
  var sums: array<f32, headTile>;
  var scaledSums: array<f32, headTile>;
  for (var g = 0u; g < headTile; g++) { // unrolled
    sums[g] = 0.0;
    scaledSums[g] = 0.0;
  }
  workgroupBarrier();

  var turn = 0u;
  var round = 0u;
  var keys: array<PoolLoad, rawLoads>;
  var values: array<PoolLoad, rawLoads>;
  for (var j = 0u; j < keysPerThread; j++) { // unrolled
    let row = rows[j * teams + team];
    for (var u = 0u; u < keyUnits; u++) { // unrolled
      keys[j * keyUnits + u] = loadUnit(row, lane + u * keyThreads);
    }
  }
  while (tile < keyEnd) {
    let next = (turn + 1u) % 4u;
    let latest = nextTile(later + keyTile, keyTile, firstInWindow);
    let latestSlot = findTileSlot(latest, plain, keyEnd, token, tableStart, local);
    let laterScales = scalesOf(laterSlot, kvHead);
    round++;
    let own = turn % 2u * tileVectors;
    let isPlainTile = isPlain(tile, keyTile, plain);
    for (var j = 0u; j < keysOfCrew; j++) { // unrolled
      let row = rows[turn * keyTile + j * crews + crew];
      for (var u = 0u; u < valueUnits; u++) { // unrolled
        values[j * valueUnits + u] = loadUnit(row + valueOffset(), valueLane + u * valueThreads);
      }
    }

    var products: array<Product, keysPerThread * headTile>;
    for (var i = 0u; i < keysPerThread * headTile; i++) { // unrolled
      products[i] = Product();
    }
    for (var u = 0u; u < keyUnits; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        var unpacked: array<KeyCodes, keysPerThread>;
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          unpacked[j] = keyCodes(keys[j * keyUnits + u], v);
        }
        for (var g = 0u; g < headTile; g++) { // unrolled
          let q = queries[g * columns + (lane + u * keyThreads) * unitVectors + v];
          for (var j = 0u; j < keysPerThread; j++) { // unrolled
            products[j * headTile + g] = multiplyAdd(unpacked[j], q, products[j * headTile + g]);
          }
        }
      }
    }
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      for (var v = 0u; v < headVectors; v++) { // unrolled
        var part = vec4f(0.0);
        for (var i = 0u; i < min(headTile - v * 4u, 4u); i++) { // unrolled
          part[i] = productSum(products[j * headTile + v * 4u + i]);
        }
        parts[((j * teams + team) * partStride + lane) * headVectors + v] = part;
      }
    }
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      let row = rows[next * keyTile + j * teams + team];
      for (var u = 0u; u < keyUnits; u++) { // unrolled
        keys[j * keyUnits + u] = loadUnit(row, lane + u * keyThreads);
      }
    }
    workgroupBarrier();

    var score: array<f32, headTile>;
    var ownWeight: array<f32, headTile>;
    var valueScale = 1.0;
    if (local < keyTile) {
      var keyScale = 1.0;
      if (tokenScales) {
        let both = scales[turn * keyTile + local];
        keyScale = both.x;
        valueScale = both.y;
      }
      for (var v = 0u; v < headVectors; v++) { // unrolled
        var total = vec4f(0.0);
        for (var l = 0u; l < keyThreads; l++) { // unrolled
          total += parts[(local * partStride + l) * headVectors + v];
        }
        for (var i = 0u; i < min(headTile - v * 4u, 4u); i++) { // unrolled
          score[v * 4u + i] = scaledScore(total[i], v * 4u + i, keyScale);
        }
      }
      if (!isPlainTile) {
        for (var g = 0u; g < headTile; g++) { // unrolled
          score[g] = seenScore(score[g], token, firstHead + min(g, heads - 1u), tile + local, keyEnd);
        }
      }
      for (var g = 0u; g < headTile; g++) { // unrolled
        let level = levelOf(score[g], valueScale);
        let isHigher = level > reference[g] + slack;
        if (isHigher) {
          atomicMax(&references[g], orderedBits(level));
          atomicStore(&raised[turn % 2u], round);
        }
        ownWeight[g] = weight(select(score[g], noScore, isHigher), reference[g]); // if one is higher, all are taken again
      }
      for (var v = 0u; v < headVectors; v++) { // unrolled
        var four = vec4f(0.0);
        var weighted = vec4f(0.0);
        for (var i = 0u; i < min(headTile - v * 4u, 4u); i++) { // unrolled
          four[i] = score[v * 4u + i];
          weighted[i] = scaledWeight(ownWeight[v * 4u + i], valueScale);
        }
        scores[own + local * headVectors + v] = four;
        weights[own + local * headVectors + v] = Shares(weighted);
      }
    }
    keepRow((turn + 2u) % 4u, laterSlot, kvHead, local);
    keepScales(next, nextScales, local);
    workgroupBarrier();

    let isRaised = atomicLoad(&raised[turn % 2u]) == round;
    if (isRaised) {
      for (var g = 0u; g < headTile; g++) { // unrolled
        let highest = fromOrderedBits(atomicLoad(&references[g]));
        let factor = rescale(reference[g], highest);
        reference[g] = highest;
        for (var i = 0u; i < ownVectors; i++) { // unrolled
          accumulated[g * ownVectors + i] *= factor;
        }
        sums[g] *= factor;
        if (codeOffset != 0.0) {
          scaledSums[g] *= factor;
        }
        ownWeight[g] = weight(score[g], highest);
      }
    }
    if (local < keyTile) {
      for (var g = 0u; g < headTile; g++) { // unrolled
        sums[g] += ownWeight[g];
        if (codeOffset != 0.0) {
          scaledSums[g] += scaledWeight(ownWeight[g], valueScale);
        }
      }
    }
    // One branch, not one a key, so that nothing keeps the keys' loads apart.
    var shares: array<Shares, keysOfCrew * headVectors>;
    for (var j = 0u; j < keysOfCrew; j++) { // unrolled
      for (var v = 0u; v < headVectors; v++) { // unrolled
        shares[j * headVectors + v] = weights[own + (j * crews + crew) * headVectors + v];
      }
    }
    if (isRaised) {
      for (var j = 0u; j < keysOfCrew; j++) { // unrolled
        let k = j * crews + crew;
        var keysValueScale = 1.0;
        if (tokenScales) {
          keysValueScale = scales[turn * keyTile + k].y;
        }
        for (var v = 0u; v < headVectors; v++) { // unrolled
          let four = scores[own + k * headVectors + v];
          var weighted = vec4f(0.0);
          for (var i = 0u; i < min(headTile - v * 4u, 4u); i++) { // unrolled
            weighted[i] = scaledWeight(weight(four[i], reference[v * 4u + i]), keysValueScale);
          }
          shares[j * headVectors + v] = Shares(weighted);
        }
      }
    }
    var outputs: array<Outputs, headTile * ownVectors>;
    for (var i = 0u; i < headTile * ownVectors; i++) { // unrolled
      outputs[i] = beginOutputs(accumulated[i]);
    }
    for (var j = 0u; j < keysOfCrew; j++) { // unrolled
      for (var u = 0u; u < valueUnits; u++) { // unrolled
        for (var v = 0u; v < unitVectors; v++) { // unrolled
          let codes = valueCodes(values[j * valueUnits + u], v);
          for (var g = 0u; g < headTile; g++) { // unrolled
            let i = g * ownVectors + u * unitVectors + v;
            outputs[i] = addShare(outputs[i], shares[j * headVectors + g / 4u][g % 4u], codes);
          }
        }
      }
    }
    for (var i = 0u; i < headTile * ownVectors; i++) { // unrolled
      accumulated[i] = endOutputs(accumulated[i], outputs[i]);
    }
    tile = following;
    following = later;
    later = latest;
    laterSlot = latestSlot;
    nextScales = laterScales;
    turn = next;
  }

  // Join what the crews added up. First the sums, by the memory of scores, which nobody reads any more.
  workgroupBarrier();
  if (local < keyTile) {
    for (var v = 0u; v < headVectors; v++) { // unrolled
      var plainly = vec4f(0.0);
      var scaled = vec4f(0.0);
      for (var i = 0u; i < min(headTile - v * 4u, 4u); i++) { // unrolled
        plainly[i] = sums[v * 4u + i];
        scaled[i] = scaledSums[v * 4u + i];
      }
      scores[local * headVectors + v] = plainly;
      scores[tileVectors + local * headVectors + v] = scaled;
    }
  }
  workgroupBarrier();
  for (var g = local; g < headTile; g += invocations) {
    let start = startMaximum(firstHead + g, g < heads, segment);
    var total = vec2f(select(exp(start - fromOrderedBits(atomicLoad(&references[g]))), 0.0, start == noScore), 0.0);
    for (var k = 0u; k < keyTile; k++) { // unrolled
      let at = k * headVectors + g / 4u;
      total += vec2f(scores[at][g % 4u], scores[tileVectors + at][g % 4u]);
    }
    totals[g] = total;
  }
  for (var g = 0u; g < headTile; g++) { // unrolled
    for (var u = 0u; u < valueUnits; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        let column = (valueLane + u * valueThreads) * unitVectors + v;
        parts[crew * columns + column] = accumulated[g * ownVectors + u * unitVectors + v];
      }
    }
    workgroupBarrier();
    for (var column = local; column < columns && g < heads; column += invocations) {
      storeColumns(span, segment, token, firstHead + g, column, joinedOutputs(column, totals[g].y), reference[g], totals[g].x);
    }
    workgroupBarrier();
  }
}
