import { afterAll, describe, expect, it, vi } from 'vitest';
import { findCascades } from '../../src/attention/cascade.ts';
import { kvCacheBytes } from '../../src/attention/kv-cache.ts';
import type { KvLayout } from '../../src/attention/layout.ts';
import { type Cascade, type PlannedSequence, PlanWriter, packBatch } from '../../src/attention/plan.ts';
import { readSnapshot, snapshotBytes, writeSnapshotHeader } from '../../src/attention/snapshot.ts';
import { BlocksExhaustedError, InvalidArgumentError, KvCache, type KvCacheOptions, LimitExceededError } from '../../src/index.ts';
import { fakeGpu } from './fake-gpu.ts';

afterAll(() => vi.unstubAllGlobals());

const small = {
  numLayers: 1,
  numBlocks: 20,
  maxSequences: 4,
  maxBlocksPerSequence: 8,
  blockSize: 8,
  numKvHeads: 2,
  headDim: 16,
  dtype: 'f32',
} as const;
const open = (options: Partial<KvCacheOptions> = {}) => new KvCache(fakeGpu().gpu, { ...small, ...options });

describe('a fork', () => {
  it('shares all blocks, and copies the one that it writes into', () => {
    const kv = open();
    const first = kv.open();
    kv.extend(first, 20);
    const fork = kv.fork(first);
    expect(fork.blocks).toEqual(first.blocks);
    expect(fork.length).toBe(20);
    expect(kv.blocks.free).toBe(19 - 3);
    kv.extend(fork, 1);
    expect(fork.blocks.slice(0, 2)).toEqual(first.blocks.slice(0, 2));
    expect(fork.blocks[2]).not.toBe(first.blocks[2]);
    expect(kv.takeBlockCopies()).toEqual([[first.blocks[2], fork.blocks[2]]]);
    expect(kv.numBlockCopies).toBe(0);
    kv.extend(first, 1); // its block has no other owner any more
    expect(kv.takeBlockCopies()).toEqual([]);
    kv.close(first);
    kv.close(fork);
    expect(kv.blocks.free).toBe(19);
  });

  it('on the edge of a block copies nothing', () => {
    const kv = open();
    const first = kv.open();
    kv.extend(first, 16);
    const fork = kv.fork(first);
    kv.extend(fork, 1);
    kv.extend(first, 1);
    expect(kv.numBlockCopies).toBe(0);
    expect(fork.blocks[2]).not.toBe(first.blocks[2]);
  });

  it('keeps the source of a copy that is still to be made, and never copies to one block twice', () => {
    const kv = open({ numBlocks: 6 });
    const first = kv.open();
    kv.extend(first, 4);
    const [shared] = first.blocks;
    const fork = kv.fork(first);
    kv.extend(fork, 1);
    const [own] = fork.blocks;
    kv.close(first);
    kv.close(fork);
    expect(kv.blocks.owners(shared!)).toBe(1); // held by the copy
    const again = kv.open();
    kv.extend(again, 8 * 3);
    const last = kv.fork(again);
    kv.truncate(last, 4);
    kv.extend(last, 1);
    const copies = kv.takeBlockCopies();
    expect(new Set(copies.map(([, destination]) => destination)).size).toBe(copies.length);
    expect(copies.some(([, destination]) => destination === own)).toBe(true);
    expect(kv.blocks.owners(shared!)).toBe(0);
  });

  it('that finds no block for its copy changes nothing', () => {
    const kv = open({ numBlocks: 2 });
    const first = kv.open();
    kv.extend(first, 4);
    const fork = kv.fork(first);
    expect(() => kv.extend(fork, 1)).toThrow(BlocksExhaustedError);
    expect([fork.length, kv.numBlockCopies, fork.blocks[0] === first.blocks[0]]).toEqual([4, 0, true]);
  });
});

describe('blocks before a window', () => {
  it('are given up, but for those of the kept first keys', () => {
    const kv = open();
    const sequence = kv.open();
    kv.extend(sequence, 40);
    const blocks = [...sequence.blocks];
    kv.release(sequence, 31, 3);
    expect(sequence.blocks).toEqual([blocks[0], 0, 0, blocks[3], blocks[4]]);
    expect(kv.blocks.free).toBe(19 - 3);
    kv.release(sequence, 31, 3);
    expect(kv.blocks.free).toBe(19 - 3);
    expect(new Map(pairs(kv.takeTableUpdates())).get(sequence.tableRow * 8 + 1)).toBe(0);
    kv.close(sequence);
    expect(kv.blocks.free).toBe(19);
  });

  it('are not that which the next token goes into, however far the window is', () => {
    const kv = open();
    const sequence = kv.open();
    kv.extend(sequence, 20);
    kv.release(sequence, 1000);
    expect(sequence.blocks.map((block) => block > 0)).toEqual([false, false, true]);
    kv.extend(sequence, 4);
    kv.release(sequence, 1000);
    kv.extend(sequence, 1);
    expect(sequence.blocks.map((block) => block > 0)).toEqual([false, false, false, true]);
  });
});

describe('memory', () => {
  it.each([
    ['f32', undefined, 4 * 64],
    ['f16', undefined, 2 * 64],
    ['int8', 'token', 64 + 4],
    ['int8', 'tensor', 64],
    ['fp8_e4m3', undefined, 64 + 4],
    ['fp8_e5m2', 'tensor', 64],
  ] as const)('of %s with scales for each %s', (dtype, scales, bytesPerRow) => {
    const options = { ...small, headDim: 64, dtype, ...(scales && { scales }) };
    expect(kvCacheBytes(options)).toBe(20 * 2 * 8 * 2 * bytesPerRow + 4 * 8 * 4);
    const { sizes, gpu } = fakeGpu();
    new KvCache(gpu, options);
    expect([...sizes.values()].reduce((a, b) => a + b, 0)).toBe(kvCacheBytes(options));
  });

  it('of a pool that one buffer cannot hold lies in several', () => {
    const kv = open({ maxBlocksPerBuffer: 20 });
    expect(kv.pools[0]!.length).toBe(1);
    expect(() => open({ maxBlocksPerBuffer: 3 })).toThrow(LimitExceededError);
    expect(() => open({ maxBlocksPerBuffer: 0 })).toThrow(InvalidArgumentError);
  });

  it('refuses scales where there are none, and unknown ones', () => {
    expect(() => open({ scales: 'token' })).toThrow(/left out/);
    expect(() => open({ dtype: 'int8', scales: 'row' as 'token' })).toThrow(/one of token, tensor/);
    expect(() => open({ dtype: 'int4' as 'int8' })).toThrow(/one of f32, f16, int8/);
  });
});

describe('a snapshot', () => {
  const layout: KvLayout & { numLayers: number } = { ...small, numLayers: 2 };
  const whole = () => {
    const bytes = new Uint8Array(snapshotBytes(layout, 2));
    bytes.set(new Uint8Array(writeSnapshotHeader(layout, 11)));
    return bytes.buffer;
  };

  it('says how long the sequence is', () => {
    const { length, data } = readSnapshot(layout, whole());
    expect([length, data.length]).toEqual([11, 2 * 2 * 2 * 8 * 2 * 16 * 4]);
  });

  it('of another kind, layout or length is refused by name', () => {
    expect(() => readSnapshot(layout, new ArrayBuffer(0))).toThrow(/KvCache.save/);
    expect(() => readSnapshot(layout, new ArrayBuffer(400))).toThrow(/KvCache.save/);
    expect(() => readSnapshot({ ...layout, headDim: 8 }, whole())).toThrow(/headDim/);
    expect(() => readSnapshot({ ...layout, dtype: 'f16' }, whole())).toThrow(/dtype/);
    expect(() => readSnapshot(layout, whole().slice(4))).toThrow(InvalidArgumentError);
    expect(() => readSnapshot(layout, whole().slice(0, -4))).toThrow(/bytes/);
  });
});

describe('cascades', () => {
  const sequence = (tableRow: number, blocks: readonly number[], seqLen: number, queryLen = 1): PlannedSequence => ({
    tableRow,
    blocks,
    seqLen,
    queryLen,
  });
  const prefix = Array.from({ length: 300 }, (_, i) => 1000 + i);
  const sharing = (tableRow: number, extra: number) =>
    sequence(tableRow, [...prefix, 10 * tableRow + 1, 10 * tableRow + 2], 300 * 8 + extra);

  it('are found where neighbours share enough keys, before every new token', () => {
    const batch = [sequence(0, [5], 3), sharing(1, 3), sharing(2, 9), sharing(3, 1), sequence(4, [6], 2)];
    expect(findCascades(batch, 8)).toEqual([{ first: 1, count: 3, prefixLen: 2400 }]);
    expect(findCascades(batch.slice(0, 2), 8)).toEqual([]);
    const reaching = [sharing(1, 3), { ...sharing(2, 0), queryLen: 9 }, sharing(3, 1)];
    expect(findCascades(reaching, 8)).toEqual([{ first: 0, count: 3, prefixLen: 2384 }]);
  });

  it('cover every key of every row exactly once', () => {
    const batch = [sequence(0, [5], 3), sharing(1, 3), { ...sharing(2, 9), queryLen: 4 }, sharing(3, 1)];
    const cascades: Cascade[] = [{ first: 1, count: 3, prefixLen: 2400 }];
    const writer = new PlanWriter(10_000);
    writer.begin();
    const shape = {
      blockSize: 8,
      prefillTokens: 4,
      segmentKeys: 256,
      maxPartials: 100,
      maxSplitQuery: 16,
      filterByQueryLen: true,
      cascades,
    };
    const counts = packBatch(writer, batch, shape);
    const { words } = writer;
    const items = (at: number, count: number) => Array.from({ length: count }, (_, i) => [...words.subarray(at + i * 6, at + i * 6 + 6)]);
    const all = [
      ...items(writer.read('DECODE_ITEMS'), counts.numDecodeItems),
      ...items(writer.read('PREFILL_ITEMS'), counts.numPrefillItems),
    ];
    const lengths = batch.flatMap(({ seqLen, queryLen }) => Array.from({ length: queryLen }, (_, i) => seqLen - queryLen + i + 1));
    lengths.forEach((length, token) => {
      const ranges = all
        .filter(([first, tokens]) => token >= first! && token < first! + tokens!)
        .map(([, , , begin, end]) => [begin!, end!]);
      ranges.sort((a, b) => a[0]! - b[0]!);
      let reached = 0;
      for (const [begin, end] of ranges) {
        expect(begin).toBe(reached);
        reached = end!;
      }
      expect(reached).toBeGreaterThanOrEqual(length);
    });
    expect(counts.numPartials).toBeLessThanOrEqual(100);
    // Without room for two states a row, the prefix is read for each sequence.
    writer.begin();
    expect(packBatch(writer, batch, { ...shape, maxPartials: 0, segmentKeys: 5000 }).numMergeRows).toBe(0);
  });
});

function pairs(flat: readonly number[]): [number, number][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);
}
