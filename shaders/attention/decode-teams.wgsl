// Attention of single query tokens where subgroups are: a workgroup takes one work item (a token and a range of its keys), one KV head and up to
// headTile of the query heads that share it, so that every key and value row is read once for all of them.
//
// A team of keyThreads neighbours in a subgroup reads a key together, a load (a "unit") at a time each, and a crew of one team or several the
// values of its keys: fewer invocations a key leave fewer parts of a score to add up, more a value fewer outputs in each one's registers. Crews
// work apart until the end: no barrier stands in the loop, so that each waits for its own loads alone. A tile is a key for every invocation, which
// looks up where its key's rows are a tile before they are needed; the tile's rounds take keysPerThread keys for each team. In a round every
// invocation multiplies its units of the keys with the queries; the team adds the parts up by shuffles, such that each score ends in one lane, which
// makes it a weight relative to the crew's reference; shuffles hand it out. The reference of a head is a score that was the highest when it
// was taken; a new one is taken only when a score is higher by `slack`, so that hardly any round has to rescale what was added before (as in
// FlashAttention-4). Values, and the next round's keys, are on their way meanwhile. At the end crews join their outputs, as split rows do.
//
// Neighbouring workgroups take the KV heads of one work item, whose rows are neighbours in memory. Reads headDim * 2 values per key and head. Only
// visible keys are read: the others may have no block any more.

const rounds = keyThreads / keysPerThread;
const roundKeys = teams * keysPerThread;
const keyTile = teams * keyThreads;
const ownScores = max(padded / keyThreads, 1u);
const copies = max(keyThreads / padded, 1u); // lanes that have the same score

const shareWords = (ownScores + sharesPerWord - 1u) / sharesPerWord;

// What the crews hand over of one head, [crew][headDim]; as vectors it makes NVIDIA's compiler order the loop such that f32 takes 269 instead of 259 us.
const partWords = crews * headDim;
var<workgroup> parts: array<f32, partWords>;
var<workgroup> references: array<f32, crews * headTile>;
// Sums of weights, without the values' scales and with them: of the keys that a lane finishes, then of a crew's, relative to the highest reference.
var<workgroup> teamSums: array<vec2f, roundKeys * headTile>;
var<workgroup> crewSums: array<vec2f, crews * headTile>;

fn highestReference(g: u32) -> f32 {
  var highest = noScore;
  for (var c = 0u; c < crews; c++) { // unrolled
    highest = max(highest, references[c * headTile + g]);
  }
  return highest;
}

fn partOf(crew: u32, column: u32) -> vec4f {
  let at = crew * headDim + column * 4u;
  return vec4f(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]);
}

// What the lane has whose number differs in this bit. In a quad it is always there; of others drivers check that.
fn fromAcross(value: f32, across: u32) -> f32 {
  if (across == 1u) {
    return quadSwapX(value);
  }
  if (across == 2u) {
    return quadSwapY(value);
  }
  return subgroupShuffleXor(value, across);
}

@compute @workgroup_size(invocations)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_invocation_id) subgroupLane: u32,
) {
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
  let firstLane = subgroupLane - lane; // of the team, in its subgroup
  let crew = local / valueThreads;
  let valueLane = local % valueThreads;
  let firstOfCrew = subgroupLane - valueLane;
  let firstInWindow = windowBegin(span);
  let plain = plainKeys(span, keyEnd);
  // Of a tile: the key that this invocation looks up, and the first of the team in a round.
  let lookedUp = lane / keysPerThread * roundKeys + team * keysPerThread + lane % keysPerThread;
  let firstOfTeam = team * keysPerThread;

  loadQueries(token, firstHead, heads, position, local);
  var tile = nextTile(plan[item + ITEM_KEY_BEGIN], keyTile, firstInWindow);
  var following = nextTile(tile + keyTile, keyTile, firstInWindow);
  // Where the invocation's key of this tile is, and that of the next one.
  let slot = firstSlot(tile + lookedUp, keyEnd, span, tableStart);
  var nextSlot = firstSlot(following + lookedUp, keyEnd, span, tableStart);
  var row = keyAddress(slot, kvHead);
  var scales = scalesOf(slot, kvHead);

  finishQueries(local);

  var accumulated: array<vec4f, headTile * ownVectors>;
  for (var i = 0u; i < headTile * ownVectors; i++) { // unrolled
    accumulated[i] = vec4f(0.0);
  }
  // The scores that this invocation finishes: of which of the team's keys and which head, the crew's reference of the head, and sums of weights,
  // without the values' scales and, where codes have an offset, with them (registers that others need as much).
  var ownExists: array<bool, ownScores>;
  var ownKey: array<u32, ownScores>;
  var ownHead: array<u32, ownScores>;
  var reference: array<f32, ownScores>;
  var sums: array<f32, ownScores>;
  var scaledSums: array<f32, ownScores>;
  for (var n = 0u; n < ownScores; n++) { // unrolled
    let i = lane / copies * ownScores + n;
    ownExists[n] = i < keysPerThread * headTile && lane % copies == 0u;
    ownKey[n] = min(i / headTile, keysPerThread - 1u);
    ownHead[n] = i % headTile;
    reference[n] = startMaximum(firstHead + ownHead[n], ownHead[n] < heads, segment);
    sums[n] = 0.0;
    scaledSums[n] = 0.0;
  }
  workgroupBarrier();

  var round = 0u;
  var keys: array<PoolLoad, rawLoads>;
  var values: array<PoolLoad, rawLoads>;
  for (var j = 0u; j < keysPerThread; j++) { // unrolled
    let keyRow = subgroupShuffle(row, firstLane + j);
    for (var u = 0u; u < keyUnits; u++) { // unrolled
      keys[j * keyUnits + u] = loadUnit(keyRow, lane + u * keyThreads);
    }
  }
  while (tile + round * roundKeys < keyEnd) {
    for (var t = 0u; t < teamsOfCrew; t++) { // unrolled
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        let valueRow = subgroupShuffle(row, firstOfCrew + t * keyThreads + round * keysPerThread + j);
        for (var u = 0u; u < valueUnits; u++) { // unrolled
          values[(t * keysPerThread + j) * valueUnits + u] = loadUnit(valueRow + valueOffset(), valueLane + u * valueThreads);
        }
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
    // Of the scores' keys, before the next tile takes the place of this one.
    let isPlainTile = isPlain(tile, keyTile, plain);
    let firstKey = tile + round * roundKeys + firstOfTeam;
    let firstLookup = firstLane + round * keysPerThread;
    var ownScales: array<vec2f, ownScores>;
    for (var n = 0u; n < ownScores; n++) { // unrolled
      ownScales[n] = vec2f(1.0);
      if (tokenScales) {
        ownScales[n] = vec2f(subgroupShuffle(scales.x, firstLookup + ownKey[n]), subgroupShuffle(scales.y, firstLookup + ownKey[n]));
      }
    }
    round = (round + 1u) % rounds;
    if (round == 0u) {
      tile = following;
      following = nextTile(following + keyTile, keyTile, firstInWindow);
      row = keyAddress(nextSlot, kvHead);
      scales = scalesOf(nextSlot, kvHead);
      nextSlot = findSlot(following + lookedUp, isPlain(following, keyTile, plain), keyEnd, token, tableStart);
    }
    for (var j = 0u; j < keysPerThread; j++) { // unrolled
      let keyRow = subgroupShuffle(row, firstLane + round * keysPerThread + j);
      for (var u = 0u; u < keyUnits; u++) { // unrolled
        keys[j * keyUnits + u] = loadUnit(keyRow, lane + u * keyThreads);
      }
    }

    var sumsOfLane: array<f32, padded>;
    for (var i = 0u; i < padded; i++) { // unrolled
      sumsOfLane[i] = 0.0;
      if (i < keysPerThread * headTile) {
        sumsOfLane[i] = productSum(products[min(i, keysPerThread * headTile - 1u)]);
      }
    }
    // In each step a lane gives half of its sums to the lane across and adds that one's other half to its own.
    for (var step = 0u; step < laneBits; step++) { // unrolled
      let across = keyThreads >> (step + 1u);
      let upper = (lane & across) != 0u;
      for (var i = 0u; i < padded >> (step + 1u); i++) { // unrolled
        let other = i + (padded >> (step + 1u));
        let given = fromAcross(select(sumsOfLane[other], sumsOfLane[i], upper), across);
        sumsOfLane[i] = given + select(sumsOfLane[i], sumsOfLane[other], upper);
      }
      if ((padded >> step) <= 1u) {
        sumsOfLane[0] += fromAcross(sumsOfLane[0], across);
      }
    }
    var score: array<f32, ownScores>;
    for (var n = 0u; n < ownScores; n++) { // unrolled
      score[n] = select(noScore, scaledScore(sumsOfLane[n], ownHead[n], ownScales[n].x), ownExists[n]);
    }
    if (!isPlainTile) {
      for (var n = 0u; n < ownScores; n++) { // unrolled
        if (ownExists[n]) {
          score[n] = seenScore(score[n], token, firstHead + min(ownHead[n], heads - 1u), firstKey + ownKey[n], keyEnd);
        }
      }
    }
    var level: array<f32, ownScores>;
    var isHigher = false;
    for (var n = 0u; n < ownScores; n++) { // unrolled
      level[n] = levelOf(score[n], ownScales[n].y);
      isHigher = isHigher || level[n] > reference[n] + slack;
    }
    if (subgroupAny(isHigher)) {
      var highest: array<f32, ownScores>;
      for (var n = 0u; n < ownScores; n++) { // unrolled
        highest[n] = reference[n];
      }
      for (var g = 0u; g < headTile; g++) { // unrolled
        let before = subgroupShuffle(reference[g % ownScores], firstLane + g / ownScores * copies);
        var after = before;
        for (var t = 0u; t < teamsOfCrew; t++) { // unrolled
          for (var j = 0u; j < keysPerThread; j++) { // unrolled
            let i = j * headTile + g;
            after = max(after, subgroupShuffle(level[i % ownScores], firstOfCrew + t * keyThreads + i / ownScores * copies));
          }
        }
        let factor = rescale(before, after);
        for (var i = 0u; i < ownVectors; i++) { // unrolled
          accumulated[g * ownVectors + i] *= factor;
        }
        for (var n = 0u; n < ownScores; n++) { // unrolled
          highest[n] = select(highest[n], after, ownHead[n] == g);
        }
      }
      for (var n = 0u; n < ownScores; n++) { // unrolled
        let factor = rescale(reference[n], highest[n]);
        reference[n] = highest[n];
        sums[n] *= factor;
        if (codeOffset != 0.0) {
          scaledSums[n] *= factor;
        }
      }
    }
    var ownWeight: array<f32, ownScores>;
    for (var n = 0u; n < ownScores; n++) { // unrolled
      let p = weight(score[n], reference[n]);
      ownWeight[n] = scaledWeight(p, ownScales[n].y);
      sums[n] += p;
      if (codeOffset != 0.0) {
        scaledSums[n] += ownWeight[n];
      }
    }
    var words: array<ShareWord, shareWords>;
    for (var m = 0u; m < shareWords; m++) { // unrolled
      words[m] = shareWord(ownWeight[m * sharesPerWord], ownWeight[min(m * sharesPerWord + 1u, ownScores - 1u)]);
    }
    var outputs: array<Outputs, headTile * ownVectors>;
    for (var i = 0u; i < headTile * ownVectors; i++) { // unrolled
      outputs[i] = beginOutputs(accumulated[i]);
    }
    for (var t = 0u; t < teamsOfCrew; t++) { // unrolled
      for (var j = 0u; j < keysPerThread; j++) { // unrolled
        var shares: array<Share, headTile>;
        var word: ShareWord;
        for (var g = 0u; g < headTile; g++) { // unrolled
          let i = j * headTile + g;
          let n = i % ownScores;
          if (g == 0u || n % sharesPerWord == 0u) {
            word = subgroupShuffle(words[n / sharesPerWord], firstOfCrew + t * keyThreads + i / ownScores * copies);
          }
          shares[g] = shareOf(word, n % sharesPerWord);
        }
        for (var u = 0u; u < valueUnits; u++) { // unrolled
          for (var v = 0u; v < unitVectors; v++) { // unrolled
            let codes = valueCodes(values[(t * keysPerThread + j) * valueUnits + u], v);
            for (var g = 0u; g < headTile; g++) { // unrolled
              let i = g * ownVectors + u * unitVectors + v;
              outputs[i] = addShare(outputs[i], shares[g], codes);
            }
          }
        }
      }
    }
    for (var i = 0u; i < headTile * ownVectors; i++) { // unrolled
      accumulated[i] = endOutputs(accumulated[i], outputs[i]);
    }
  }

  // Join what the crews added up, relative to the highest of their references.
  for (var n = 0u; n < ownScores; n++) { // unrolled
    if (ownExists[n]) {
      if (ownKey[n] == 0u) { // each team of a crew writes the same
        references[crew * headTile + ownHead[n]] = reference[n];
      }
      teamSums[(firstOfTeam + ownKey[n]) * headTile + ownHead[n]] = vec2f(sums[n], scaledSums[n]);
    }
  }
  workgroupBarrier();
  for (var i = local; i < crews * headTile; i += invocations) {
    var total = vec2f(0.0);
    for (var k = 0u; k < keysOfCrew; k++) { // unrolled
      total += teamSums[(i / headTile * keysOfCrew + k) * headTile + i % headTile];
    }
    crewSums[i] = rescale(references[i], highestReference(i % headTile)) * total;
  }
  for (var g = 0u; g < headTile; g++) { // unrolled
    let highest = highestReference(g);
    let factor = rescale(references[crew * headTile + g], highest);
    for (var u = 0u; u < valueUnits; u++) { // unrolled
      for (var v = 0u; v < unitVectors; v++) { // unrolled
        let part = factor * accumulated[g * ownVectors + u * unitVectors + v];
        let at = crew * headDim + ((valueLane + u * valueThreads) * unitVectors + v) * 4u;
        for (var i = 0u; i < 4u; i++) {
          parts[at + i] = part[i];
        }
      }
    }
    workgroupBarrier();
    for (var column = local; column < columns && g < heads; column += invocations) {
      let start = startMaximum(firstHead + g, true, segment);
      var total = vec2f(select(exp(start - highest), 0.0, start == noScore), 0.0);
      for (var c = 0u; c < crews; c++) { // unrolled
        total += crewSums[c * headTile + g];
      }
      storeColumns(span, segment, token, firstHead + g, column, joinedOutputs(column, total.y), highest, total.x);
    }
    workgroupBarrier();
  }
}
