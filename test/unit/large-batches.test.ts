/** The decode kernel for large batches beside the one for all others, on a device that only counts. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { KvCache, LaunchCache, PagedAttention, type PagedAttentionOptions } from '../../src/index.ts';
import { WorkWatch } from '../gpu/work.ts';
import { fakePass, matrixGpu } from './fake-gpu.ts';

afterEach(() => vi.unstubAllGlobals());

const byMatrices = 'decode by matrices, keys as bytes';
const byMultiplyAdds = 'decode in f16, keys as bytes';

interface Setup {
  readonly numKvHeads?: number;
  readonly options?: Partial<PagedAttentionOptions>;
  /** A kernel that does not compile. */
  readonly refused?: string;
}

/** A layer over sequences of so many keys, int8 in rows of 128, four query heads for each KV head. */
async function open(lengths: readonly number[], { numKvHeads = 8, options, refused }: Setup = {}) {
  const { gpu, sizes, writes } = matrixGpu(refused);
  gpu.device.queue.submit = () => {};
  const watch = new WorkWatch(gpu);
  const blocks = lengths.map((length) => Math.ceil(length / 16));
  const kv = new KvCache(gpu, {
    ...{ numLayers: 1, numKvHeads, headDim: 128, blockSize: 16, dtype: 'int8', maxSequences: lengths.length },
    ...{ numBlocks: blocks.reduce((sum, count) => sum + count, 1), maxBlocksPerSequence: Math.max(...blocks) },
  });
  const cache = new LaunchCache(gpu);
  const numHeads = 4 * numKvHeads;
  const attention = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep: lengths.length, maxInvocations: 256, ...options });
  const rows = gpu.device.createBuffer({ size: lengths.length * numHeads * 128 * 4, usage: GPUBufferUsage.STORAGE });
  await attention.prepare();
  const layer = await attention.prepareLayer(0, { query: rows, key: rows, value: rows, output: rows });
  const sequences = lengths.map((length) => {
    const sequence = kv.open();
    kv.extend(sequence, length);
    return sequence;
  });
  /** Attends for the first `count` sequences. @returns the kernels of single tokens, each with its work items */
  const step = (count = lengths.length): readonly (readonly [string, number])[] => {
    attention.plan(sequences.slice(0, count).map((sequence) => ({ sequence, queryLen: 1 })));
    attention.write();
    layer.attend(watch.watch(fakePass()));
    cache.submit([]);
    const decodes = Object.entries(watch.take().kernels).filter(([name]) => name.startsWith('decode'));
    return decodes.flatMap(([name, { grids }]) => Object.keys(grids).map((grid) => [name, Number(grid.split(' ')[1])] as const));
  };
  return { attention, layer, step, sizes, writes, numHeads };
}

const rows = (count: number, length: number) => Array<number>(count).fill(length);

describe('a large batch', () => {
  it('has a kernel of its own, and parts of its own; smaller ones between have not', async () => {
    const { step } = await open(rows(9, 4096));
    expect([step(), step(8), step(), step(1)]).toEqual([
      [[byMatrices, 9 * 21]],
      [[byMultiplyAdds, 8 * 8]],
      [[byMatrices, 9 * 21]],
      [[byMultiplyAdds, 32]],
    ]);
  });

  it('is as any other where the caller says how to cut, or the kernel does not compile', async () => {
    const told = { targetWorkgroups: 512, minSegmentKeys: 128 };
    const setups: readonly Setup[] = [{ options: told }, { options: { deterministic: true } }, { refused: byMatrices }];
    const steps = await Promise.all(setups.map(async (setup) => (await open(rows(9, 4096), setup)).step()));
    expect(steps).toEqual([[[byMultiplyAdds, 9 * 7]], [[byMultiplyAdds, 9 * 4]], [[byMultiplyAdds, 9 * 7]]]);
  });

  it('has room for the states of all its parts, with one KV head too', async () => {
    const { step, attention, sizes, numHeads } = await open(rows(64, 8192), { numKvHeads: 1 });
    expect(step()).toEqual([[byMatrices, 64 * 32]]);
    expect(attention.writer.read('NUM_MERGE_ROWS')).toBe(64);
    expect(sizes.get('partial states')).toBeGreaterThanOrEqual(64 * 32 * numHeads * 132 * 4);
  });

  it('sees what changes in a layer', async () => {
    const { layer, step, writes } = await open(rows(9, 4096));
    const written = (value: number) => {
      writes.length = 0;
      step();
      return writes.some((words) => words.includes(value));
    };
    expect(written(7_777)).toBe(false);
    layer.set({ window: 7_777 });
    expect(written(7_777)).toBe(true);
  });
});
