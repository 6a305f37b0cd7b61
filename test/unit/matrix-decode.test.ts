/** Decode by matrices without a GPU that has them: when it is chosen, that its WGSL compiles, and what happens where it does not. */
import { describe, expect, it } from 'vitest';
import { type AttendArguments, decodeBy } from '../../src/attention/attend.ts';
import { matrixDecodeBytesKernel, matrixDecodeKernel, poolKernelsFor } from '../../src/attention/kernels.ts';
import { type KvDtype, kvDtypes, kvFormats } from '../../src/attention/layout.ts';
import type { DecodeTile } from '../../src/attention/tiles/decode.ts';
import {
  isMatrixTile,
  largeDecodeTile,
  type MatrixDecodeDevice,
  type MatrixDecodeTile,
  matrixDecodeMemory,
  matrixDecodeTileSpace,
} from '../../src/attention/tiles/matrix.ts';
import { type ChoiceOptions, chooseKernels, type KernelChoice, tileSpace } from '../../src/attention/tuned.ts';
import { KernelCompileError } from '../../src/errors.ts';
import { gpuFromDevice } from '../../src/gpu.ts';
import type { LaunchCache } from '../../src/launch/cache.ts';
import { joinSource, type Kernel } from '../../src/launch/kernel.ts';
import { gpuWith } from './fake-gpu.ts';
import { complaintsOf, useNullDevice } from './null-device.ts';
import { workgroupMemory } from './workgroup-memory.ts';

const layoutOf = (headDim: number, dtype: KvDtype = 'f16') => ({ blockSize: 16, numKvHeads: 2, headDim, dtype });

function textOf({ byteKeys, ...tile }: MatrixDecodeTile, headDim: number, dtype: KvDtype, groupSize: number, tokenScales = true): string {
  const isQuantised = kvFormats[dtype].largest > 0;
  const kernel = byteKeys ? matrixDecodeBytesKernel : matrixDecodeKernel;
  return joinSource(kernel as unknown as Kernel, {
    ...{ headDim, kvDtype: kvFormats[dtype].code, tokenScales: String(isQuantised && tokenScales), loadWords: 4, blocksPerBuffer: 1000 },
    ...{ blockSize: 16, numKvHeads: 2, numHeads: 2 * groupSize, groupSize, ...tile },
  });
}

const largest = { memory: 49152, maxInvocations: 256, byteMatrices: true };

/** All tiles of decode by matrices, the one for large batches included. */
function tilesFor(
  headDim: number,
  dtype: KvDtype,
  groupSize: number,
  device: Partial<MatrixDecodeDevice> = {},
): readonly MatrixDecodeTile[] {
  const layout = layoutOf(headDim, dtype);
  const large = largeDecodeTile(layout, groupSize, { ...largest, ...device });
  return [...matrixDecodeTileSpace(layout, groupSize, { ...largest, ...device }), ...(large ? [large] : [])];
}

/** Head dim and group size. */
const shapes = [
  [64, 1],
  [64, 4],
  [64, 7],
  [128, 4],
  [128, 7],
] as const;

const halves = kvDtypes.filter((dtype) => dtype !== 'f32');

describe('the tiles by matrices', () => {
  it('fit into what they say, and that into the memory', () => {
    for (const dtype of halves) {
      for (const [headDim, groupSize] of shapes) {
        for (const memory of [16384, 32768]) {
          const space = tilesFor(headDim, dtype, groupSize, { memory });
          const isTaken = groupSize > 2 && (headDim === 64 || groupSize > 4 || dtype !== 'f16');
          expect(space.length > 0, `${dtype}, headDim ${headDim}, group of ${groupSize}, ${memory} bytes`).toBe(isTaken);
          for (const tile of space) {
            const label = JSON.stringify({ dtype, headDim, ...tile });
            expect(workgroupMemory(textOf(tile, headDim, dtype, groupSize)), label).toBe(matrixDecodeMemory(tile));
            expect(matrixDecodeMemory(tile), label).toBeLessThanOrEqual(memory);
          }
        }
      }
    }
  });

  it('are of up to eight heads, and none where others are as good or precision would be lost', () => {
    const headsOf = (headDim: number, groupSize: number) => tilesFor(headDim, 'f16', groupSize).map(({ headTile }) => headTile);
    expect([5, 8, 12].map((groupSize) => headsOf(128, groupSize)[0])).toEqual([5, 8, 8]);
    expect([1, 2, 3, 4, 12].map((groupSize) => headsOf(64, groupSize)[0])).toEqual([undefined, undefined, 3, 4, 8]);
    expect(headsOf(128, 4)).toEqual([]);
    expect(tilesFor(64, 'f32', 8)).toEqual([]);
    for (const headDim of [32, 80, 96, 256]) expect(tilesFor(headDim, 'int8', 4)).toEqual([]);
    for (const headDim of [64, 128]) {
      for (const groupSize of [4, 8]) {
        expect(tilesFor(headDim, 'int8', groupSize, { maxInvocations: 64 })).toEqual([]);
        expect(tilesFor(headDim, 'int8', groupSize, { memory: 2048 })).toEqual([]);
      }
    }
  });

  it('have two matrices of keys where four heads at most would leave half of the invocations idle', () => {
    const idle = halves
      .flatMap((dtype) => shapes.flatMap(([headDim, groupSize]) => tilesFor(headDim, dtype, groupSize)))
      .filter(({ headTile, keyBlocks }) => headTile <= 4 && keyBlocks < 2);
    expect(idle).toEqual([]);
  });

  it('take keys in int8 as bytes where the device has such matrices and registers are enough', () => {
    const byBytes = (headDim: number, dtype: KvDtype, groupSize: number, byteMatrices = true) =>
      tilesFor(headDim, dtype, groupSize, { byteMatrices }).map(({ byteKeys }) => byteKeys);
    expect(new Set([...byBytes(64, 'int8', 3), ...byBytes(64, 'int8', 8), ...byBytes(128, 'int8', 4)])).toEqual(new Set([true]));
    const others = [byBytes(128, 'int8', 8), byBytes(64, 'fp8_e4m3', 4), byBytes(64, 'int8', 4, false), byBytes(128, 'int8', 4, false)];
    expect(new Set(others.flat())).toEqual(new Set([false]));
  });

  it('have one for large batches of rows of 128 bytes, unless the caller says how to cut', () => {
    const gpu = gpuWith({ narrowMatrices: true });
    const largeOf = (headDim: number, dtype: KvDtype, groupSize: number, options: ChoiceOptions = {}) =>
      chooseKernels(gpu, { ...layoutOf(headDim, dtype), numHeads: 2 * groupSize }, options).large?.tile.headTile;
    expect([1, 2, 3, 4, 5, 8].map((groupSize) => largeOf(128, 'int8', groupSize))).toEqual([
      undefined,
      undefined,
      3,
      4,
      undefined,
      undefined,
    ]);
    expect([largeOf(128, 'fp8_e5m2', 4), largeOf(128, 'f16', 4), largeOf(64, 'int8', 4)]).toEqual([4, undefined, undefined]);
    const told = [{ deterministic: true }, { targetWorkgroups: 64 }, { minSegmentKeys: 64 }, { subgroupMatrices: false }];
    expect(told.map((options) => largeOf(128, 'int8', 4, options))).toEqual(told.map(() => undefined));
  });

  it('come first where the device has such matrices, and only there', () => {
    const shape = { ...layoutOf(64), numHeads: 16 };
    const [without, withMatrices] = [gpuWith({}), gpuWith({ narrowMatrices: true })];
    expect(tileSpace(without, shape).decode.some(isMatrixTile)).toBe(false);
    const { decode, plainDecode } = chooseKernels(withMatrices, shape);
    expect([isMatrixTile(decode), isMatrixTile(plainDecode)]).toEqual([true, false]);
    expect(plainDecode).toEqual(chooseKernels(without, shape).decode);
    for (const options of [{ subgroupMatrices: false }, { maxInvocations: 64 }])
      expect(isMatrixTile(chooseKernels(withMatrices, shape, options).decode)).toBe(false);
  });
});

it.each([
  ['narrowMatrices', { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 8, K: 16 }],
  ['byteMatrices', { componentType: 'i8', resultComponentType: 'i32', M: 16, N: 8, K: 32 }],
] as const)('%s are products of that shape and those types', (feature, config) => {
  const features = new Set(['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix']);
  const device = { features, limits: {}, lost: new Promise(() => {}) } as unknown as GPUDevice;
  const has = (subgroupMatrixConfigs: readonly object[]): boolean =>
    gpuFromDevice(device, { subgroupMinSize: 32, subgroupMaxSize: 32, subgroupMatrixConfigs } as unknown as GPUAdapterInfo).features[
      feature
    ];
  expect(has([config])).toBe(true);
  expect(
    [{ N: 16 }, { M: 8 }, { K: 8 }, { resultComponentType: 'f16' }, { componentType: 'u8' }].map((other) => has([{ ...config, ...other }])),
  ).toEqual(Array(5).fill(false));
});

describe('the WGSL', () => {
  const device = useNullDevice();

  it.each(halves)('compiles in all tiles, in %s', async (dtype) => {
    for (const [headDim, groupSize] of shapes) {
      for (const tile of tilesFor(headDim, dtype, groupSize)) {
        const label = JSON.stringify({ headDim, ...tile });
        expect(await complaintsOf(device(), textOf(tile, headDim, dtype, groupSize)), label).toEqual([]);
        if (kvFormats[dtype].largest > 0) expect(await complaintsOf(device(), textOf(tile, headDim, dtype, 12, false)), label).toEqual([]);
      }
    }
    expect(await complaintsOf(device(), 'fn main() { let a: u32 = 1.5; }')).not.toEqual([]);
  });

  it('makes a pipeline where workgroup memory is the smallest', async () => {
    const [tile] = tilesFor(128, 'int8', 8, { memory: 16384 });
    const module = device().createShaderModule({ code: textOf(tile!, 128, 'int8', 8) });
    const compute = { module, entryPoint: 'main', constants: { blockSize: 16, numKvHeads: 2 } };
    await expect(device().createComputePipelineAsync({ layout: 'auto', compute })).resolves.toBeDefined();
  });
});

describe('a decode kernel that does not compile', () => {
  const shape = { ...layoutOf(64), numHeads: 16 };
  const plainDecode = chooseKernels({ ...gpuWith({}), subgroupMinSize: 32 }, shape).decode as DecodeTile;
  const barrierDecode = chooseKernels(gpuWith({}), shape).decode as DecodeTile;
  const [decode] = tilesFor(64, 'f16', 8);

  /** What becomes of a layer where some kernels do not compile. */
  async function attendWithout(failing: readonly string[], first: DecodeTile | MatrixDecodeTile) {
    const recorded: string[] = [];
    const fallbacks: string[] = [];
    const cache = {
      async prepare({ name }: Kernel) {
        if (failing.includes(name)) throw new KernelCompileError(name, 'no such type', '');
        return { record: () => void recorded.push(name) };
      },
      reportFallback: (kernel: string) => void fallbacks.push(kernel),
    } as unknown as LaunchCache;
    const attend = decodeBy(cache, { decode: first, plainDecode, barrierDecode } as KernelChoice);
    expect(attend.tile).toBe(first);
    const layer = await attend.prepare(poolKernelsFor(1), {} as AttendArguments);
    layer.record({} as GPUComputePassEncoder, 1);
    return { tile: attend.tile, fallbacks, recorded };
  }

  it('gives way to the next: by matrices, by subgroups, by barriers', async () => {
    expect([plainDecode.subgroups, barrierDecode.subgroups]).toEqual([true, false]);
    const [byMatrices, bySubgroups] = ['decode by matrices', 'decode by subgroups'];
    expect(await attendWithout([byMatrices], decode)).toEqual({ tile: plainDecode, fallbacks: [byMatrices], recorded: [bySubgroups] });
    const both = { tile: barrierDecode, fallbacks: [byMatrices, bySubgroups], recorded: ['decode'] };
    expect(await attendWithout([byMatrices, bySubgroups], decode)).toEqual(both);
    expect(await attendWithout([bySubgroups], plainDecode)).toEqual({ ...both, fallbacks: [bySubgroups] });
    await expect(attendWithout([byMatrices, bySubgroups, 'decode'], decode)).rejects.toThrow(KernelCompileError);
  });
});
