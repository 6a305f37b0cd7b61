// Reads weights bound as `weights: array<vec4<u32>>`, in 32 or 16 bits.

override weightDtype: u32;

const weightF32 = 0u;
const weightF16 = 1u;
const weightBF16 = 2u;

// Eight values as they are stored: one load where they have 16 bits, two where they have 32.
struct Packed8 {
  first: vec4<u32>,
  second: vec4<u32>,
}

// Values [8 * index, 8 * index + 8) of the matrix, still packed.
fn loadPacked8(index: u32) -> Packed8 {
  if (weightDtype == weightF32) {
    return Packed8(weights[2u * index], weights[2u * index + 1u]);
  }
  return Packed8(weights[index], vec4<u32>(0u));
}

fn unpackWeights8(packed: Packed8) -> Eight {
  if (weightDtype == weightF16) {
    return unpackHalf8(packed.first);
  }
  if (weightDtype == weightBF16) {
    return unpackBrain8(packed.first);
  }
  return Eight(bitcast<vec4f>(packed.first), bitcast<vec4f>(packed.second));
}

fn loadWeights8(index: u32) -> Eight {
  return unpackWeights8(loadPacked8(index));
}
