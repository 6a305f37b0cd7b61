// Attention of single query tokens by products of matrices (see narrow-matrix.wgsl), f16 operands and f32 sums: a workgroup takes one work item (a
// token and a range of its keys), one KV head and up to eight of the query heads that share it. By multiply-adds each head costs a row's
// values once more, by matrices all eight cost what one does, so that groups of more than four heads run at the memory's speed, too. How keys
// meet queries is a part of its own: matrix-keys-f16.wgsl or, for keys in int8 that are operands as they are, matrix-keys-i8.wgsl.
//
// Each subgroup has keys of its own, keyBlocks matrices of 16, and a part of workgroup memory, through which rows become matrices: 64 values of
// 16 keys at a time, which leaves room for sixteen subgroups on a core. A round takes three steps: all scores, all weights, all outputs. Loads of
// keys, and later of values, stand right before what waits for them, with no branch in between: drivers move loads behind branches, so that loads
// for a later round would only keep registers. Many in one step hide the memory, and so do the core's other subgroups.
//
// Between the products an invocation has four heads of a key, all that there are or half of them; scores are in powers of two. Weights
// are relative to a reference of the subgroup that lies `headroom` below what was the head's highest score when it was taken, and a new one is
// taken only when a score is `slack` above it: outputs, which would have to leave their registers for it, are hardly ever rescaled. The
// scales of values are in the scores that count for it, so that weights times scales stay below 2^slack. Where a reference is raised the
// round begins anew: outputs that a branch changes and that are used behind it would be kept twice.
//
// Values of a row are in the order in which loads bring them: those of a matrix's columns stand beside the queries' in the same order.

const invocations = 32u * subgroupCount;
const blockKeys = 16u;
const ownKeys = blockKeys * keyBlocks; // of a subgroup, in a round
const keyTile = subgroupCount * ownKeys;
const units = headDim / 8u; // vectors of eight f16
const partUnits = 8u; // of a row, as many as are in workgroup memory at a time
const parts = units / partUnits;
const partMatrices = partUnits / 2u;
const matrices = units / 2u;
const stagedStride = partUnits + 1u; // odd, as that of queries: it keeps the banks of workgroup memory apart
const queryStride = units + 1u;
const sumsStride = 2u;
const ownStaged = blockKeys * stagedStride; // of a subgroup
const loadUnits = unit / 8u; // vectors of eight f16 that one load makes
const loadsOfRow = headDim / unit;
const loadColumns = min(loadsOfRow, partUnits); // neighbours that read a row together
const rowsAtOnce = 32u / loadColumns;
const loadRounds = blockKeys / rowsAtOnce;
const rowParts = loadsOfRow / loadColumns;
const blockLoads = loadRounds * rowParts; // of an invocation, for 16 keys
const tileHeads = 8u; // columns of a matrix
const quads = (headTile + 3u) / 4u;
const keyLanes = 32u / quads; // invocations that have the same heads
const laneKeys = ownKeys / keyLanes; // of an invocation, in a round
const headroom = 2.0;
const slack = 15.0;

alias Loads = array<PoolLoad, keyBlocks * blockLoads>;

// [subgroup][key][unit of the part], f16; before the first round, queries; products, and scores and outputs, f32 [key or value][head].
var<workgroup> staged: array<array<vec4<u32>, ownStaged>, subgroupCount>;
var<workgroup> weights: array<array<vec4<u32>, ownKeys>, subgroupCount>; // f16 [subgroup][key][head]
var<workgroup> changes: array<vec4f, 2u * subgroupCount>; // factors by which outputs are to be rescaled [subgroup][head]
var<workgroup> states: array<vec2f, tileHeads * subgroupCount>; // in the end: (reference, sum) [subgroup][head]
var<workgroup> raised: vec4<u32>; // 1 where a head took a new reference [subgroup]
var<workgroup> bounds: Bounds;

// What decides how rounds go by.
struct Bounds {
  firstTile: u32,
  keyEnd: u32,
  firstInWindow: u32,
  plain: vec2<u32>,
}

// Which eight values of a row are unit `place` of matrices: a load's units are `loadsOfRow` apart.
fn unitAt(place: u32) -> u32 {
  return loadUnits * (place % loadsOfRow) + place / loadsOfRow;
}

// Four values in the order of matrices, or back: codes come as a word's even ones, then its odd ones.
fn inOrder(values: vec4f) -> vec4f {
  if (kvDtype == kvF16) {
    return values;
  }
  return values.xzyw;
}

// Four codes as f16.
fn codeHalves(word: u32) -> vec2<u32> {
  if (kvDtype == kvE5m2) {
    return e5m2Halves(word);
  }
  if (kvDtype == kvE4m3) {
    return e4m3Halves(word);
  }
  let biased = biasedHalves(word);
  return vec2<u32>(unbiasedHalves(biased.x), unbiasedHalves(biased.y));
}

fn halvesOf(load: PoolLoad, u: u32) -> vec4<u32> {
  if (kvDtype == kvF16) {
    return load;
  }
  return vec4<u32>(codeHalves(load[2u * u]), codeHalves(load[2u * u + 1u]));
}

// An invocation's loads of the subgroup's rows, or, `offset` behind keys, of values. row: of the key that it has looked up.
fn loadOwn(row: u32, offset: u32, lane: u32) -> Loads {
  var loads: Loads;
  for (var b = 0u; b < keyBlocks; b++) { // unrolled
    for (var r = 0u; r < loadRounds; r++) { // unrolled
      let address = fromLane(row, b * blockKeys + r * rowsAtOnce + lane / loadColumns) + offset;
      for (var c = 0u; c < rowParts; c++) { // unrolled
        loads[b * blockLoads + c * loadRounds + r] = loadUnit(address, lane % loadColumns + c * loadColumns);
      }
    }
  }
  return loads;
}

// Puts a part of 16 rows where matrices are loaded from.
fn stage(loads: Loads, b: u32, part: u32, subgroup: u32, lane: u32) {
  let at = lane / loadColumns * stagedStride + lane % loadColumns;
  for (var u = 0u; u < loadUnits; u++) { // unrolled
    for (var c = 0u; c < rowParts; c++) { // unrolled
      if ((u * loadsOfRow + c * loadColumns) / partUnits == part) {
        for (var r = 0u; r < loadRounds; r++) { // unrolled
          let place = r * rowsAtOnce * stagedStride + (u * loadsOfRow + c * loadColumns) % partUnits;
          staged[subgroup][at + place] = halvesOf(loads[b * blockLoads + c * loadRounds + r], u);
        }
      }
    }
  }
}

fn highestReference(head: u32) -> f32 {
  var highest = noScore;
  for (var s = 0u; s < subgroupCount; s++) { // unrolled
    highest = max(highest, states[s * tileHeads + head].x);
  }
  return highest;
}

fn attendToken(workgroup: vec3u, local: u32, subgroup: u32, lane: u32) {
  let item = plan[DECODE_ITEMS] + workgroup.y * ITEM_WORDS;
  let token = plan[item + ITEM_TOKEN];
  let tableStart = plan[item + ITEM_TABLE_ROW] * args.tableStride;
  let segment = plan[item + ITEM_SEGMENT];
  let span = loadSpan(token);
  let position = plan[plan[POSITIONS] + token];
  let kvHead = workgroup.x;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile);
  if (local == 0u) {
    let end = plan[item + ITEM_KEY_END];
    let begin = windowBegin(span);
    bounds = Bounds(nextTile(plan[item + ITEM_KEY_BEGIN], keyTile, begin), end, begin, plainKeys(span, end));
  }
  let rounds = workgroupUniformLoad(&bounds);
  let keyEnd = rounds.keyEnd;
  let firstInWindow = rounds.firstInWindow;
  let plain = rounds.plain;
  let lookedUp = subgroup * ownKeys + lane % ownKeys; // the key of a round that it looks up
  // Between the products: its keys, every keyLanes of a round, and four heads.
  let key = lane % keyLanes;
  let quad = lane / keyLanes;

  stageQueries(token, firstHead, heads, position, local);
  if (local < 2u * subgroupCount) {
    changes[local] = vec4f(1.0);
  }
  workgroupBarrier();
  let queries = stagedQueries();
  var outputs: array<Sums, matrices>;
  for (var d = 0u; d < matrices; d++) { // unrolled
    outputs[d] = noSums();
  }
  var reference: vec4f;
  for (var i = 0u; i < 4u; i++) { // unrolled
    let start = startMaximum(firstHead + min(4u * quad + i, heads - 1u), 4u * quad + i < heads, segment);
    reference[i] = select(start * logE - headroom, noScore, start == noScore);
  }
  var sum = vec4f(0.0);
  let firstTile = rounds.firstTile;
  var tile = firstTile;
  var slot = firstSlot(tile + lookedUp, keyEnd, span, tableStart);
  workgroupBarrier();

  loop {
    let row = keyAddress(slot, kvHead);
    let keys = loadOwn(row, 0u, lane);
    let scales = scalesOf(slot, kvHead);
    let following = nextTile(tile + keyTile, keyTile, firstInWindow);
    let nextSlot = findSlot(following + lookedUp, isPlain(following, keyTile, plain), keyEnd, token, tableStart);
    var products: array<Products, keyBlocks>;
    for (var b = 0u; b < keyBlocks; b++) { // unrolled
      products[b] = keyProducts(keys, b, queries, subgroup, lane);
    }
    for (var b = 0u; b < keyBlocks; b++) { // unrolled
      storeProducts(subgroup, b * blockKeys * sumsStride, products[b]);
    }
    workgroupBarrier();

    var ownScales: array<vec2f, laneKeys>;
    var factors: array<f32, laneKeys>;
    for (var n = 0u; n < laneKeys; n++) { // unrolled
      ownScales[n] = vec2f(1.0);
      factors[n] = args.scale * logE * codeFactor;
      if (tokenScales) {
        ownScales[n] = scales;
        if (laneKeys > 1u) {
          let bits = bitcast<vec2<u32>>(scales);
          let ofKey = vec2<u32>(fromLane(bits.x, n * keyLanes + key), fromLane(bits.y, n * keyLanes + key));
          ownScales[n] = bitcast<vec2f>(ofKey);
        }
        factors[n] *= ownScales[n].x;
      } else if (kvDtype >= kvInt8) {
        factors[n] *= args.keyScale;
      }
    }
    // Scores stay where they are meanwhile, so that they take no registers.
    let isPlainTile = isPlain(tile, keyTile, plain);
    if (!isPlainTile) {
      for (var n = 0u; n < laneKeys; n++) { // unrolled
        let at = (n * keyLanes + key) * sumsStride + quad;
        for (var i = 0u; i < 4u; i++) {
          let score = wholeProduct(staged[subgroup][at][i], quad, i) * (factors[n] / logE);
          let head = firstHead + min(4u * quad + i, heads - 1u);
          let seen = seenScore(score, token, head, tile + subgroup * ownKeys + n * keyLanes + key, keyEnd);
          staged[subgroup][at][i] = bitcast<u32>(select(seen * logE, noScore, seen == noScore));
        }
      }
    }
    var scores: array<vec4f, laneKeys>;
    var level = vec4f(noScore);
    for (var n = 0u; n < laneKeys; n++) { // unrolled
      let stored = staged[subgroup][(n * keyLanes + key) * sumsStride + quad];
      scores[n] = bitcast<vec4f>(stored);
      if (isPlainTile) {
        for (var i = 0u; i < 4u; i++) { // unrolled
          scores[n][i] = factors[n] * wholeProduct(stored[i], quad, i);
        }
      }
      level = max(level, scores[n] + log2(max(ownScales[n].y, 1e-20)));
    }
    if (anyOfSubgroup(any(level > reference + slack))) {
      let highest = highestOfKeys(level);
      let before = reference;
      reference = select(before, highest - headroom, highest > before + slack);
      let change = select(exp2(before - reference), vec4f(0.0), before == vec4f(noScore));
      sum *= change;
      if (key == 0u && tile != firstTile) {
        changes[2u * subgroup + quad] = change;
      }
      if (lane == 0u && tile != firstTile) {
        raised[subgroup] = 1u;
      }
    }
    if (any(workgroupUniformLoad(&raised) != vec4<u32>(0u))) {
      for (var d = 0u; d < matrices; d++) { // unrolled
        storeSums(subgroup, 0u, outputs[d]);
        workgroupBarrier();
        let factor = changes[2u * subgroup + lane % 2u];
        staged[subgroup][lane] = bitcast<vec4<u32>>(factor * bitcast<vec4f>(staged[subgroup][lane]));
        workgroupBarrier();
        outputs[d] = loadSums(subgroup, 0u);
        workgroupBarrier();
      }
      if (local < 2u * subgroupCount) {
        changes[local] = vec4f(1.0);
      }
      if (local == 0u) {
        raised = vec4<u32>();
      }
      workgroupBarrier(); // lest what some invocations do here count as a way of its own to the next round
    } else {
      let shift = select(reference, vec4f(0.0), reference == vec4f(noScore));
      for (var n = 0u; n < laneKeys; n++) { // unrolled
        let p = exp2(scores[n] - shift);
        sum += p;
        let scaled = select(vec4f(0.0), p * ownScales[n].y, p > vec4f(0.0));
        weights[subgroup][n * keyLanes + key][2u * quad] = pack2x16float(scaled.xy);
        weights[subgroup][n * keyLanes + key][2u * quad + 1u] = pack2x16float(scaled.zw);
      }
      let values = loadOwn(row, valueOffset(), lane);
      var shares: array<Heads, keyBlocks>;
      for (var b = 0u; b < keyBlocks; b++) { // unrolled
        for (var part = 0u; part < parts; part++) { // unrolled
          stage(values, b, part, subgroup, lane);
          workgroupBarrier();
          if (part == 0u) {
            shares[b] = loadWeights(subgroup, b * blockKeys);
          }
          for (var d = 0u; d < partMatrices; d++) { // unrolled
            outputs[part * partMatrices + d] = multiplyAdd(loadValues(subgroup, 2u * d), shares[b], outputs[part * partMatrices + d]);
          }
          workgroupBarrier();
        }
      }
      slot = nextSlot;
      tile = following;
    }
    continuing {
      break if tile >= keyEnd;
    }
  }

  // Join what the subgroups added up, relative to the highest of their references.
  let sums = sumOfKeys(sum);
  if (key == 0u) {
    for (var i = 0u; i < 4u; i++) { // unrolled
      states[subgroup * tileHeads + 4u * quad + i] = vec2f(reference[i], sums[i]);
    }
  }
  for (var part = 0u; part < parts; part++) { // unrolled
    for (var d = 0u; d < partMatrices; d++) { // unrolled
      storeSums(subgroup, d * blockKeys * sumsStride, outputs[part * partMatrices + d]);
    }
    workgroupBarrier();
    for (var i = local; i < 2u * partUnits * tileHeads; i += invocations) {
      let head = i % tileHeads;
      let four = i / tileHeads; // of the part's values
      if (head < heads) {
        let highest = highestReference(head);
        let start = startMaximum(firstHead + head, true, segment);
        var total = select(exp2(start * logE - highest), 0.0, start == noScore);
        var joined = vec4f(0.0);
        for (var s = 0u; s < subgroupCount; s++) { // unrolled
          let state = states[s * tileHeads + head];
          let factor = rescale2(state.x, highest);
          total += factor * state.y;
          for (var j = 0u; j < 4u; j++) { // unrolled
            joined[j] += factor * bitcast<f32>(staged[s][(4u * four + j) * sumsStride + head / 4u][head % 4u]);
          }
        }
        joined *= codeFactor;
        if (kvDtype >= kvInt8 && !tokenScales) {
          joined *= args.valueScale;
        }
        let column = 2u * unitAt(part * partUnits + four / 2u) + four % 2u;
        let maximum = select(highest / logE, noScore, highest == noScore);
        storeColumns(span, segment, token, firstHead + head, column, inOrder(joined), maximum, total);
      }
    }
    workgroupBarrier();
  }
}
