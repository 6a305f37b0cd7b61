/** Runs attention over a poisoned, permuted paged cache, for the specs. */
import { KvCache, type KvDtype, LaunchCache, PagedAttention, type PagedAttentionOptions } from '../../src/index.ts';
import { emptyBuffer, type Random, readFloats, type SpecContext, uploadBuffer } from '../harness/harness.ts';
import { referenceAttention, roundToHalf } from './reference.ts';

export interface PagedCase {
  /** (queryLen, seqLen) of each sequence. */
  readonly lengths: readonly (readonly [number, number])[];
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly blockSize: number;
  readonly dtype: KvDtype;
  readonly options?: Partial<PagedAttentionOptions>;
}

/** What unwritten outputs hold. */
export const poison = 12345;

export interface PagedRun {
  readonly actual: Float32Array;
  readonly expected: Float64Array;
}

/** Fills the free list in random order, so that block tables are permutations. */
export function shuffleBlocks(kv: KvCache, random: Random): void {
  const blocks = kv.blocks.allocate(kv.blocks.free);
  for (const index of random.permutation(blocks.length)) kv.blocks.release([blocks[index]]);
}

/** A cache whose every slot holds NaN bits until something is appended. */
export function openPoisonedCache(t: SpecContext, testCase: PagedCase, numBlocks: number, maxBlocksPerSequence: number): KvCache {
  const { numKvHeads, headDim, blockSize, dtype, lengths } = testCase;
  const kv = new KvCache(t.gpu, {
    numLayers: 1,
    numBlocks,
    maxSequences: lengths.length,
    maxBlocksPerSequence,
    blockSize,
    numKvHeads,
    headDim,
    dtype,
  });
  t.defer(() => kv.destroy());
  for (const pool of kv.pools) t.gpu.device.queue.writeBuffer(pool, 0, new Uint8Array(pool.size).fill(0xff));
  return kv;
}

/** Appends the context in a step of its own, then runs the batch; `expected` is the reference's output. */
export async function runPaged(t: SpecContext, testCase: PagedCase, random: Random): Promise<PagedRun> {
  const { lengths, numHeads, numKvHeads, headDim, blockSize, dtype } = testCase;
  const blocksOf = (seqLen: number) => Math.ceil(seqLen / blockSize);
  const numBlocks = lengths.reduce((sum, [, seqLen]) => sum + blocksOf(seqLen), 3);
  const kv = openPoisonedCache(t, testCase, numBlocks, Math.max(...lengths.map(([, seqLen]) => blocksOf(seqLen))));
  shuffleBlocks(kv, random);
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const contextTokens = lengths.reduce((sum, [queryLen, seqLen]) => sum + seqLen - queryLen, 0);
  const queryTokens = lengths.reduce((sum, [queryLen]) => sum + queryLen, 0);
  const maxTokensPerStep = Math.max(contextTokens, queryTokens, 1);
  const attention = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep, ...testCase.options });
  t.defer(() => attention.destroy());

  const stored = (values: Float32Array<ArrayBuffer>) => (dtype === 'f16' ? values.map(roundToHalf) : values);
  const rowsOf = (heads: number, tokens: number) => random.normals(tokens * heads * headDim);
  const data = lengths.map(([queryLen, seqLen]) => ({
    query: rowsOf(numHeads, queryLen),
    key: stored(rowsOf(numKvHeads, seqLen)),
    value: stored(rowsOf(numKvHeads, seqLen)),
  }));
  const query = emptyBuffer(t, maxTokensPerStep * numHeads * headDim * 4);
  const key = emptyBuffer(t, maxTokensPerStep * numKvHeads * headDim * 4);
  const value = emptyBuffer(t, maxTokensPerStep * numKvHeads * headDim * 4);
  const output = uploadBuffer(t, new Float32Array(maxTokensPerStep * numHeads * headDim).fill(poison));
  const [layer] = await Promise.all([attention.prepareLayer(0, { query, key, value, output }), attention.prepare()]);

  const sequences = lengths.map(() => kv.open());
  const runStep = (lens: readonly number[], skip: (index: number) => number, attend: boolean) => {
    const rows = numKvHeads * headDim;
    const slice = (values: Float32Array<ArrayBuffer>, i: number) => values.subarray(skip(i) * rows, (skip(i) + lens[i]) * rows);
    const join = (parts: Float32Array<ArrayBuffer>[]) => Float32Array.from(parts.flatMap((part) => [...part]));
    t.gpu.device.queue.writeBuffer(key, 0, join(data.map((d, i) => slice(d.key, i))));
    t.gpu.device.queue.writeBuffer(value, 0, join(data.map((d, i) => slice(d.value, i))));
    t.gpu.device.queue.writeBuffer(query, 0, join(data.map((d) => d.query)));
    for (let i = 0; i < lens.length; i++) kv.extend(sequences[i], lens[i]);
    attention.plan(sequences.map((sequence, i) => ({ sequence, queryLen: lens[i] })));
    attention.write();
    const encoder = t.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    attention.updateTables(pass);
    layer.append(pass);
    if (attend) layer.attend(pass);
    pass.end();
    cache.submit([encoder.finish()]);
  };
  // Deno 2.9 panics on a write of no bytes, so a batch without context has no first step.
  if (contextTokens > 0)
    runStep(
      lengths.map(([queryLen, seqLen]) => seqLen - queryLen),
      () => 0,
      false,
    );
  runStep(
    lengths.map(([queryLen]) => queryLen),
    (i) => lengths[i][1] - lengths[i][0],
    true,
  );

  const actual = await readFloats(t.gpu, output, 0, Math.max(4, queryTokens * numHeads * headDim * 4));
  const expected = data.flatMap(({ query, key, value }) => [
    ...referenceAttention({ numHeads, numKvHeads, headDim, scale: 1 / Math.sqrt(headDim), query, key, value }),
  ]);
  return { actual: actual.subarray(0, expected.length), expected: Float64Array.from(expected) };
}
