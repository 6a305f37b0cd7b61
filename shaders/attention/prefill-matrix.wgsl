// Prefill by products of matrices of 16 x 16 (see subgroup-matrix.wgsl), f16 operands and f32 sums; of a work item, a KV head and a tile of rows, as
// tile.wgsl says. Follows FlashAttention-2 (Dao 2023) in keeping queries and outputs in registers while keys go by.
//
// The subgroups of a workgroup stand in a grid: rowBlocks x 16 rows each, and columnGroups of them share rows. For scores these share a tile's
// keys, for outputs the columns: each matrix that is loaded from workgroup memory, which limits the products, meets rowBlocks others.
// A result's elements cannot be touched where they are, so scores go through workgroup memory as f32, and weights come back as f16. In
// between, two invocations have a row; scores are in powers of two.
// Weights are relative to a reference that lies `headroom` below what was the row's highest score when it was taken, and a new one is taken
// only when a score is `slack` above it: outputs, which would have to leave their registers for it, are hardly ever rescaled. So weights are
// below 2^slack, and f16 keeps all that is above 2^-22 of the highest with full precision. The row's sum is of weights before rounding.
// Keys and values are dequantised to f16. Spare rows, and rows that see none of a tile's keys, are computed on zeros.

const invocations = 32u * subgroupCount;
const rowTile = subgroupCount / columnGroups * rowBlocks * 16u;
const keyBlocks = keyTile / 16u;
const ownKeyBlocks = keyBlocks / columnGroups;
const dimBlocks = headDim / 16u;
const ownDimBlocks = dimBlocks / columnGroups;
const stagedUnits = headDim / 8u; // vectors of eight f16
const stagedStride = stagedUnits + 1u; // odd, as the other strides: it keeps the banks of workgroup memory apart
const stages = select(2u, 1u, sharedStage); // keys and values have places of their own, or take turns
const valueParts = select(keyBlocks, 0u, sharedStage); // in front of those of values
const loadUnits = unit / 8u; // vectors of eight f16 that one load makes
const tileLoads = (keyTile * units + invocations - 1u) / invocations;
const scoreStride = keyTile / 4u + 1u;
const weightStride = keyTile / 8u + 1u;
const softRows = rowTile / subgroupCount; // rows of a subgroup between the products
const passes = softRows / 16u;
const partnerBit = 8u;
const ownVectors = keyTile / 8u; // of four scores, of an invocation
const queryUnits = keyTile / 4u; // vectors of queries that fit where scores will be
const queryBlocks = queryUnits / 2u;
const queryChunks = (dimBlocks + queryBlocks - 1u) / queryBlocks;
const outputChunks = (ownDimBlocks + ownKeyBlocks - 1u) / ownKeyBlocks;
const headroom = 8.0;
const slack = 15.0;

// In parts of 16 rows, see subgroup-matrix.wgsl.
var<workgroup> staged: array<array<vec4<u32>, 16u * stagedStride>, stages * keyBlocks>; // a tile's keys and values, f16
var<workgroup> scores: array<array<vec4<u32>, 16u * scoreStride>, rowTile / 16u>; // f32; before the first tile, queries in f16; outputs in the end
var<workgroup> weights: array<array<vec4<u32>, 16u * weightStride>, rowTile / 16u>; // f16
var<workgroup> states: array<vec2f, rowTile>; // factors by which outputs are to be rescaled; in the end (reference, sum)
var<workgroup> raised: atomic<u32>; // a row took a new reference

fn dequantise(loaded: PoolLoad, v: u32, factor: f32) -> vec4f {
  return fma(unpackVector(loaded, v), vec4f(factor), vec4f(codeOffset * factor));
}

// Puts an invocation's loads of a tile where they belong. which: 0 for keys, 1 for values. Factors make values of codes.
fn placeLoads(which: u32, loaded: array<PoolLoad, tileLoads>, factors: array<f32, tileLoads>, clamped: bool, local: u32) {
  for (var n = 0u; n < tileLoads; n++) { // unrolled
    let i = n * invocations + local;
    if (i < keyTile * units) {
      let row = i / units;
      let part = which * valueParts + row / 16u;
      let at = row % 16u * stagedStride + i % units * loadUnits;
      if (kvDtype == kvF16) {
        staged[part][at] = loaded[n];
      } else {
        for (var u = 0u; u < loadUnits; u++) {
          var values = Eight(dequantise(loaded[n], 2u * u, factors[n]), dequantise(loaded[n], 2u * u + 1u, factors[n]));
          if (clamped) {
            values = clampHalf8(values);
          }
          staged[part][at + u] = packHalf8(values);
        }
      }
    }
  }
}

fn keepLoads(which: u32, turn: u32, loaded: array<PoolLoad, tileLoads>, local: u32) {
  var factors: array<f32, tileLoads>;
  var largestScale = 0.0;
  for (var n = 0u; n < tileLoads; n++) { // unrolled
    var scale = select(args.keyScale, args.valueScale, which == 1u);
    if (tokenScales) {
      scale = scales[turn * keyTile + min((n * invocations + local) / units, keyTile - 1u)][which];
    }
    largestScale = max(largestScale, scale);
    factors[n] = codeFactor * scale;
  }
  // Where f16 may not hold all values these are clamped: one branch for all loads, lest a branch for each keep them apart.
  if (kvDtype != kvF16 && largestScale > largestHalf / (largestCode + 1.0)) { // int8's -128, too
    placeLoads(which, loaded, factors, true, local);
  } else {
    placeLoads(which, loaded, factors, false, local);
  }
}

// Eight values of a row's query, or zeros for a spare row.
fn packedQuery(row: u32, unitOfRow: u32, firstToken: u32, tokens: u32, firstHead: u32, heads: u32) -> vec4<u32> {
  let t = row / headTile;
  let head = row % headTile;
  if (t >= tokens || head >= heads || unitOfRow >= stagedUnits) {
    return vec4<u32>();
  }
  let position = plan[plan[POSITIONS] + firstToken + t];
  let low = loadQuery(firstToken + t, firstHead + head, 2u * unitOfRow, position);
  return packHalf8(clampHalf8(Eight(low, loadQuery(firstToken + t, firstHead + head, 2u * unitOfRow + 1u, position))));
}

// What becomes of a product where there is more to do than to scale and to end it: the score, in powers of two.
fn changedScore(product: f32, plainScores: bool, t: u32, firstToken: u32, head: u32, key: u32, keyEnd: u32) -> f32 {
  if (plainScores && spans[t].bias == 0u) {
    return select(noScore, args.scale * logE * product, key < keyEnd && isVisible(spans[t], key));
  }
  let score = maskedScore(args.scale * product, t, firstToken, head, key, keyEnd);
  if (score == noScore) {
    return noScore;
  }
  return score * logE;
}

fn attendRows(workgroup: vec3u, local: u32, subgroup: u32, lane: u32) {
  let item = plan[PREFILL_ITEMS] + workgroup.x * ITEM_WORDS;
  let firstToken = plan[item + ITEM_TOKEN];
  let tokens = plan[item + ITEM_TOKENS];
  let tableStart = plan[item + ITEM_TABLE_ROW] * args.tableStride;
  let keyEnd = plan[item + ITEM_KEY_END];
  let segment = plan[item + ITEM_SEGMENT];
  let kvHead = workgroup.y;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile);
  let columnGroup = subgroup % columnGroups;
  let firstPart = subgroup / columnGroups * rowBlocks; // of its rows

  for (var t = local; t < tokens; t += invocations) {
    spans[t] = loadSpan(firstToken + t);
  }
  var queries: array<Left, rowBlocks * dimBlocks>;
  for (var c = 0u; c < queryChunks; c++) { // unrolled
    for (var i = local; i < rowTile * queryUnits; i += invocations) {
      let row = i / queryUnits;
      scores[row / 16u][row % 16u * scoreStride + i % queryUnits] = packedQuery(row, c * queryUnits + i % queryUnits, firstToken, tokens, firstHead, heads);
    }
    workgroupBarrier();
    for (var b = 0u; b < rowBlocks; b++) { // unrolled
      for (var d = 0u; d < min(queryBlocks, dimBlocks - c * queryBlocks); d++) { // unrolled
        queries[b * dimBlocks + c * queryBlocks + d] = loadQueries(firstPart + b, 2u * d);
      }
    }
    workgroupBarrier();
  }
  var outputs: array<Result, rowBlocks * ownDimBlocks>;
  for (var i = 0u; i < rowBlocks * ownDimBlocks; i++) { // unrolled
    outputs[i] = zeroResult();
  }
  let bounds = findBounds(firstToken, tokens, keyEnd);
  let plainScores = hasPlainScores();

  // Between the products an invocation has every other eight keys of a tile, of one row in each pass.
  let part = (lane / partnerBit) % 2u;
  let firstSoftRow = subgroup * softRows + lane % 8u + 8u * (lane / 16u);
  var reference: array<f32, passes>;
  var sum: array<f32, passes>;
  for (var p = 0u; p < passes; p++) { // unrolled
    let row = firstSoftRow + p * 16u;
    let start = startMaximum(firstHead + row % headTile, row / headTile < tokens && row % headTile < heads, segment);
    reference[p] = noScore;
    sum[p] = 0.0;
    if (start != noScore) {
      reference[p] = start * logE - headroom;
      sum[p] = select(0.0, exp2(headroom), part == 0u);
    }
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
  var loaded: array<PoolLoad, tileLoads>;
  for (var n = 0u; n < tileLoads; n++) { // unrolled
    loaded[n] = loadOfTile(0u, 0u, n, local);
  }
  keepLoads(0u, 0u, loaded, local);
  workgroupBarrier();
  while (tile < keyEnd) {
    let later = nextTile(following + keyTile, keyTile, bounds.firstInWindow);
    let allSeenLater = isAllSeen(later, bounds);
    var laterSlots: array<u32, lookups>;
    var nextScales: array<vec2f, lookups>;
    for (var n = 0u; n < lookups; n++) { // unrolled
      laterSlots[n] = findSlot(later, allSeenLater, keyEnd, tokens, tableStart, n, local);
      nextScales[n] = findScales(nextSlots[n], kvHead);
    }
    for (var n = 0u; n < tileLoads; n++) { // unrolled
      loaded[n] = loadOfTile(turn, valueOffset(), n, local);
    }
    var products: array<Result, rowBlocks * ownKeyBlocks>;
    for (var i = 0u; i < rowBlocks * ownKeyBlocks; i++) { // unrolled
      products[i] = zeroResult();
    }
    for (var d = 0u; d < dimBlocks; d++) { // unrolled
      for (var k = 0u; k < ownKeyBlocks; k++) { // unrolled
        let keys = loadColumns(columnGroup * ownKeyBlocks + k, 2u * d);
        for (var b = 0u; b < rowBlocks; b++) { // unrolled
          products[b * ownKeyBlocks + k] = multiplyAdd(queries[b * dimBlocks + d], keys, products[b * ownKeyBlocks + k]);
        }
      }
    }
    for (var b = 0u; b < rowBlocks; b++) { // unrolled
      for (var k = 0u; k < ownKeyBlocks; k++) { // unrolled
        storeResult(firstPart + b, 4u * (columnGroup * ownKeyBlocks + k), products[b * ownKeyBlocks + k]);
      }
    }
    for (var n = 0u; n < lookups; n++) { // unrolled
      keepRow(1u - turn, nextSlots[n], kvHead, n, local);
    }
    workgroupBarrier();

    keepLoads(1u, turn, loaded, local);
    for (var n = 0u; n < tileLoads; n++) { // unrolled
      loaded[n] = loadOfTile(1u - turn, 0u, n, local);
    }
    for (var p = 0u; p < passes; p++) { // unrolled
      let row = firstSoftRow + p * 16u;
      let t = row / headTile;
      let head = row % headTile;
      let exists = t < tokens && head < heads;
      var factor = args.scale * logE;
      if (!(plainScores && (allSeen || bounds.endsAlone))) {
        factor = 1.0;
        for (var j = 0u; j < ownVectors; j++) {
          let v = 4u * (j / 2u) + 2u * part + j % 2u;
          let at = row % 16u * scoreStride + v;
          var own = bitcast<vec4f>(scores[row / 16u][at]);
          for (var i = 0u; i < 4u; i++) {
            if (exists) {
              own[i] = changedScore(own[i], plainScores, t, firstToken, firstHead + head, tile + 4u * v + i, keyEnd);
            } else {
              own[i] = noScore;
            }
          }
          scores[row / 16u][at] = bitcast<vec4<u32>>(own);
        }
      }
      var own: array<vec4f, ownVectors>;
      for (var j = 0u; j < ownVectors; j++) { // unrolled
        own[j] = factor * bitcast<vec4f>(scores[row / 16u][row % 16u * scoreStride + 4u * (j / 2u) + 2u * part + j % 2u]);
      }
      if (plainScores && bounds.endsAlone && !allSeen) {
        var end = 0u;
        if (exists) {
          end = min(keyEnd, spans[t].keyEnd);
        }
        let seen = max(end, tile + 8u * part) - tile - 8u * part;
        for (var j = 0u; j < ownVectors; j++) { // unrolled
          own[j] = select(vec4f(noScore), own[j], vec4<u32>(16u * (j / 2u) + 4u * (j % 2u)) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(seen));
        }
      }
      var highest4 = own[0];
      for (var j = 0u; j < ownVectors; j++) { // unrolled
        highest4 = max(highest4, own[j]);
      }
      var highest = max(max(highest4.x, highest4.y), max(highest4.z, highest4.w));
      highest = max(highest, fromPartner(highest, local));
      let before = reference[p];
      let after = select(before, highest - headroom, highest > before + slack);
      let change = rescale2(before, after);
      reference[p] = after;
      if (part == 0u) {
        states[row].x = change;
      }
      if (before != noScore && after != before) {
        atomicMax(&raised, 1u);
      }
      let shift = select(after, 0.0, after == noScore);
      var total = vec4f(0.0);
      for (var j = 0u; j < ownVectors / 2u; j++) { // unrolled
        let low = exp2(own[2u * j] - shift);
        let high = exp2(own[2u * j + 1u] - shift);
        total += low + high;
        weights[row / 16u][row % 16u * weightStride + 2u * j + part] = packHalf8(Eight(low, high));
      }
      sum[p] = sum[p] * change + (total.x + total.y + total.z + total.w);
    }
    for (var n = 0u; n < lookups; n++) { // unrolled
      keepScales(1u - turn, nextScales[n], n, local);
      nextSlots[n] = laterSlots[n];
    }
    if (workgroupUniformLoad(&raised) != 0u) {
      for (var c = 0u; c < outputChunks; c++) { // unrolled
        for (var b = 0u; b < rowBlocks; b++) { // unrolled
          for (var i = 0u; i < min(ownKeyBlocks, ownDimBlocks - c * ownKeyBlocks); i++) { // unrolled
            storeResult(firstPart + b, 4u * (columnGroup * ownKeyBlocks + i), outputs[b * ownDimBlocks + c * ownKeyBlocks + i]);
          }
        }
        workgroupBarrier();
        for (var i = local; i < rowTile * (scoreStride - 1u); i += invocations) {
          let row = i / (scoreStride - 1u);
          let at = row % 16u * scoreStride + i % (scoreStride - 1u);
          scores[row / 16u][at] = bitcast<vec4<u32>>(states[row].x * bitcast<vec4f>(scores[row / 16u][at]));
        }
        workgroupBarrier();
        for (var b = 0u; b < rowBlocks; b++) { // unrolled
          for (var i = 0u; i < min(ownKeyBlocks, ownDimBlocks - c * ownKeyBlocks); i++) { // unrolled
            outputs[b * ownDimBlocks + c * ownKeyBlocks + i] = loadResult(firstPart + b, 4u * (columnGroup * ownKeyBlocks + i));
          }
        }
        workgroupBarrier();
      }
      if (local == 0u) {
        atomicStore(&raised, 0u);
      }
    }

    for (var k = 0u; k < keyBlocks; k++) { // unrolled
      var own: array<Left, rowBlocks>;
      for (var b = 0u; b < rowBlocks; b++) { // unrolled
        own[b] = loadWeights(firstPart + b, 2u * k);
      }
      for (var d = 0u; d < ownDimBlocks; d++) { // unrolled
        let values = loadValues(valueParts + k, 2u * (columnGroup * ownDimBlocks + d));
        for (var b = 0u; b < rowBlocks; b++) { // unrolled
          outputs[b * ownDimBlocks + d] = multiplyAdd(own[b], values, outputs[b * ownDimBlocks + d]);
        }
      }
    }
    if (sharedStage) {
      workgroupBarrier();
    }
    keepLoads(0u, 1u - turn, loaded, local);
    workgroupBarrier();
    tile = following;
    following = later;
    allSeen = allSeenNext;
    allSeenNext = allSeenLater;
    turn = 1u - turn;
  }

  for (var p = 0u; p < passes; p++) { // unrolled
    let total = sum[p] + fromPartner(sum[p], local);
    if (part == 0u) {
      states[firstSoftRow + p * 16u] = vec2f(select(reference[p] / logE, noScore, reference[p] == noScore), total);
    }
  }
  for (var c = 0u; c < outputChunks; c++) { // unrolled
    for (var b = 0u; b < rowBlocks; b++) { // unrolled
      for (var i = 0u; i < min(ownKeyBlocks, ownDimBlocks - c * ownKeyBlocks); i++) { // unrolled
        storeResult(firstPart + b, 4u * (columnGroup * ownKeyBlocks + i), outputs[b * ownDimBlocks + c * ownKeyBlocks + i]);
      }
    }
    workgroupBarrier();
    for (var i = local; i < rowTile * (scoreStride - 1u); i += invocations) {
      let row = i / (scoreStride - 1u);
      let column = i % (scoreStride - 1u);
      let block = column / 4u;
      let ownBlock = c * ownKeyBlocks + block % ownKeyBlocks;
      let t = row / headTile;
      let head = row % headTile;
      if (t < tokens && head < heads && ownBlock < ownDimBlocks) {
        let values = bitcast<vec4f>(scores[row / 16u][row % 16u * scoreStride + column]);
        let at = 4u * (block / ownKeyBlocks * ownDimBlocks + ownBlock) + column % 4u;
        storeColumns(spans[t], segment, firstToken + t, firstHead + head, at, values, states[row].x, states[row].y);
      }
    }
    workgroupBarrier();
  }
}
