// Attention of single query tokens: a workgroup takes one work item (a token and a range of its keys), one KV head and up to headTile
// of the query heads that share it, so that every key and value row is read once for all of them.
//
// Keys go by in tiles of as many as there are invocations. In the first phase an invocation owns one key of the tile: it reads the key's row in 16-byte loads and
// scores it for every head. In the second phase an invocation owns eight output values of one head and walks the tile's values; where
// there are fewer outputs than invocations, several "lanes" share an output and split the keys. Two barriers per tile.
//
// Reads headDim * 2 values per key and head; writes the output row, or a partial state (o / l, m, l) where the keys are split.

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
@group(0) @binding(6) var<storage, read_write> partials: array<f32>;

const invocations = keyTile;
const chunks = headDim / 8u;
const outputs = headTile * chunks; // groups of eight output values
const lanes = max(1u, invocations / outputs);
const outputsPerInvocation = (outputs + invocations - 1u) / invocations;

var<workgroup> queries: array<Eight, outputs>;
// Two of each, used in turn, so that a tile's writes need not wait for the last tile's reads.
var<workgroup> weights: array<f32, 2u * headTile * keyTile>;
var<workgroup> rows: array<u32, 2u * keyTile>;
var<workgroup> maxima: array<atomic<u32>, headTile>;
// Only where several lanes share an output.
const laneSlots = min(lanes - 1u, 1u) * lanes * outputs + 1u;
var<workgroup> laneSums: array<f32, laneSlots>;
var<workgroup> laneOutputs: array<Eight, laneSlots>;

fn loadQuery(token: u32, head: u32, chunk: u32, position: u32) -> Eight {
  let at = token * args.queryStride + args.queryOffset + head * headDim;
  var values: array<f32, 8>;
  for (var i = 0u; i < 8u; i++) {
    let d = chunk * 8u + i;
    values[i] = args.scale * rotate(query[at + d], query[at + rotaryPartner(d, args.rotaryHalf)], d, position, args.rotaryHalf);
  }
  return Eight(vec4f(values[0], values[1], values[2], values[3]), vec4f(values[4], values[5], values[6], values[7]));
}

@compute @workgroup_size(keyTile)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let item = plan[DECODE_ITEMS] + workgroup.x * ITEM_WORDS;
  let token = plan[item + ITEM_TOKEN];
  let position = plan[item + ITEM_POSITION];
  let tableStart = plan[item + ITEM_TABLE_ROW] * args.tableStride;
  let keyBegin = plan[item + ITEM_KEY_BEGIN];
  let keyEnd = plan[item + ITEM_KEY_END];
  let partial = plan[item + ITEM_PARTIAL];
  let kvHead = workgroup.y;
  let firstHead = kvHead * groupSize + workgroup.z * headTile;
  let heads = min(headTile, groupSize - workgroup.z * headTile); // the last tile of a group may have spare rows

  for (var i = local; i < outputs; i += invocations) {
    if (i / chunks < heads) {
      queries[i] = loadQuery(token, firstHead + i / chunks, i % chunks, position);
    }
  }
  if (local < headTile) {
    atomicStore(&maxima[local], orderedBits(noScore));
  }
  workgroupBarrier();

  let lane = local / outputs;
  var accumulated: array<Eight, outputsPerInvocation>;
  var maximum: array<f32, outputsPerInvocation>;
  var sum: array<f32, outputsPerInvocation>;
  for (var i = 0u; i < outputsPerInvocation; i++) {
    accumulated[i] = Eight(vec4f(0.0), vec4f(0.0));
    maximum[i] = noScore;
    sum[i] = 0.0;
  }

  var buffer = 0u;
  for (var tile = keyBegin; tile < keyEnd; tile += keyTile) {
    let count = min(keyTile, keyEnd - tile);
    var scores: array<f32, headTile>;
    for (var g = 0u; g < headTile; g++) {
      scores[g] = noScore;
    }
    if (local < count) {
      let row = keyRow(slotOf(tableStart, tile + local), kvHead);
      rows[buffer * keyTile + local] = row + valueRowOffset();
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
          let p = weights[(buffer * headTile + g) * keyTile + k];
          let values = loadRow8(rows[buffer * keyTile + k], chunk);
          accumulated[i].low += p * values.low;
          accumulated[i].high += p * values.high;
          sum[i] += p;
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
    let chunk = output8 % chunks;
    let inverse = select(1.0 / sum[i], 0.0, sum[i] == 0.0);
    let low = accumulated[i].low * inverse;
    let high = accumulated[i].high * inverse;
    let head = firstHead + g;
    if (partial == NO_PARTIAL) {
      let at = (token * numHeads + head) * (headDim / 4u) + 2u * chunk;
      output[at] = low;
      output[at + 1u] = high;
    } else {
      let at = (partial * numHeads + head) * PARTIAL_WORDS;
      for (var j = 0u; j < 4u; j++) {
        partials[at + chunk * 8u + j] = low[j];
        partials[at + chunk * 8u + 4u + j] = high[j];
      }
      if (chunk == 0u) {
        partials[at + headDim] = maximum[i];
        partials[at + headDim + 1u] = sum[i];
      }
    }
  }
}
