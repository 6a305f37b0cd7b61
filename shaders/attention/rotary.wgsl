// Rotary position embedding (Su et al. 2021) in the half-split form: dimension d < rotaryHalf turns with d + rotaryHalf, and dimensions
// from 2 * rotaryHalf on stay as they are. Angles come from a table made on the host in float64, bound as
// `rotary: array<vec2f>` [position][rotaryHalf] = (cos, sin). Whoever reads rows by this says where they are, by `unturned(at: u32) -> f32`. Four
// dimensions at a time, and without a branch, so that all loads are on their way at once.

// Dimensions [first, first + 4) of the row that begins at `row`, not yet turned.
fn loadUnturned(row: u32, first: u32) -> vec4f {
  let at = row + first;
  return vec4f(unturned(at), unturned(at + 1u), unturned(at + 2u), unturned(at + 3u));
}

// Turns them to their position; where rotaryHalf is not 0.
fn rotate(values: vec4f, row: u32, first: u32, position: u32) -> vec4f {
  let d = first + vec4<u32>(0u, 1u, 2u, 3u);
  let isLower = d < vec4<u32>(args.rotaryHalf);
  let turns = d < vec4<u32>(2u * args.rotaryHalf);
  let across = row + select(d, select(d - args.rotaryHalf, d + args.rotaryHalf, isLower), turns);
  let partners = vec4f(unturned(across.x), unturned(across.y), unturned(across.z), unturned(across.w));
  let at = position * args.rotaryHalf + select(vec4<u32>(0u), select(d - args.rotaryHalf, d, isLower), turns);
  let x = rotary[at.x];
  let y = rotary[at.y];
  let z = rotary[at.z];
  let w = rotary[at.w];
  let turned = values * vec4f(x.x, y.x, z.x, w.x) + select(partners, -partners, isLower) * vec4f(x.y, y.y, z.y, w.y);
  return select(values, turned, turns);
}

fn loadTurned(row: u32, first: u32, position: u32) -> vec4f {
  let values = loadUnturned(row, first);
  if (args.rotaryHalf == 0u) {
    return values;
  }
  return rotate(values, row, first, position);
}
