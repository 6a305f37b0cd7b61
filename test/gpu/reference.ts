/**
 * The float64 reference of attention: three plain loops over gathered rows. It shares no code with `src`, on purpose.
 */

/** One query row over the keys of its sequence. */
export interface ReferenceRow {
  readonly numKvHeads: number;
  readonly kvHead: number;
  readonly headDim: number;
  readonly scale: number;
  /** [headDim] */
  readonly query: ArrayLike<number>;
  /** Of all tokens, [seqLen][numKvHeads][headDim]. */
  readonly key: ArrayLike<number>;
  readonly value: ArrayLike<number>;
  /** Whether the row sees a key, by its place; default: all. A key that it does not see is not read. */
  readonly sees?: (key: number) => boolean;
  /** What becomes of a scaled score; undefined masks. Default: as it is. */
  readonly change?: (score: number, key: number) => number | undefined;
  /** A logit that takes part in the softmax and has no value. */
  readonly sink?: number;
}

/** Scores, softmax, weighted sum of the values. The log-sum-exp of a row that sees no key is -infinity. */
export function referenceRow(row: ReferenceRow): { readonly output: Float64Array; readonly logSumExp: number } {
  const { numKvHeads, kvHead, headDim, scale, query, key, value, sees = () => true, change = (score) => score, sink } = row;
  const keys: number[] = [];
  const scores: number[] = [];
  for (let k = 0; k < key.length / (numKvHeads * headDim); k++) {
    if (!sees(k)) continue;
    const at = (k * numKvHeads + kvHead) * headDim;
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += query[d] * key[at + d];
    const score = change(dot * scale, k);
    if (score === undefined) continue;
    keys.push(k);
    scores.push(score);
  }
  const maximum = scores.reduce((a, b) => Math.max(a, b), sink ?? Number.NEGATIVE_INFINITY);
  const weights = scores.map((score) => Math.exp(score - maximum));
  const sum = weights.reduce((a, b) => a + b, sink === undefined ? 0 : Math.exp(sink - maximum));
  const output = new Float64Array(headDim);
  for (let i = 0; i < keys.length; i++) {
    const at = (keys[i] * numKvHeads + kvHead) * headDim;
    for (let d = 0; d < headDim; d++) output[d] += (weights[i] / sum) * value[at + d];
  }
  return { output, logSumExp: sum === 0 ? Number.NEGATIVE_INFINITY : maximum + Math.log(sum) };
}

export interface ReferenceInput {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly scale: number;
  /** Of the new tokens, [queryLen][numHeads][headDim]. */
  readonly query: Float32Array;
  /** Of all tokens, [seqLen][numKvHeads][headDim]. */
  readonly key: Float32Array;
  readonly value: Float32Array;
}

/** Causal attention of one sequence's new tokens; returns [queryLen][numHeads][headDim]. */
export function referenceAttention({ numHeads, query, ...rest }: ReferenceInput): Float64Array {
  const { numKvHeads, headDim, key } = rest;
  const queryLen = query.length / (numHeads * headDim);
  const contextLen = key.length / (numKvHeads * headDim) - queryLen;
  const output = new Float64Array(query.length);
  for (let row = 0; row < queryLen * numHeads; row++) {
    const token = Math.floor(row / numHeads);
    const kvHead = Math.floor(((row % numHeads) * numKvHeads) / numHeads);
    const at = row * headDim;
    const sees = (k: number) => k <= contextLen + token;
    output.set(referenceRow({ ...rest, kvHead, query: query.subarray(at, at + headDim), sees }).output, at);
  }
  return output;
}

/** Turns the first 2 * half dimensions of rows [tokens][heads][headDim] to their positions (half-split rotary), in float64. */
export function referenceRotary(
  rows: Float32Array,
  positions: readonly number[],
  heads: number,
  headDim: number,
  theta: number,
  half = headDim / 2,
): Float32Array {
  const turned = Float32Array.from(rows);
  for (let t = 0; t < positions.length; t++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const angle = positions[t] * theta ** (-i / half);
        const at = (t * heads + h) * headDim + i;
        const a = rows[at];
        const b = rows[at + half];
        turned[at] = a * Math.cos(angle) - b * Math.sin(angle);
        turned[at + half] = b * Math.cos(angle) + a * Math.sin(angle);
      }
    }
  }
  return turned;
}

/** The nearest value that 16-bit floats hold (ties to even). */
export function roundToHalf(value: number): number {
  if (value === 0 || !Number.isFinite(value)) return value;
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(value))), -14);
  const unit = 2 ** (exponent - 10);
  const scaled = value / unit;
  const down = Math.floor(scaled);
  const rest = scaled - down;
  const rounded = rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
  return rounded * unit;
}
