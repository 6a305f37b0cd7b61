/**
 * The float64 reference of attention: three plain loops over gathered rows. It shares no code with `src`, on purpose.
 */

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
export function referenceAttention({ numHeads, numKvHeads, headDim, scale, query, key, value }: ReferenceInput): Float64Array {
  const queryLen = query.length / (numHeads * headDim);
  const seqLen = key.length / (numKvHeads * headDim);
  const output = new Float64Array(query.length);
  for (let t = 0; t < queryLen; t++) {
    for (let h = 0; h < numHeads; h++) {
      const kvHead = Math.floor((h * numKvHeads) / numHeads);
      const q = (t * numHeads + h) * headDim;
      const scores: number[] = [];
      for (let k = 0; k <= seqLen - queryLen + t; k++) {
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += query[q + d] * key[(k * numKvHeads + kvHead) * headDim + d];
        scores.push(dot * scale);
      }
      const maximum = Math.max(...scores);
      const weights = scores.map((s) => Math.exp(s - maximum));
      const sum = weights.reduce((a, b) => a + b, 0);
      for (let k = 0; k < weights.length; k++) {
        for (let d = 0; d < headDim; d++) output[q + d] += (weights[k] / sum) * value[(k * numKvHeads + kvHead) * headDim + d];
      }
    }
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
