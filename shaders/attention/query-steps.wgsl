// Queries as keys-f16.wgsl and keys-i8.wgsl multiply them: rounded in steps of their own, the largest of which is `mostQuery`.

const ownQueries = (headTile * columns + invocations - 1u) / invocations;
var<private> unrounded: array<vec4f, ownQueries>;
var<workgroup> queries: array<Query, headTile * columns>;
var<workgroup> largest: array<atomic<u32>, headTile>; // the bits of a query's largest magnitude
var<workgroup> querySteps: array<f32, headTile>;

fn loadQueries(token: u32, firstHead: u32, heads: u32, position: u32, local: u32) {
  for (var n = 0u; n < ownQueries; n++) { // unrolled
    let i = local + n * invocations;
    let head = i / columns;
    unrounded[n] = vec4f(0.0);
    if (head < heads) {
      unrounded[n] = args.scale * loadQuery(token, firstHead + head, i % columns, position);
      let magnitudes = abs(unrounded[n]);
      atomicMax(&largest[head], bitcast<u32>(max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w))));
    }
  }
}

fn finishQueries(local: u32) {
  workgroupBarrier();
  for (var n = 0u; n < ownQueries; n++) { // unrolled
    let i = local + n * invocations;
    if (i < headTile * columns) {
      let step = queryStep(i / columns);
      queries[i] = roundQuery(unrounded[n] / step);
    }
  }
  for (var g = local; g < headTile; g += invocations) {
    querySteps[g] = queryStep(g);
  }
}

fn queryStep(head: u32) -> f32 {
  return max(bitcast<f32>(atomicLoad(&largest[head])), 1e-30) / mostQuery;
}

fn wholeProduct(product: f32, g: u32) -> f32 {
  return product * querySteps[g];
}
