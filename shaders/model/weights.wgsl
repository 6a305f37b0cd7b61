// Reads weights bound as `weights: array<vec4<u32>>`, in 32 or 16 bits.

override weightDtype: u32;

const weightF32 = 0u;
const weightF16 = 1u;
const weightBF16 = 2u;

// Values [8 * index, 8 * index + 8) of the matrix.
fn loadWeights8(index: u32) -> Eight {
  if (weightDtype == weightF16) {
    return unpackHalf8(weights[index]);
  }
  if (weightDtype == weightBF16) {
    return unpackBrain8(weights[index]);
  }
  return Eight(bitcast<vec4f>(weights[2u * index]), bitcast<vec4f>(weights[2u * index + 1u]));
}
