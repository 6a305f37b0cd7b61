// Writes the keys and values of the step's new tokens into their slots; on the way keys are turned to their positions and both are
// quantised. An invocation owns eight neighbouring values of one row: 8, 4 or 2 words of the pool, once for the key and once for the value.
// A workgroup has whole rows, so that where each row has a scale its largest magnitude is found in workgroup memory. Tokens with slot -1 are
// padding.

@group(0) @binding(0) var<storage, read> key: array<f32>;
@group(0) @binding(1) var<storage, read> value: array<f32>;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> rotary: array<vec2f>;

const chunks = headDim / 8u;
const rowsPerGroup = max(1u, 64u / chunks);
const invocations = rowsPerGroup * chunks;

// The bits of the largest magnitudes of keys and values: floats that are not negative are in the order of their bits.
var<workgroup> largestKeys: array<atomic<u32>, rowsPerGroup>;
var<workgroup> largestValues: array<atomic<u32>, rowsPerGroup>;

fn largestOf(values: Eight) -> u32 {
  let all = max(abs(values.low), abs(values.high));
  return bitcast<u32>(max(max(all.x, all.y), max(all.z, all.w)));
}

// Not 0 and not subnormal, so that the inverse is finite.
fn scaleOf(bits: u32) -> f32 {
  return max(bitcast<f32>(bits) / largestCode, 1e-30);
}

// For rotary.wgsl.
fn unturned(at: u32) -> f32 {
  return key[at];
}

fn pack4(values: vec4f) -> u32 {
  if (kvDtype == kvInt8) {
    return pack4xI8(vec4i(round(clamp(values, vec4f(-127.0), vec4f(127.0)))));
  }
  let mantissaBits = select(2u, 3u, kvDtype == kvE4m3);
  let bias = select(15u, 7u, kvDtype == kvE4m3);
  let codes = packFloat8(values.x, mantissaBits, bias, largestCode) | (packFloat8(values.y, mantissaBits, bias, largestCode) << 8u)
    | (packFloat8(values.z, mantissaBits, bias, largestCode) << 16u) | (packFloat8(values.w, mantissaBits, bias, largestCode) << 24u);
  if (kvDtype == kvE4m3) {
    return e4m3Word(codes);
  }
  return codes;
}

fn storeRow8(buffer: u32, row: u32, chunk: u32, values: Eight) {
  let at = row + chunk * (8u * valueBytes / 4u);
  if (kvDtype == kvF32) {
    for (var i = 0u; i < 4u; i++) { // unrolled
      poolStore(buffer, at + i, bitcast<u32>(values.low[i]));
      poolStore(buffer, at + 4u + i, bitcast<u32>(values.high[i]));
    }
  } else if (kvDtype == kvF16) {
    poolStore(buffer, at, pack2x16float(values.low.xy));
    poolStore(buffer, at + 1u, pack2x16float(values.low.zw));
    poolStore(buffer, at + 2u, pack2x16float(values.high.xy));
    poolStore(buffer, at + 3u, pack2x16float(values.high.zw));
  } else {
    poolStore(buffer, at, pack4(values.low));
    poolStore(buffer, at + 1u, pack4(values.high));
  }
}

fn scaled(values: Eight, inverse: f32) -> Eight {
  return Eight(values.low * inverse, values.high * inverse);
}

@compute @workgroup_size(invocations)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let rowInGroup = local / chunks;
  let chunk = local % chunks;
  let index = (workgroup.y * grid.x + workgroup.x) * rowsPerGroup + rowInGroup;
  let token = index / numKvHeads;
  let head = index % numKvHeads;
  var slot = -1;
  if (token < plan[NUM_TOKENS]) {
    slot = bitcast<i32>(plan[plan[SLOT_MAPPING] + token]);
  }

  var keys: Eight;
  var values: Eight;
  if (slot >= 0) {
    let position = plan[plan[POSITIONS] + token];
    let keyAt = token * args.rowStride + args.keyOffset + head * headDim;
    let valueAt = token * args.rowStride + args.valueOffset + head * headDim;
    keys.low = loadTurned(keyAt, chunk * 8u, position);
    keys.high = loadTurned(keyAt, chunk * 8u + 4u, position);
    for (var i = 0u; i < 4u; i++) { // unrolled
      let d = chunk * 8u + i;
      values.low[i] = value[valueAt + d];
      values.high[i] = value[valueAt + d + 4u];
    }
  }
  var keyScale = args.keyScale;
  var valueScale = args.valueScale;
  if (tokenScales) {
    atomicMax(&largestKeys[rowInGroup], largestOf(keys));
    atomicMax(&largestValues[rowInGroup], largestOf(values));
    workgroupBarrier();
    keyScale = scaleOf(atomicLoad(&largestKeys[rowInGroup]));
    valueScale = scaleOf(atomicLoad(&largestValues[rowInGroup]));
  }
  if (slot < 0) {
    return;
  }

  let buffer = bufferOf(u32(slot));
  if (kvDtype >= kvInt8) {
    keys = scaled(keys, 1.0 / keyScale);
    values = scaled(values, 1.0 / valueScale);
  }
  if (tokenScales && chunk == 0u) {
    let scales = scaleWord(u32(slot), head);
    poolStore(buffer, scales, bitcast<u32>(keyScale));
    poolStore(buffer, scales + 1u, bitcast<u32>(valueScale));
  }
  let row = (keyAddress(u32(slot), head) & addressMask) * loadWords;
  storeRow8(buffer, row, chunk, keys);
  storeRow8(buffer, row + valueOffset() * loadWords, chunk, values);
}
