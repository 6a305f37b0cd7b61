// What a query token sees and what becomes of its scores. The order is fixed: softcap, scoreMod, masks, then the biases.
// A feature that is off costs a comparison. The first three may change from launch to launch:
//   softcap       cap * tanh(score / cap) (Gemma 2); 0: none
//   window        keys further back (or, where later keys are seen, further ahead) than this are masked (Beltagy et al. 2020); 0: none
//   keepFirst     with a window: the first so many keys stay visible (Xiao et al. 2023)
//   alibi         1: slope * (key - query) (Press et al. 2022), 2: -slope * sqrt(query - key); 0: none
//   sinks         1: every head has a logit that takes part in the softmax and has no value (gpt-oss)

// What the plan says of a query token.
struct Span {
  index: u32, // of the token in its sequence
  rangeBegin: u32, // keys from here to keyEnd are seen whatever the window; the token itself, or the start of its bidirectional range
  keyEnd: u32, // keys from here on are not seen
  firstPartial: u32, // partial state of segment 0, where the row is split
  bias: u32, // where in the plan the token's row of query-query biases is; 0: none
  biasBegin: u32, // the key of its first value
}

fn loadSpan(token: u32) -> Span {
  let at = plan[SPANS] + token * SPAN_WORDS;
  return Span(plan[at], plan[at + 1u], plan[at + 2u], plan[at + 3u], plan[at + 4u], plan[at + 5u]);
}

// The first key that the window lets in, the kept ones apart.
fn windowBegin(span: Span) -> u32 {
  return select(min(span.rangeBegin, max(span.index + 1u, args.window) - args.window), 0u, args.window == 0u);
}

// A key that is not visible by its place may have no block any more, and is not read.
fn isVisible(span: Span, key: u32) -> bool {
  // Without short circuits: these are branches, for which loads behind them wait.
  let inWindow = (key + args.window > span.index) & (key < span.index + args.window);
  return (key < span.keyEnd) & ((args.window == 0u) | inWindow | (key >= span.rangeBegin) | (key < args.keepFirst));
}

// The start of the first tile from `tile` on that holds a visible key: jumps over what lies between the kept keys and the window.
fn nextTile(tile: u32, keysPerTile: u32, firstInWindow: u32) -> u32 {
  if (tile < args.keepFirst || tile + keysPerTile > firstInWindow) {
    return tile;
  }
  return tile + (firstInWindow - tile) / keysPerTile * keysPerTile;
}

// Scores need nothing but a mask.
fn hasPlainScores() -> bool {
  return args.softcap == 0.0 && args.alibi == 0u && !hasScoreMod && !hasMaskMod;
}

fn finalScore(score: f32, span: Span, token: u32, head: u32, key: u32) -> f32 {
  var s = score;
  if (args.softcap > 0.0) {
    // tanh by exp, which WGSL promises to be accurate; far enough out it is 1, and exp would overflow.
    let x = clamp(s / args.softcap, -20.0, 20.0);
    s = args.softcap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0));
  }
  if (hasScoreMod) {
    s = scoreMod(s, head, span.index, key, token);
  }
  if (hasMaskMod) {
    if (!maskMod(head, span.index, key, token)) {
      return noScore;
    }
  }
  if (args.alibi != 0u) {
    let ahead = f32(key) - f32(span.index);
    s += layerData[head] * select(ahead, -sqrt(max(-ahead, 0.0)), args.alibi == 2u);
  }
  if (span.bias != 0u && key >= span.biasBegin) {
    let bias = bitcast<f32>(plan[span.bias + key - span.biasBegin]);
    if (bias <= maskedBias) {
      return noScore;
    }
    s += bias;
  }
  return s;
}

// A row's maximum before its first key: the sink's logit, which goes into the first segment of a split row.
fn startMaximum(head: u32, exists: bool, segment: u32) -> f32 {
  if (args.sinks == 0u || !exists || (segment != 0u && segment != NO_PARTIAL)) {
    return noScore;
  }
  return layerData[numHeads + head];
}
