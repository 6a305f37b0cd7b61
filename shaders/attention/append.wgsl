// Writes the keys and values of the step's new tokens into their slots, and turns the keys to their positions on the way.
// A workgroup covers 64 pairs of neighbouring values of the step's tokens; an invocation owns one pair: it reads two key values with
// their rotary partners and two value values, and writes one word each (f16) or two (f32). Tokens with slot -1 are padding.

struct Arguments {
  rowStride: u32, // f32 values from one token's keys (and values) to the next's
  keyOffset: u32,
  valueOffset: u32,
  rotaryHalf: u32,
}

@group(0) @binding(0) var<storage, read> key: array<f32>;
@group(0) @binding(1) var<storage, read> value: array<f32>;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> rotary: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> pool: array<u32>;

fn turnedKey(at: u32, d: u32, position: u32) -> f32 {
  return rotate(key[at + d], key[at + rotaryPartner(d, args.rotaryHalf)], d, position, args.rotaryHalf);
}

fn storePair(row: u32, d: u32, pair: vec2f) {
  if (kvDtype == kvF16) {
    pool[(row * headDim + d) / 2u] = pack2x16float(pair);
  } else {
    pool[row * headDim + d] = bitcast<u32>(pair.x);
    pool[row * headDim + d + 1u] = bitcast<u32>(pair.y);
  }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  const pairs = headDim / 2u;
  let index = id.y * grid.x * 64u + id.x;
  let token = index / (pairs * numKvHeads);
  if (token >= plan[NUM_TOKENS]) {
    return;
  }
  let slot = bitcast<i32>(plan[plan[SLOT_MAPPING] + token]);
  if (slot < 0) {
    return;
  }
  let head = index / pairs % numKvHeads;
  let d = index % pairs * 2u;
  let position = plan[plan[POSITIONS] + token];

  let row = keyRow(u32(slot), head);
  let keyAt = token * args.rowStride + args.keyOffset + head * headDim;
  storePair(row, d, vec2f(turnedKey(keyAt, d, position), turnedKey(keyAt, d + 1u, position)));

  let valueAt = token * args.rowStride + args.valueOffset + head * headDim + d;
  storePair(row + valueRowOffset(), d, vec2f(value[valueAt], value[valueAt + 1u]));
}
