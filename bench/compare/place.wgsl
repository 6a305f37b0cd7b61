// Puts keys or values [sequence][token][head][value] in f32 into a contiguous cache [sequence][head][token][value] of Cells, four values each.
// In front of it: type Cell and packCell of the storage format, and numKvHeads, headDim.

struct Arguments {
  // Tokens of each sequence in the source.
  sourceTokens: u32,
  // The first so many of them are copied, the rest is written as poison.
  copied: u32,
  // Place in the cache of the source's first token.
  first: u32,
  // Tokens that the cache has room for in each sequence.
  capacity: u32,
  cells: u32,
}

@group(0) @binding(0) var<uniform> args: Arguments;
@group(0) @binding(1) var<storage, read> source: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> cache: array<Cell>;

const cellsPerRow = headDim / 4u;
const poison = vec4f(1000.0);

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  for (var at = id.x; at < args.cells; at += grid.x * 64u) {
    let inRow = at % cellsPerRow;
    let head = at / cellsPerRow % numKvHeads;
    let token = at / cellsPerRow / numKvHeads % args.sourceTokens;
    let sequence = at / cellsPerRow / numKvHeads / args.sourceTokens;
    let row = (sequence * numKvHeads + head) * args.capacity + args.first + token;
    cache[row * cellsPerRow + inRow] = packCell(select(poison, source[at], token < args.copied));
  }
}
