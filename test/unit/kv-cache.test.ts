import { afterAll, describe, expect, it, vi } from 'vitest';
import { KvCache, type KvCacheOptions } from '../../src/attention/kv-cache.ts';
import { BlocksExhaustedError, CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../../src/errors.ts';
import { kvCacheBytes } from '../../src/index.ts';
import { random } from '../harness/random.ts';
import { fakeGpu } from './fake-gpu.ts';

const base: KvCacheOptions = {
  numLayers: 2,
  numBlocks: 9,
  maxSequences: 3,
  maxBlocksPerSequence: 4,
  blockSize: 8,
  numKvHeads: 2,
  headDim: 16,
  dtype: 'f32',
};

afterAll(() => vi.unstubAllGlobals());

const open = (options: Partial<KvCacheOptions> = {}) => new KvCache(fakeGpu().gpu, { ...base, ...options });

/** All that a caller can see of a cache. */
const stateOf = (kv: KvCache) => ({
  free: kv.blocks.free,
  updates: kv.numTableUpdates,
  sequences: [...kv.sequences].map(({ tableRow, blocks, length }) => ({ tableRow, blocks: [...blocks], length })),
});

describe('options', () => {
  it.each([
    ['blockSize', [0, 4, 12, -8, 8.5, Number.NaN]],
    ['headDim', [0, 4, 12, 264, -8, Number.NaN]],
    ['numKvHeads', [0, -1, 1.5, Number.NaN]],
    ['numLayers', [0, -1, 1.5, Number.NaN]],
    ['maxSequences', [0, -1, 1.5, Number.NaN]],
    ['maxBlocksPerSequence', [0, -1, 1.5, Number.NaN]],
    ['numBlocks', [0, 1, -5, 2.5, Number.NaN]],
  ] as const)('%s is checked', (name, values) => {
    for (const value of values) {
      const { gpu, sizes } = fakeGpu();
      expect(() => new KvCache(gpu, { ...base, [name]: value }), `${name} = ${value}`).toThrow(InvalidArgumentError);
      expect(sizes.size, `buffers made with ${name} = ${value}`).toBe(0);
    }
  });

  it.each(['f64', 'toString', ''])('dtype "%s" is refused', (dtype) => {
    expect(() => open({ dtype: dtype as 'f32' })).toThrow(InvalidArgumentError);
  });

  it('a pool beyond a limit is refused, with the number of blocks that fit', () => {
    const blockBytes = 2 * 8 * 2 * 16 * 4;
    const fitting = (128 << 20) / blockBytes;
    open({ numBlocks: fitting });
    expect(() => open({ numBlocks: fitting + 1 })).toThrow(LimitExceededError);
    expect(() => open({ numBlocks: 1e12 })).toThrow(`at most ${fitting} blocks`);
    open({ numBlocks: 2 * fitting, dtype: 'f16' });
  });

  it('says beforehand how many bytes it takes', () => {
    for (const dtype of ['f32', 'f16'] as const) {
      const { gpu, sizes } = fakeGpu();
      new KvCache(gpu, { ...base, dtype });
      const made = [...sizes.values()].reduce((a, b) => a + b);
      expect(kvCacheBytes({ ...base, dtype })).toBe(made);
    }
  });
});

describe('sequences', () => {
  it('are limited in number, and a closed one makes room', () => {
    const kv = open();
    const opened = [kv.open(), kv.open(), kv.open()];
    expect(new Set(opened.map(({ tableRow }) => tableRow))).toEqual(new Set([0, 1, 2]));
    expect(() => kv.open()).toThrow(CapacityExceededError);
    expect(kv.sequences.size).toBe(3);
    kv.close(opened[1]!);
    expect(kv.open().tableRow).toBe(opened[1]!.tableRow);
  });

  it('take blocks as they grow, and give back the tail when truncated', () => {
    const kv = open();
    const sequence = kv.open();
    kv.extend(sequence, 8);
    expect(sequence.blocks).toEqual([1]);
    kv.extend(sequence, 1);
    expect(sequence.blocks).toEqual([1, 2]);
    kv.extend(sequence, 7);
    expect(sequence.blocks).toEqual([1, 2]);
    kv.extend(sequence, 0);
    kv.truncate(sequence, 8);
    expect([sequence.blocks, sequence.length, kv.blocks.free]).toEqual([[1], 8, 7]);
    kv.truncate(sequence, 3);
    expect(sequence.blocks).toEqual([1]);
    kv.close(sequence);
    expect(kv.blocks.free).toBe(8);
  });

  it('stay as they are when the pool or the table row is exhausted', () => {
    const kv = open({ numBlocks: 4 });
    const [a, b] = [kv.open(), kv.open()];
    kv.extend(a, 9);
    kv.extend(b, 3);
    const before = stateOf(kv);
    expect(() => kv.extend(a, 8)).toThrow(BlocksExhaustedError);
    expect(() => kv.extend(b, 6)).toThrow(BlocksExhaustedError);
    expect(() => kv.extend(b, 30)).toThrow(CapacityExceededError);
    expect(stateOf(kv)).toEqual(before);
    kv.extend(b, 5); // fills its block
  });

  it.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY])('cannot change by %s tokens', (count) => {
    const kv = open();
    const sequence = kv.open();
    kv.extend(sequence, 9);
    const before = stateOf(kv);
    expect(() => kv.extend(sequence, count)).toThrow(InvalidArgumentError);
    expect(() => kv.truncate(sequence, count)).toThrow(InvalidArgumentError);
    expect(() => kv.truncate(sequence, 10)).toThrow(InvalidArgumentError);
    expect(stateOf(kv)).toEqual(before);
  });

  it('are refused when closed or of another cache', () => {
    const kv = open();
    const closed = kv.open();
    kv.extend(closed, 1);
    kv.close(closed);
    const foreign = open().open();
    const before = stateOf(kv);
    for (const sequence of [closed, foreign]) {
      expect(() => kv.extend(sequence, 1)).toThrow(InvalidArgumentError);
      expect(() => kv.truncate(sequence, 0)).toThrow(InvalidArgumentError);
      expect(() => kv.close(sequence)).toThrow(InvalidArgumentError);
    }
    expect(stateOf(kv)).toEqual(before);
  });
});

describe('table updates', () => {
  it('grow with new blocks, not with tokens or context', () => {
    const kv = open({ numBlocks: 40, maxBlocksPerSequence: 30 });
    const sequence = kv.open();
    kv.extend(sequence, 100);
    expect(kv.takeTableUpdates().length / 2).toBe(13);
    const perToken = Array.from({ length: 20 }, () => {
      kv.extend(sequence, 1);
      return kv.takeTableUpdates().length / 2;
    });
    expect(perToken.map((count, i) => (count > 0 ? 100 + i : -1)).filter((length) => length >= 0)).toEqual([104, 112]);
    expect(Math.max(...perToken)).toBe(1);
  });

  it('name an entry once, with the block that it holds last', () => {
    const kv = open();
    const [a, b] = [kv.open(), kv.open()];
    kv.extend(a, 8); // block 1
    kv.truncate(a, 0);
    kv.extend(b, 8); // block 2
    kv.extend(a, 16); // blocks 3 and 4
    const rowOf = (sequence: { tableRow: number }) => sequence.tableRow * base.maxBlocksPerSequence;
    expect(kv.numTableUpdates).toBe(3);
    expect(pairs(kv.takeTableUpdates())).toEqual(
      new Map([
        [rowOf(a), 3],
        [rowOf(b), 2],
        [rowOf(a) + 1, 4],
      ]),
    );
    expect([kv.numTableUpdates, kv.takeTableUpdates()]).toEqual([0, []]);
  });

  it.each([1, 2, 3])('keep a copy of the table right through random work, seed %i', (seed) => {
    const numbers = random(seed);
    const kv = open({ numBlocks: 12, maxSequences: 4, maxBlocksPerSequence: 5 });
    const copy = new Map<number, number>();
    for (let step = 0; step < 500; step++) {
      const opened = [...kv.sequences];
      const sequence = opened[numbers.integer(opened.length)];
      const choice = numbers.integer(8);
      try {
        if (!sequence || choice === 0) kv.open();
        else if (choice === 1) kv.close(sequence);
        else if (choice === 2) kv.truncate(sequence, numbers.integer(sequence.length + 1));
        else kv.extend(sequence, numbers.integer(12));
      } catch (error) {
        expect(error).toSatisfy((e) => e instanceof CapacityExceededError || e instanceof BlocksExhaustedError);
      }
      if (choice !== 7) continue;
      const updates = kv.takeTableUpdates();
      expect(pairs(updates).size).toBe(updates.length / 2);
      for (const [index, block] of pairs(updates)) copy.set(index, block);
      for (const { tableRow, blocks, length } of kv.sequences) {
        expect(blocks.length).toBe(Math.ceil(length / base.blockSize));
        expect(blocks.map((_, i) => copy.get(tableRow * 5 + i))).toEqual([...blocks]);
      }
      const held = [...kv.sequences].flatMap(({ blocks }) => blocks);
      expect(new Set(held).size).toBe(held.length);
      expect(held.length + kv.blocks.free).toBe(11);
    }
  });
});

function pairs(flat: readonly number[]): Map<number, number> {
  return new Map(Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]));
}
