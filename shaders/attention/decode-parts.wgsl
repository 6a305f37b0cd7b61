// What the decode kernels by multiply-adds share: decode.wgsl and decode-teams.wgsl, which hand over what their crews added up for one head by
// `partOf(crew, column) -> vec4f`. How they multiply is in keys-f32.wgsl, keys-f16.wgsl or keys-i8.wgsl,
// and in values-f32.wgsl or values-f16.wgsl.

const columns = headDim / 4u;
const units = headDim / unit; // loads of a row
// A team of keyThreads invocations reads a key together. A crew of valueThreads, one team or several, reads values together, one after
// another: those of all keys of its teams.
const teams = invocations / keyThreads;
const crews = invocations / valueThreads;
const teamsOfCrew = valueThreads / keyThreads;
const keysOfCrew = keysPerThread * teamsOfCrew;
const keyUnits = units / keyThreads; // of a row, by an invocation
const valueUnits = units / valueThreads;
const ownVectors = valueUnits * unitVectors;
const rawLoads = keysPerThread * keyUnits; // of keys, and of values as many

// The score, from the product of a head's query with a key's codes.
fn scaledScore(product: f32, g: u32, keyScale: f32) -> f32 {
  var score = wholeProduct(product, g);
  if (tokenScales) {
    score *= keyFactor * keyScale;
  } else if (kvDtype >= kvInt8) {
    score *= keyFactor * args.keyScale;
  }
  return score;
}

// What the crews have handed over, as values. `weights` is the sum of weights with the values' scales.
fn joinedOutputs(column: u32, weights: f32) -> vec4f {
  var result = vec4f(0.0);
  if (codeOffset != 0.0) {
    result += codeOffset * weights;
  }
  for (var c = 0u; c < crews; c++) { // unrolled
    result += partOf(c, column);
  }
  result *= valueFactor;
  if (kvDtype >= kvInt8 && !tokenScales) {
    result *= args.valueScale;
  }
  return result;
}
