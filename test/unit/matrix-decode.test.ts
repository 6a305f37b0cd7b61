/** Decode by matrices without a GPU that has them: when it is chosen, that its WGSL compiles, and what happens where it does not. */
import { describe, expect, it } from 'vitest';
import { type AttendArguments, decodeBy } from '../../src/attention/attend.ts';
import { matrixDecodeKernel, poolKernelsFor } from '../../src/attention/kernels.ts';
import { type KvDtype, kvDtypes, kvFormats } from '../../src/attention/layout.ts';
import { isMatrixTile, type MatrixDecodeTile, matrixDecodeMemory, matrixDecodeTileSpace } from '../../src/attention/tiles/matrix.ts';
import { chooseKernels, type KernelChoice, tileSpace } from '../../src/attention/tuned.ts';
import { KernelCompileError } from '../../src/errors.ts';
import { gpuFromDevice } from '../../src/gpu.ts';
import type { LaunchCache } from '../../src/launch/cache.ts';
import { joinSource, type Kernel } from '../../src/launch/kernel.ts';
import { gpuWith } from './fake-gpu.ts';
import { complaintsOf, useNullDevice } from './null-device.ts';
import { workgroupMemory } from './workgroup-memory.ts';

const layoutOf = (headDim: number, dtype: KvDtype = 'f16') => ({ blockSize: 16, numKvHeads: 2, headDim, dtype });

const kernel = matrixDecodeKernel as unknown as Kernel;

function textOf(tile: MatrixDecodeTile, headDim: number, dtype: KvDtype, groupSize: number, tokenScales = true): string {
  const isQuantised = kvFormats[dtype].largest > 0;
  return joinSource(kernel, {
    ...{ headDim, kvDtype: kvFormats[dtype].code, tokenScales: String(isQuantised && tokenScales), loadWords: 4, blocksPerBuffer: 1000 },
    ...{ blockSize: 16, numKvHeads: 2, numHeads: 2 * groupSize, groupSize, ...tile },
  });
}

const halves = kvDtypes.filter((dtype) => dtype !== 'f32');

describe('the tiles by matrices', () => {
  it('fit into what they say, and that into the memory', () => {
    for (const dtype of halves) {
      for (const headDim of [64, 128]) {
        for (const memory of [16384, 32768]) {
          const space = matrixDecodeTileSpace(layoutOf(headDim, dtype), 7, memory, 256);
          expect(space.length, `${dtype}, headDim ${headDim}, ${memory} bytes`).toBeGreaterThan(0);
          for (const tile of space) {
            const label = JSON.stringify({ dtype, headDim, ...tile });
            expect(workgroupMemory(textOf(tile, headDim, dtype, 7)), label).toBe(matrixDecodeMemory(tile));
            expect(matrixDecodeMemory(tile), label).toBeLessThanOrEqual(memory);
          }
        }
      }
    }
  });

  it('are of up to eight heads, and none where others are as good or precision would be lost', () => {
    const headsOf = (groupSize: number) => matrixDecodeTileSpace(layoutOf(128), groupSize, 16384, 256).map(({ headTile }) => headTile);
    expect([5, 8, 12].map((groupSize) => headsOf(groupSize)[0])).toEqual([5, 8, 8]);
    expect(headsOf(4)).toEqual([]);
    expect(matrixDecodeTileSpace(layoutOf(64, 'f32'), 8, 49152, 256)).toEqual([]);
    for (const headDim of [32, 80, 96, 256]) expect(matrixDecodeTileSpace(layoutOf(headDim), 8, 49152, 256)).toEqual([]);
    expect(matrixDecodeTileSpace(layoutOf(64), 8, 49152, 64)).toEqual([]);
    expect(matrixDecodeTileSpace(layoutOf(64), 8, 4096, 256)).toEqual([]);
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

it('needs a product of 16 x 16 by 16 x 8 into f32', () => {
  const config = { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 8, K: 16 };
  const features = new Set(['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix']);
  const device = { features, limits: {}, lost: new Promise(() => {}) } as unknown as GPUDevice;
  const has = (subgroupMatrixConfigs: readonly object[]): boolean =>
    gpuFromDevice(device, { subgroupMinSize: 32, subgroupMaxSize: 32, subgroupMatrixConfigs } as unknown as GPUAdapterInfo).features
      .narrowMatrices;
  expect(has([config])).toBe(true);
  expect([{ N: 16 }, { M: 8 }, { K: 8 }, { resultComponentType: 'f16' }].map((other) => has([{ ...config, ...other }]))).toEqual(
    Array(4).fill(false),
  );
});

describe('the WGSL', () => {
  const device = useNullDevice();

  it.each(halves)('compiles in all tiles, in %s', async (dtype) => {
    for (const headDim of [64, 128]) {
      for (const tile of matrixDecodeTileSpace(layoutOf(headDim, dtype), 7, 49152, 256)) {
        const label = JSON.stringify({ headDim, ...tile });
        expect(await complaintsOf(device(), textOf(tile, headDim, dtype, 7)), label).toEqual([]);
        if (kvFormats[dtype].largest > 0) expect(await complaintsOf(device(), textOf(tile, headDim, dtype, 12, false)), label).toEqual([]);
      }
    }
    expect(await complaintsOf(device(), 'fn main() { let a: u32 = 1.5; }')).not.toEqual([]);
  });

  it('makes a pipeline where workgroup memory is the smallest', async () => {
    const [tile] = matrixDecodeTileSpace(layoutOf(128, 'int8'), 8, 16384, 256);
    const module = device().createShaderModule({ code: textOf(tile!, 128, 'int8', 8) });
    const compute = { module, entryPoint: 'main', constants: { blockSize: 16, numKvHeads: 2 } };
    await expect(device().createComputePipelineAsync({ layout: 'auto', compute })).resolves.toBeDefined();
  });
});

it('gives way to the plain kernel where it does not compile', async () => {
  const plainDecode = chooseKernels(gpuWith({}), { ...layoutOf(64), numHeads: 16 }).decode;
  const [decode] = matrixDecodeTileSpace(layoutOf(64), 8, 16384, 256);
  const recorded: string[] = [];
  const fallbacks: string[] = [];
  const cache = {
    async prepare({ name }: Kernel) {
      if (name === 'decode by matrices') throw new KernelCompileError(name, 'no such type', '');
      return { record: () => void recorded.push(name) };
    },
    reportFallback: (kernel: string) => void fallbacks.push(kernel),
  } as unknown as LaunchCache;
  const attend = decodeBy(cache, { decode, plainDecode } as KernelChoice);
  expect(attend.tile).toBe(decode);
  const layer = await attend.prepare(poolKernelsFor(1), {} as AttendArguments);
  layer.record({} as GPUComputePassEncoder, 1);
  expect([attend.tile, fallbacks, recorded]).toEqual([plainDecode, ['decode by matrices'], ['decode']]);
});
