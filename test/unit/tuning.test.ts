import { describe, expect, it } from 'vitest';
import { decodeKernel, prefillKernel } from '../../src/attention/kernels.ts';
import { chooseDecodeHeadTile, choosePrefillTile } from '../../src/attention/tuning.ts';
import { joinSource, type Kernel } from '../../src/launch/kernel.ts';
import { evaluate, workgroupMemory } from './workgroup-memory.ts';

const headDims = [8, 24, 32, 64, 80, 96, 120, 128, 192, 256];
const groupSizes = [1, 2, 3, 4, 5, 7, 8, 16, 32, 64];
/** WebGPU's default limit, and what adapters grant. */
const memories = [16384, 32768, 49152];

const cases = headDims.flatMap((headDim) => groupSizes.flatMap((groupSize) => memories.map((memory) => ({ headDim, groupSize, memory }))));

const memoryOf = (kernel: unknown, selectors: Readonly<Record<string, number>>) =>
  workgroupMemory(joinSource(kernel as Kernel, { kvDtype: 0, blockSize: 16, numKvHeads: 1, ...selectors }));

describe('the prefill tile', () => {
  it('exists and fits for every head size and group size', () => {
    for (const { headDim, groupSize, memory } of cases) {
      const label = `headDim ${headDim}, groupSize ${groupSize}, ${memory} bytes`;
      const tile = choosePrefillTile(headDim, groupSize, memory)!;
      expect(tile, label).toBeDefined();
      const { rowTile, keyTile, headTile, tokens } = tile;
      const used = memoryOf(prefillKernel, { headDim, groupSize, numHeads: groupSize, rowTile, keyTile, headTile });
      expect(used, label).toBeLessThanOrEqual(memory);
      expect(64 % keyTile, label).toBe(0);
      expect(rowTile, label).toBeLessThanOrEqual(64);
      expect(headTile, label).toBe(Math.min(groupSize, rowTile));
      expect(tokens, label).toBeGreaterThanOrEqual(1);
      expect(tokens * headTile, label).toBeLessThanOrEqual(rowTile);
    }
  });

  it('grows with the memory', () => {
    const size = (memory: number) => {
      const tile = choosePrefillTile(128, 4, memory);
      return tile ? tile.rowTile * tile.keyTile : 0;
    };
    const sizes = Array.from({ length: 48 }, (_, i) => size(1024 * (i + 1)));
    expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    expect(sizes[0]).toBe(0);
    expect(sizes.at(-1)).toBe(32 * 32);
    expect(new Set(sizes).size).toBeGreaterThan(4);
  });

  it('uses what there is: the next larger tile does not fit', () => {
    const larger = [
      [4, 4],
      [8, 4],
      [8, 8],
      [8, 16],
      [16, 16],
      [16, 32],
      [32, 32],
    ] as const;
    for (const { headDim, groupSize, memory } of cases) {
      const { rowTile, keyTile } = choosePrefillTile(headDim, groupSize, memory)!;
      const next = larger[larger.findIndex(([rows, keys]) => rows === rowTile && keys === keyTile) + 1];
      if (!next) continue;
      const selectors = { headDim, groupSize, numHeads: groupSize, rowTile: next[0], keyTile: next[1], headTile: 1 };
      expect(memoryOf(prefillKernel, selectors), `headDim ${headDim}, ${memory} bytes`).toBeGreaterThan(memory);
    }
  });
});

describe('the decode tile', () => {
  it('exists and fits for every head size and group size, in as little as 8 KiB', () => {
    for (const { headDim, groupSize, memory } of [...cases, ...cases.map((c) => ({ ...c, memory: c.memory / 2 }))]) {
      const label = `headDim ${headDim}, groupSize ${groupSize}, ${memory} bytes`;
      for (const keyTile of [4, 8, 64]) {
        const headTile = chooseDecodeHeadTile(headDim, groupSize, memory, keyTile)!;
        expect(headTile, label).toBeGreaterThanOrEqual(1);
        expect(headTile, label).toBeLessThanOrEqual(groupSize);
        const used = memoryOf(decodeKernel, { headDim, groupSize, numHeads: groupSize, headTile, keyTile });
        expect(used, label).toBeLessThanOrEqual(memory);
      }
    }
  });

  it('takes the whole group where it can, and nothing where nothing fits', () => {
    expect(chooseDecodeHeadTile(64, 4, 16384, 64)).toBe(4);
    expect(chooseDecodeHeadTile(64, 5, 16384, 64)).toBe(5);
    expect(chooseDecodeHeadTile(256, 1, 1024, 64)).toBeUndefined();
  });
});

describe('the evaluation of WGSL constants', () => {
  it('follows precedence and other constants', () => {
    const constants = new Map([
      ['a', '3u'],
      ['b', 'a * 2u + 1u'],
    ]);
    expect(evaluate('b', constants)).toBe(7);
    expect(evaluate('(a + 1u) * b / 5u - 1u', constants)).toBe(4);
    expect(evaluate('max(1u, min(a, b)) - 2u', constants)).toBe(1);
    expect(() => evaluate('c', constants)).toThrow('No constant "c"');
    expect(() => evaluate('a b', constants)).toThrow('goes on');
  });

  it('adds up workgroup variables, each rounded up to 16 bytes', () => {
    expect(workgroupMemory('const n = 5u;\nvar<workgroup> a: array<f32, n>;\nvar<workgroup> b: u32;\n')).toBe(32 + 16);
    expect(() => workgroupMemory('var<workgroup> a: mat4x4f;')).toThrow('Unknown type');
  });
});
