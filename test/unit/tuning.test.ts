import { describe, expect, it } from 'vitest';
import { decodeKernelOf, prefillKernel } from '../../src/attention/kernels.ts';
import { type KvDtype, type KvLayout, kvFormats } from '../../src/attention/layout.ts';
import { chooseDecodeTile, type DecodeDevice, decodeMemory, decodeTileSpace } from '../../src/attention/tiles/decode.ts';
import { choosePrefillTile, prefillMemory, prefillTileSpace } from '../../src/attention/tiles/prefill.ts';
import { joinSource, type Kernel } from '../../src/launch/kernel.ts';
import { workgroupMemory } from './workgroup-memory.ts';

const headDims = [8, 24, 32, 64, 80, 96, 120, 128, 192, 256];
const groupSizes = [1, 2, 3, 4, 5, 7, 8, 16, 32, 64];
/** WebGPU's default limit, and what adapters grant. */
const memories = [16384, 32768, 49152];

const casesOf = (groupSizes: readonly number[], memories: readonly number[]) =>
  headDims.flatMap((headDim) => groupSizes.flatMap((groupSize) => memories.map((memory) => ({ headDim, groupSize, memory }))));
const cases = casesOf(groupSizes, memories);

const memoryOf = (kernel: unknown, selectors: Readonly<Record<string, number | string>>) => {
  const fixed = { kvDtype: 0, tokenScales: 'false', loadWords: 4, blockSize: 16, numKvHeads: 1 };
  // Loops need not be written out for it.
  return workgroupMemory(joinSource({ ...(kernel as Kernel), unroll: undefined }, { ...fixed, ...selectors }));
};

/** Most invocations: SwiftShader's, lavapipe's, a GPU's. */
const adapters = [8, 64, 128];
/** With the least size of their subgroups, 0 where there are none, whether they have shader-f16, and dot products of bytes. */
const decodeAdapters = [
  [8, 4, false, true],
  [64, 0, true, true],
  [128, 0, false, false],
  [128, 32, false, false],
  [128, 0, false, true],
  [128, 32, false, true],
  [128, 0, true, false],
  [128, 32, true, true],
] as const;

const plainDevice: DecodeDevice = { memory: 16384, maxInvocations: 128, subgroupSize: 0, shaderF16: false, byteProducts: false };

const f16: KvLayout = { blockSize: 16, numKvHeads: 1, headDim: 128, dtype: 'f16' };

describe('the prefill tile', () => {
  it('exists and fits for every head size, group size and adapter', () => {
    for (const { headDim, groupSize, memory } of cases) {
      for (const maxInvocations of adapters) {
        const label = `headDim ${headDim}, groupSize ${groupSize}, ${memory} bytes, ${maxInvocations} invocations`;
        const { tokens, ...tile } = choosePrefillTile({ ...f16, headDim }, groupSize, memory, maxInvocations)!;
        const { rowTile, keyTile, headTile, rowsPerThread, keysPerThread } = tile;
        expect(memoryOf(prefillKernel, { headDim, groupSize, numHeads: groupSize, kvDtype: 1, ...tile }), label).toBeLessThanOrEqual(
          memory,
        );
        expect([rowTile % rowsPerThread, keyTile % keysPerThread], label).toEqual([0, 0]);
        expect((rowTile / rowsPerThread) * (keyTile / keysPerThread), label).toBeLessThanOrEqual(Math.max(16, maxInvocations));
        expect(headTile, label).toBe(Math.min(groupSize, rowTile));
        expect(tokens, label).toBeGreaterThanOrEqual(1);
        expect(tokens * headTile, label).toBeLessThanOrEqual(rowTile);
      }
    }
  });

  it('grows with the memory', () => {
    const size = (memory: number) => {
      const tile = choosePrefillTile(f16, 4, memory, 128);
      return tile ? tile.rowTile * tile.keyTile : 0;
    };
    const sizes = Array.from({ length: 48 }, (_, i) => size(1024 * (i + 1)));
    expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    expect(sizes[0]).toBe(0);
    expect(sizes.at(-1)).toBe(32 * 32);
    expect(new Set(sizes).size).toBeGreaterThan(4);
  });
});

describe('the decode tile', () => {
  const layouts = (headDim: number): KvLayout[] =>
    (['f32', 'f16', 'int8'] as const).map((dtype) => ({ blockSize: 16, numKvHeads: 1, headDim, dtype }));

  it('exists and fits for every head size, group size, dtype and adapter, in as little as 8 KiB', () => {
    for (const { headDim, groupSize, memory } of casesOf([1, 5, 8], [8192, 49152])) {
      for (const layout of layouts(headDim)) {
        for (const [maxInvocations, subgroupSize, shaderF16, byteProducts] of decodeAdapters) {
          const device = { memory, maxInvocations, subgroupSize, shaderF16, byteProducts };
          const label = `headDim ${headDim}, ${layout.dtype}, groupSize ${groupSize}, ${JSON.stringify(device)}`;
          const tile = chooseDecodeTile(layout, groupSize, device)!;
          expect(tile, label).toBeDefined();
          const { subgroups, halves, byteKeys, ...sizes } = tile;
          const { headTile, keyThreads, keysPerThread, valueThreads, invocations } = sizes;
          const areCodes = maxInvocations >= 128 && layout.dtype === 'int8';
          const isByBytes = byteProducts && areCodes && (shaderF16 || groupSize <= 4 || !subgroups);
          expect([halves, byteKeys], label).toEqual([shaderF16 && areCodes, isByBytes]);
          for (const threads of [keyThreads, valueThreads]) {
            expect(!subgroups || (threads <= subgroupSize && Number.isInteger(Math.log2(threads))), label).toBe(true);
          }
          expect(headTile, label).toBeLessThanOrEqual(groupSize);
          expect(invocations, label).toBeLessThanOrEqual(maxInvocations);
          expect([invocations % valueThreads, valueThreads % keyThreads, headDim % valueThreads], label).toEqual([0, 0, 0]);
          expect((invocations / keyThreads) * keysPerThread, label).toBeLessThanOrEqual(invocations);
          const tokenScales = kvFormats[layout.dtype].largest > 0;
          const selectors = {
            headDim,
            groupSize,
            numHeads: groupSize,
            kvDtype: kvFormats[layout.dtype].code,
            tokenScales: String(tokenScales),
          };
          const used = memoryOf(decodeKernelOf(tile), { ...selectors, ...sizes });
          expect(used, label).toBeLessThanOrEqual(memory);
          expect(decodeMemory(tile, headDim, tokenScales), label).toBe(used);
        }
      }
    }
  });

  it('is what was measured on GPUs', () => {
    const gpu = { memory: 49152, maxInvocations: 256, byteProducts: true };
    const devices = {
      subgroups: { ...gpu, subgroupSize: 32, shaderF16: false, byteProducts: false },
      'subgroups, bytes': { ...gpu, subgroupSize: 32, shaderF16: false },
      'subgroups, f16': { ...gpu, subgroupSize: 32, shaderF16: true },
      'subgroups, f16, naga': { ...gpu, subgroupSize: 32, shaderF16: true, countsRounds: true },
      f16: { ...gpu, subgroupSize: 0, shaderF16: true },
      bytes: { ...gpu, subgroupSize: 0, shaderF16: false },
    };
    const chosen = (device: DecodeDevice, headDim: number, groupSize: number) =>
      (['f16', 'int8', 'fp8_e4m3'] as const).map((dtype) => {
        const tile = chooseDecodeTile({ blockSize: 16, numKvHeads: 1, headDim, dtype }, groupSize, device)!;
        return [tile.keyThreads, tile.valueThreads, tile.keysPerThread, tile.invocations].join('.');
      });
    expect(chosen(devices.subgroups, 128, 4)).toEqual(['16.16.4.128', '4.16.4.128', '4.16.4.128']);
    expect(chosen(devices.subgroups, 128, 8)).toEqual(['8.16.4.128', '4.16.4.128', '4.16.4.128']);
    expect(chosen(devices.subgroups, 64, 4)).toEqual(['8.8.4.128', '4.8.4.128', '4.8.4.128']);
    expect(chosen(devices.subgroups, 64, 8)).toEqual(['8.8.4.64', '4.8.4.64', '4.8.4.64']);
    expect(chosen(devices['subgroups, bytes'], 128, 4)).toEqual(['16.16.4.128', '4.16.2.128', '4.16.4.128']);
    expect(chosen(devices['subgroups, bytes'], 128, 8)).toEqual(chosen(devices.subgroups, 128, 8));
    expect(chosen(devices.bytes, 128, 4)).toEqual(['8.16.4.64', '2.16.2.64', '2.16.2.128']);
    expect(chosen(devices['subgroups, f16'], 128, 4)).toEqual(['16.16.4.128', '4.16.2.128', '4.16.2.128']);
    expect(chosen(devices['subgroups, f16'], 64, 4)).toEqual(['8.8.4.128', '2.8.2.128', '4.8.4.128']);
    expect(chosen(devices['subgroups, f16'], 64, 8)).toEqual(['8.8.4.64', '2.8.2.64', '4.8.4.64']);
    expect(chosen(devices['subgroups, f16'], 96, 4)).toEqual(['4.4.4.64', '4.4.4.64', '4.4.4.64']);
    expect(chosen({ ...devices['subgroups, f16'], subgroupSize: 4 }, 128, 4)).toEqual(chosen(devices.f16, 128, 4));
    expect(chosen(devices['subgroups, f16, naga'], 128, 4)).toEqual(['16.16.4.128', '4.16.2.128', '4.16.2.128']);
    expect(chosen(devices['subgroups, f16, naga'], 64, 4)).toEqual(['8.8.4.128', '2.8.2.128', '2.8.2.128']);
    expect(chosen(devices.f16, 128, 4)).toEqual(['8.16.4.64', '2.16.2.64', '2.16.2.64']);
    expect(chosen(devices.f16, 64, 4)).toEqual(['4.8.2.128', '2.8.2.64', '2.8.2.64']);
  });

  it('cuts large groups where there are no subgroups, evenly', () => {
    const device = { memory: 49152, maxInvocations: 256, shaderF16: true, byteProducts: true };
    const heads = (dtype: KvDtype, subgroupSize: number) =>
      [4, 5, 6, 7, 8, 12].map(
        (groupSize) =>
          chooseDecodeTile({ blockSize: 16, numKvHeads: 1, headDim: 128, dtype }, groupSize, { ...device, subgroupSize })?.headTile,
      );
    expect(heads('f16', 0)).toEqual([4, 5, 6, 4, 4, 6]);
    expect(heads('int8', 0)).toEqual([4, 3, 3, 4, 4, 4]);
    expect(heads('int8', 32)).toEqual([4, 5, 6, 7, 8, 6]);
  });

  it('takes the whole group where it can, and nothing where nothing fits', () => {
    const [f32] = layouts(64);
    expect(chooseDecodeTile(f32!, 4, plainDevice)?.headTile).toBe(4);
    expect(chooseDecodeTile(f32!, 5, plainDevice)?.headTile).toBe(5);
    expect(chooseDecodeTile({ ...f32!, headDim: 256 }, 1, { ...plainDevice, memory: 1024 })).toBeUndefined();
  });
});

describe('the tiles to try', () => {
  const distinct = (tiles: readonly object[]) => new Set(tiles.map((tile) => JSON.stringify(tile))).size;

  it('begin with the default, differ, and fit', () => {
    for (const { headDim, groupSize, memory } of casesOf([1, 4, 5], memories)) {
      for (const maxInvocations of adapters) {
        const label = `headDim ${headDim}, groupSize ${groupSize}, ${memory} bytes, ${maxInvocations} invocations`;
        const prefill = prefillTileSpace({ ...f16, headDim }, groupSize, memory, maxInvocations);
        expect(prefill[0], label).toEqual(choosePrefillTile({ ...f16, headDim }, groupSize, memory, maxInvocations));
        expect(distinct(prefill), label).toBe(prefill.length);
        for (const tile of prefill) expect(prefillMemory(headDim, 2 * headDim, tile)).toBeLessThanOrEqual(memory);
        const layout = { ...f16, headDim };
        const device = { ...plainDevice, memory, maxInvocations, subgroupSize: 32 };
        const decode = decodeTileSpace(layout, groupSize, device);
        expect(decode[0], label).toEqual(chooseDecodeTile(layout, groupSize, device));
        expect(distinct(decode), label).toBe(decode.length);
        for (const tile of decode) expect(decodeMemory(tile, headDim, false)).toBeLessThanOrEqual(memory);
      }
    }
  });

  it('are few, and change everything that a tile has', () => {
    const decode = decodeTileSpace(f16, 4, { ...plainDevice, memory: 49152 });
    const prefill = prefillTileSpace(f16, 4, 49152, 128);
    const moving = {
      decode: ['headTile', 'keyThreads', 'keysPerThread', 'valueThreads', 'invocations'],
      prefill: ['rowTile', 'keyTile', 'rowsPerThread', 'tokens'],
    };
    for (const [space, names] of [[decode, moving.decode] as const, [prefill, moving.prefill] as const]) {
      expect(space.length).toBeGreaterThan(8);
      expect(space.length).toBeLessThan(40);
      for (const name of names) expect(new Set(space.map((tile) => Reflect.get(tile, name))).size, name).toBeGreaterThan(1);
    }
    expect(decode.every(({ invocations }) => invocations <= 256)).toBe(true);
    // With subgroups, those without have their turn, too.
    const both = decodeTileSpace(f16, 4, { ...plainDevice, memory: 49152, subgroupSize: 32 });
    expect(new Set(both.map(({ subgroups }) => subgroups))).toEqual(new Set([true, false]));
    expect(both.every(({ subgroups, valueThreads }) => !subgroups || valueThreads <= 32)).toBe(true);
    expect(
      decodeTileSpace(f16, 4, { ...plainDevice, memory: 49152, maxInvocations: 64 }, 64).every(({ invocations }) => invocations <= 64),
    ).toBe(true);
    // And 8 bits are tried in f32 where they are multiplied in f16 or as bytes.
    const codes = { ...f16, dtype: 'int8' } as const;
    for (const [shaderF16, byteProducts, ways] of [
      [true, true, 3],
      [true, false, 2],
      [false, true, 2],
      [false, false, 1],
    ] as const) {
      const tiles = decodeTileSpace(codes, 4, { memory: 49152, maxInvocations: 128, subgroupSize: 32, shaderF16, byteProducts });
      expect(tiles[0]).toMatchObject({ halves: shaderF16, byteKeys: byteProducts });
      expect(new Set(tiles.map(({ halves, byteKeys, subgroups }) => `${halves} ${byteKeys} ${subgroups}`)).size).toBe(2 * ways);
      expect(distinct(tiles)).toBe(tiles.length);
    }
    expect(decodeTileSpace(f16, 4, { ...plainDevice, memory: 1024 })).toEqual([]);
    expect(prefillTileSpace(f16, 4, 1024, 128)).toEqual([]);
  });
});

describe('the size of workgroup variables', () => {
  it('adds up workgroup variables, each rounded up to 16 bytes', () => {
    expect(workgroupMemory('const n = 5u;\nvar<workgroup> a: array<f32, n>;\nvar<workgroup> b: u32;\n')).toBe(32 + 16);
    expect(() => workgroupMemory('var<workgroup> a: mat4x4f;')).toThrow('Unknown type');
  });
});
