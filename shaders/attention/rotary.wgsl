// Rotary position embedding (Su et al. 2021) in the half-split form: dimension d < rotaryHalf turns with d + rotaryHalf, and dimensions
// from 2 * rotaryHalf on stay as they are. Angles come from a table made on the host in float64, bound as
// `rotary: array<vec2f>` [position][rotaryHalf] = (cos, sin). Nothing is to be turned where rotaryHalf is 0. Four dimensions at a time, and without
// a branch, so that all loads are on their way at once.

fn rotaryPartners(d: vec4<u32>, rotaryHalf: u32) -> vec4<u32> {
  let across = select(d - rotaryHalf, d + rotaryHalf, d < vec4<u32>(rotaryHalf));
  return select(d, across, d < vec4<u32>(2u * rotaryHalf));
}

fn rotate(values: vec4f, partners: vec4f, d: vec4<u32>, position: u32, rotaryHalf: u32) -> vec4f {
  let isFirst = d < vec4<u32>(rotaryHalf);
  let turns = d < vec4<u32>(2u * rotaryHalf);
  let at = position * rotaryHalf + select(vec4<u32>(0u), select(d - rotaryHalf, d, isFirst), turns);
  let x = rotary[at.x];
  let y = rotary[at.y];
  let z = rotary[at.z];
  let w = rotary[at.w];
  let turned = values * vec4f(x.x, y.x, z.x, w.x) + select(partners, -partners, isFirst) * vec4f(x.y, y.y, z.y, w.y);
  return select(values, turned, turns);
}
