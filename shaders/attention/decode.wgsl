// Attention of single query tokens: a workgroup takes one work item (a token and a range of its keys), one KV head and up to headTile
// of the query heads that share it, so that every key and value row is read once for all of them.
//
// A team of keyThreads invocations reads a key together, a load (a "unit") or several each, so that neighbours read neighbouring memory. The
// teams go through the item's keys in tiles of keysPerThread keys for each team. In a tile every invocation multiplies its units of the keys with
// the queries, and leaves the parts of the scores in workgroup memory; then each score is added up and made a weight by one invocation, relative
// to a reference, and each crew, a team or several, adds the weighted values of its share of the keys to outputs of its own, which are joined
// at the end. The reference of a head is a score that was the highest when it was taken; a new one is taken only when a score is higher by `slack`,
// so that hardly any tile has to rescale what was added before (as in FlashAttention-4). Two barriers per tile; values, and the next tile's keys,
// are on their way meanwhile. Where subgroups are, decode-teams.wgsl does without barriers.
//
// Neighbouring workgroups take the KV heads of one work item, whose rows are neighbours in memory. Reads headDim * 2 values per key and head. Only
// visible keys are read: the others may have no block any more.

const keyTile = teams * keysPerThread;
const scoreStride = keyThreads + 1u; // odd steps keep the banks of workgroup memory apart
const keysOfCrew = keysPerThread * teamsOfCrew;
const ownScores = (keyTile * headTile + invocations - 1u) / invocations;

// The parts of a tile's scores, [key][head][lane]; at the end what the crews hand over.
const partWords = max(keyTile * headTile * scoreStride, crews * headDim);
var<workgroup> scores: array<f32, 2u * keyTile * headTile>; // [turn][key][head]
var<workgroup> weights: array<f32, 2u * keyTile * headTile>; // the same; with the values' scales
// Of the last tile, this one and the next two, in turn: addresses of the keys' rows, and the scales of keys and values.
var<workgroup> rows: array<u32, 4u * keyTile>;
const scaleSlots = 4u * keyTile * scaleWords + 1u;
var<workgroup> scales: array<vec2f, scaleSlots>;
var<workgroup> references: array<atomic<u32>, headTile>; // as ordered bits
var<workgroup> raised: array<atomic<u32>, 2>; // the last even and the last odd round that raised a reference

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
  let tableStart = plan[item + ITEM_TABLE_ROW] * constants.tableStride;
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let span = loadSpan(token);
  let position = plan[plan[POSITIONS] + token];
  let kvHead = workgroup.x;
  alibi = constants.alibi;
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
  let firstSlot = findTileSlot(tile, plain, keyEnd, token, tableStart, local);
  let secondSlot = findTileSlot(following, plain, keyEnd, token, tableStart, local);
  var laterSlot = findTileSlot(later, plain, keyEnd, token, tableStart, local);
  var nextScales = scalesOf(secondSlot, kvHead);
  keepRow(0u, firstSlot, kvHead, local);
  keepRow(1u, secondSlot, kvHead, local);
  keepScales(0u, scalesOf(firstSlot, kvHead), local);
  for (var g = local; g < headTile; g += invocations) {
    atomicStore(&references[g], orderedBits(startMaximum(firstHead + g, g < heads, segment)));
  }

  sumQueries(local);

  var accumulated: array<vec4f, headTile * ownVectors>;
  var reference: array<f32, headTile>;
  for (var g = 0u; g < headTile; g++) { // unrolled
    reference[g] = startMaximum(firstHead + g, g < heads, segment);
    for (var i = 0u; i < ownVectors; i++) { // unrolled
      accumulated[g * ownVectors + i] = vec4f(0.0);
    }
  }
  // The scores of a tile that this invocation finishes: of which key and head, the head's reference, and sums of weights, without the values'
  // scales and with them.
  var ownExists: array<bool, ownScores>;
  var ownKey: array<u32, ownScores>;
  var ownHead: array<u32, ownScores>;
  var ownReference: array<f32, ownScores>;
  var sums: array<vec2f, ownScores>;
  for (var n = 0u; n < ownScores; n++) { // unrolled
    let i = local + n * invocations;
    ownExists[n] = i < keyTile * headTile;
    ownKey[n] = min(i / headTile, keyTile - 1u);
    ownHead[n] = i % headTile;
    ownReference[n] = startMaximum(firstHead + ownHead[n], ownHead[n] < heads, segment);
    sums[n] = vec2f(0.0);
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
    let own = turn % 2u * keyTile * headTile;
    let isPlainTile = isPlain(tile, keyTile, plain);
    for (var j = 0u; j < keysOfCrew; j++) { // unrolled
      let row = rows[turn * keyTile + j * crews + crew];
      for (var u = 0u; u < valueUnits; u++) { // unrolled
        values[j * valueUnits + u] = loadUnit(row + valueOffset(), valueLane + u * valueThreads);
      }
    }

    var products: array<f32, keysPerThread * headTile>;
    for (var i = 0u; i < keysPerThread * headTile; i++) { // unrolled
      products[i] = 0.0;
    }
    for (var u = 0u; u < keyUnits; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        var unpacked: array<vec4f, keysPerThread>;
        for (var j = 0u; j < keysPerThread; j++) { // unrolled
          unpacked[j] = unpackVector(keys[j * keyUnits + u], v);
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
      for (var u = 0u; u < keyUnits; u++) { // unrolled
        keys[j * keyUnits + u] = loadUnit(row, lane + u * keyThreads);
      }
    }
    workgroupBarrier();

    var ownScore: array<f32, ownScores>;
    var ownWeight: array<f32, ownScores>;
    var valueScale: array<f32, ownScores>;
    for (var n = 0u; n < ownScores; n++) { // unrolled
      let k = ownKey[n];
      let g = ownHead[n];
      ownScore[n] = noScore;
      ownWeight[n] = 0.0;
      valueScale[n] = 1.0;
      if (ownExists[n]) {
        var score = 0.0;
        for (var l = 0u; l < keyThreads; l++) { // unrolled
          score += parts[(k * headTile + g) * scoreStride + l];
        }
        var both = vec2f(1.0);
        if (tokenScales) {
          both = scales[turn * keyTile + k];
        }
        score = scaledScore(score, g, both.x);
        valueScale[n] = both.y;
        if (!isPlainTile) {
          score = seenScore(score, token, firstHead + min(g, heads - 1u), tile + k, keyEnd);
        }
        ownScore[n] = score;
        if (score > ownReference[n] + slack) {
          atomicMax(&references[g], orderedBits(score));
          atomicStore(&raised[turn % 2u], round);
        }
        ownWeight[n] = weight(min(score, ownReference[n] + slack), ownReference[n]);
        scores[own + k * headTile + g] = ownScore[n];
        weights[own + k * headTile + g] = scaledWeight(ownWeight[n], valueScale[n]);
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
      }
      for (var n = 0u; n < ownScores; n++) { // unrolled
        let highest = fromOrderedBits(atomicLoad(&references[ownHead[n]]));
        sums[n] *= rescale(ownReference[n], highest);
        ownReference[n] = highest;
        ownWeight[n] = weight(ownScore[n], highest);
      }
    }
    for (var n = 0u; n < ownScores; n++) { // unrolled
      sums[n] += vec2f(ownWeight[n], scaledWeight(ownWeight[n], valueScale[n]));
    }
    // One branch, not one a key, so that nothing keeps the keys' loads apart.
    var shares: array<f32, keysOfCrew * headTile>;
    for (var j = 0u; j < keysOfCrew; j++) { // unrolled
      for (var g = 0u; g < headTile; g++) { // unrolled
        shares[j * headTile + g] = weights[own + (j * crews + crew) * headTile + g];
      }
    }
    if (isRaised) {
      for (var j = 0u; j < keysOfCrew; j++) { // unrolled
        let k = j * crews + crew;
        for (var g = 0u; g < headTile; g++) { // unrolled
          let p = weight(scores[own + k * headTile + g], reference[g]);
          shares[j * headTile + g] = p;
          if (tokenScales) {
            shares[j * headTile + g] = scaledWeight(p, scales[turn * keyTile + k].y);
          }
        }
      }
    }
    for (var j = 0u; j < keysOfCrew; j++) { // unrolled
      for (var u = 0u; u < valueUnits; u++) { // unrolled
        for (var v = 0u; v < unitVectors; v++) { // unrolled
          let unpacked = unpackVector(values[j * valueUnits + u], v);
          for (var g = 0u; g < headTile; g++) { // unrolled
            accumulated[g * ownVectors + u * unitVectors + v] += shares[j * headTile + g] * unpacked;
          }
        }
      }
    }
    tile = following;
    following = later;
    later = latest;
    laterSlot = latestSlot;
    nextScales = laterScales;
    turn = next;
  }

  // Join what the crews added up. First the sums, by the memory of the parts of scores, which nobody reads any more.
  workgroupBarrier();
  for (var n = 0u; n < ownScores; n++) { // unrolled
    if (ownExists[n]) {
      scores[ownKey[n] * headTile + ownHead[n]] = sums[n].x;
      weights[ownKey[n] * headTile + ownHead[n]] = sums[n].y;
    }
  }
  workgroupBarrier();
  for (var g = local; g < headTile; g += invocations) {
    let start = startMaximum(firstHead + g, g < heads, segment);
    var total = vec2f(select(exp(start - fromOrderedBits(atomicLoad(&references[g]))), 0.0, start == noScore), 0.0);
    for (var k = 0u; k < keyTile; k++) {
      total += vec2f(scores[k * headTile + g], weights[k * headTile + g]);
    }
    totals[g] = total;
  }
  for (var g = 0u; g < headTile; g++) { // unrolled
    for (var u = 0u; u < valueUnits; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        let part = accumulated[g * ownVectors + u * unitVectors + v];
        let at = crew * headDim + ((valueLane + u * valueThreads) * unitVectors + v) * 4u;
        for (var i = 0u; i < 4u; i++) {
          parts[at + i] = part[i];
        }
      }
    }
    workgroupBarrier();
    for (var column = local; column < columns && g < heads; column += invocations) {
      storeColumns(span, segment, token, firstHead + g, column, joinedOutputs(column, totals[g].y), reference[g], totals[g].x);
    }
    workgroupBarrier();
  }
}
