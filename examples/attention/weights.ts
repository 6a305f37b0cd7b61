/** For the examples: attention whose values are unit vectors, so that a row of the output is the row's weights. */
import { type AttentionOptions, attention, type Gpu } from 'pagewise';

/** Most keys, which is the head dimension. */
export const size = 16;

/** Row i is the unit vector i. */
export const unitRows = (count: number) => Float32Array.from({ length: count * size }, (_, i) => (i % (size + 1) === 0 ? 1 : 0));

type Options = Omit<AttentionOptions, 'query' | 'key' | 'value' | 'numHeads' | 'headDim' | 'returns'>;

/** The weights of each query for each key, by one head. The score of key k is `scores[k]`, the same for every query. */
export async function weightsOf(gpu: Gpu, scores: readonly number[], options: Options): Promise<number[][]> {
  const keys = scores.length;
  const query = new Float32Array(keys * size);
  const key = new Float32Array(keys * size);
  for (let k = 0; k < keys; k++) {
    query[k * size] = 1;
    key[k * size] = scores[k];
  }
  const { output } = await attention(gpu, { ...{ query, key, value: unitRows(keys), numHeads: 1, headDim: size, scale: 1 }, ...options });
  return Array.from({ length: keys }, (_, q) => [...output.subarray(q * size, q * size + keys)]);
}

/** The keys with a weight. */
export const seen = (weights: ArrayLike<number>) => Array.from(weights).flatMap((weight, key) => (weight > 0 ? [key] : []));

export const show = (weights: readonly number[]) => weights.map((weight) => weight.toFixed(2)).join(' ');
