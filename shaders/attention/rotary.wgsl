// Rotary position embedding (Su et al. 2021) in the half-split form: dimension d < rotaryHalf turns with d + rotaryHalf, and dimensions
// from 2 * rotaryHalf on stay as they are. Angles come from a table made on the host in float64, bound as
// `rotary: array<vec2f>` [position][rotaryHalf] = (cos, sin); rotaryHalf = 0 turns nothing.

fn rotaryPartner(d: u32, rotaryHalf: u32) -> u32 {
  if (d >= 2u * rotaryHalf) {
    return d;
  }
  return select(d - rotaryHalf, d + rotaryHalf, d < rotaryHalf);
}

fn rotate(value: f32, partner: f32, d: u32, position: u32, rotaryHalf: u32) -> f32 {
  if (d >= 2u * rotaryHalf) {
    return value;
  }
  let turn = rotary[position * rotaryHalf + d % rotaryHalf];
  return value * turn.x + select(partner, -partner, d < rotaryHalf) * turn.y;
}
