// Where the result of a row goes: into the output, or, where its keys are split, into a partial state (o / l, m, l) that the merge reads.
// On request the row's log-sum-exp goes behind the partial states.

@group(0) @binding(6) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;

// Values [4 * column, 4 * column + 4) of a row, still to be divided by the row's sum.
fn storeColumns(span: Span, segment: u32, token: u32, head: u32, column: u32, accumulated: vec4f, maximum: f32, sum: f32) {
  let values = accumulated * select(1.0 / sum, 0.0, sum == 0.0);
  if (segment == NO_PARTIAL) {
    output[(token * numHeads + head) * (headDim / 4u) + column] = values;
    if (column == 0u && args.logSumExp != 0u) {
      partials[args.logSumExp + token * numHeads + head] = logSumExp(maximum, sum);
    }
    return;
  }
  let at = ((span.firstPartial + segment) * numHeads + head) * PARTIAL_WORDS;
  for (var j = 0u; j < 4u; j++) { // unrolled
    partials[at + column * 4u + j] = values[j];
  }
  if (column == 0u) {
    partials[at + headDim] = maximum;
    partials[at + headDim + 1u] = sum;
  }
}
