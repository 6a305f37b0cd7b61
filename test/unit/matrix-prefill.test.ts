/** Prefill by matrices without a GPU that has them: when it is chosen, that its WGSL compiles, and what happens where it does not. */
import { describe, expect, it } from 'vitest';
import { type AttendArguments, prefillBy } from '../../src/attention/attend.ts';
import { matrixPrefillKernel, type PoolKernels, poolKernelsFor } from '../../src/attention/kernels.ts';
import { type KvDtype, kvDtypes, kvFormats } from '../../src/attention/layout.ts';
import { isMatrixTile, type MatrixPrefillTile, matrixPrefillMemory, matrixPrefillTileSpace } from '../../src/attention/tiles/matrix.ts';
import { choosePrefillTile } from '../../src/attention/tiles/prefill.ts';
import { chooseKernels, type KernelChoice, tileSpace } from '../../src/attention/tuned.ts';
import { KernelCompileError } from '../../src/errors.ts';
import { gpuFromDevice } from '../../src/gpu.ts';
import type { LaunchCache } from '../../src/launch/cache.ts';
import { joinSource, type Kernel } from '../../src/launch/kernel.ts';
import { gpuWith } from './fake-gpu.ts';
import { complaintsOf, useNullDevice } from './null-device.ts';
import { workgroupMemory } from './workgroup-memory.ts';

const layoutOf = (headDim: number, dtype: KvDtype = 'f16') => ({ blockSize: 16, numKvHeads: 2, headDim, dtype });

const kernel = matrixPrefillKernel as unknown as Kernel;
/** Its declarations are the same, and are had sooner. */
const loopsLeft: Kernel = { ...kernel, unroll: undefined };

function textOf({ tokens: _, ...tile }: MatrixPrefillTile, headDim: number, dtype: KvDtype, groupSize: number, of = kernel): string {
  const isQuantised = kvFormats[dtype].largest > 0;
  return joinSource(of, {
    ...{ headDim, kvDtype: kvFormats[dtype].code, tokenScales: String(isQuantised), loadWords: 4, blocksPerBuffer: 1000 },
    ...{ blockSize: 16, numKvHeads: 2, numHeads: 2 * groupSize, groupSize, ...tile, sharedStage: String(tile.sharedStage) },
  });
}

describe('the tiles by matrices', () => {
  it('fit into what they say, and that into the memory', () => {
    for (const headDim of [16, 32, 64, 80, 96, 112, 128]) {
      for (const groupSize of [1, 4, 5, 7, 64]) {
        for (const memory of [16384, 32768, 49152]) {
          const space = matrixPrefillTileSpace(layoutOf(headDim), groupSize, memory, 256);
          expect(space.length, `headDim ${headDim}, ${memory} bytes`).toBeGreaterThan(0);
          for (const tile of space) {
            const label = JSON.stringify({ headDim, ...tile });
            const said = matrixPrefillMemory(tile, headDim);
            expect(workgroupMemory(textOf(tile, headDim, 'f16', groupSize, loopsLeft)), label).toBeLessThanOrEqual(said);
            expect(said, label).toBeLessThanOrEqual(memory);
            expect(tile.tokens * tile.headTile, label).toBeLessThanOrEqual((tile.subgroupCount / tile.columnGroups) * tile.rowBlocks * 16);
          }
        }
      }
    }
  });

  it('are none where precision would be lost, rows do not fit registers, or workgroups are small', () => {
    expect(matrixPrefillTileSpace(layoutOf(64, 'f32'), 4, 49152, 256)).toEqual([]);
    expect(matrixPrefillTileSpace(layoutOf(72), 4, 49152, 256)).toEqual([]);
    expect(matrixPrefillTileSpace(layoutOf(256), 4, 49152, 256)).toEqual([]);
    expect(matrixPrefillTileSpace(layoutOf(64), 4, 49152, 64)).toEqual([]);
    expect(matrixPrefillTileSpace(layoutOf(64), 4, 4096, 256)).toEqual([]);
  });

  it('come first where the device has subgroup matrices, and only there', () => {
    const shape = { ...layoutOf(64), numHeads: 8 };
    const [without, withMatrices] = [gpuWith({}), gpuWith({ subgroupMatrices: true })];
    expect(tileSpace(without, shape).prefill.some(isMatrixTile)).toBe(false);
    const { prefill, plainPrefill } = chooseKernels(withMatrices, shape);
    expect([isMatrixTile(prefill), isMatrixTile(plainPrefill)]).toEqual([true, false]);
    expect(plainPrefill).toEqual(chooseKernels(without, shape).prefill);
    expect(isMatrixTile(chooseKernels(withMatrices, shape, { maxInvocations: 64 }).prefill)).toBe(false);
  });
});

describe('the feature', () => {
  const config = { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 16, K: 16 };
  const has = (features: readonly string[], info: object): boolean => {
    const device = { features: new Set(features), limits: {}, lost: new Promise(() => {}) };
    return gpuFromDevice(device as unknown as GPUDevice, info as GPUAdapterInfo).features.subgroupMatrices;
  };
  const all = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];
  const info = { subgroupMinSize: 32, subgroupMaxSize: 32, subgroupMatrixConfigs: [{ ...config, N: 8 }, config] };

  it('needs f16, subgroups of 32 and a product of 16 x 16 x 16 into f32', () => {
    expect(has(all, info)).toBe(true);
    for (const missing of all)
      expect(
        has(
          all.filter((name) => name !== missing),
          info,
        ),
        missing,
      ).toBe(false);
    expect(has(all, { ...info, subgroupMinSize: 16 })).toBe(false);
    expect(has(all, { ...info, subgroupMatrixConfigs: undefined })).toBe(false);
    for (const other of [{ N: 8 }, { componentType: 'u8' }, { resultComponentType: 'f16' }])
      expect(has(all, { ...info, subgroupMatrixConfigs: [{ ...config, ...other }] }), JSON.stringify(other)).toBe(false);
  });
});

describe('the WGSL', () => {
  const device = useNullDevice();

  const complaints = (code: string) => complaintsOf(device(), code);

  it.each(kvDtypes.filter((dtype) => dtype !== 'f32'))('compiles in all tiles, in %s', async (dtype) => {
    for (const [headDim, groupSize] of [
      [128, 4],
      [80, 5],
    ] as const) {
      for (const tile of matrixPrefillTileSpace(layoutOf(headDim, dtype), groupSize, 49152, 256))
        expect(await complaints(textOf(tile, headDim, dtype, groupSize)), JSON.stringify(tile)).toEqual([]);
    }
    expect(await complaints('fn main() { let a: u32 = 1.5; }')).not.toEqual([]);
  });

  it('makes a pipeline where workgroup memory is the smallest', async () => {
    const [tile] = matrixPrefillTileSpace(layoutOf(64), 4, 16384, 256);
    const module = device().createShaderModule({ code: textOf(tile!, 64, 'f16', 4) });
    const compute = { module, entryPoint: 'main', constants: { blockSize: 16, numKvHeads: 2 } };
    await expect(device().createComputePipelineAsync({ layout: 'auto', compute })).resolves.toBeDefined();
  });
});

describe('a kernel by matrices that does not compile', () => {
  const plain = choosePrefillTile(layoutOf(64), 4, 49152, 256)!;
  const [matrixTile] = matrixPrefillTileSpace(layoutOf(64), 4, 49152, 256);
  const choice = { prefill: matrixTile!, plainPrefill: plain } as KernelChoice;
  const args = { scale: 1 } as unknown as AttendArguments;
  const pass = {} as GPUComputePassEncoder;

  /** A cache that notes what is prepared and recorded, and in which some kernels do not compile. */
  function fakeCache(failing: (kernel: unknown) => boolean) {
    const recorded: { readonly kernel: string; readonly scale: number; readonly numItems: number }[] = [];
    const fallbacks: string[] = [];
    const cache = {
      async prepare(kernel: Kernel) {
        if (failing(kernel)) throw new KernelCompileError(kernel.name, 'no such type', '');
        return {
          record: (_: unknown, { scale, numItems }: { scale: number; numItems: number }) =>
            void recorded.push({ kernel: kernel.name, scale, numItems }),
        };
      },
      reportFallback: (kernel: string) => void fallbacks.push(kernel),
    };
    return { cache: cache as unknown as LaunchCache, recorded, fallbacks };
  }
  const kernels = poolKernelsFor(1);
  const other: PoolKernels = { ...kernels, matrixPrefill: { ...kernels.matrixPrefill } };

  it('is not missed where it compiles', async () => {
    const { cache, recorded, fallbacks } = fakeCache(() => false);
    const prefill = prefillBy(cache, choice);
    (await prefill.prepare(kernels, args)).record(pass, 3);
    expect([prefill.tile.tokens, fallbacks]).toEqual([matrixTile!.tokens, []]);
    expect(recorded).toEqual([{ kernel: 'prefill by matrices', scale: 1, numItems: 3 }]);
  });

  it('gives way to the plain one in every layer, before and after, and is told of once', async () => {
    const { cache, recorded, fallbacks } = fakeCache((kernel) => kernel === other.matrixPrefill);
    const prefill = prefillBy(cache, choice);
    const first = await prefill.prepare(kernels, args);
    first.set({ scale: 2 });
    const [second, third] = await Promise.all([prefill.prepare(other, args), prefill.prepare(kernels, args)]);
    const fourth = await prefill.prepare(other, args);
    for (const [i, layer] of [first, second, third, fourth].entries()) layer.record(pass, i);
    expect([prefill.tile.tokens, fallbacks]).toEqual([plain.tokens, ['prefill by matrices']]);
    expect(recorded).toEqual([2, 1, 1, 1].map((scale, numItems) => ({ kernel: 'prefill', scale, numItems })));
  });

  it('is no excuse where the plain one does not compile either', async () => {
    const { cache, fallbacks } = fakeCache(() => true);
    const prefill = prefillBy(cache, choice);
    await expect(prefill.prepare(kernels, args)).rejects.toThrow(KernelCompileError);
    expect([prefill.tile.tokens, fallbacks]).toEqual([matrixTile!.tokens, []]);
  });

  it('leaves other failures to the caller', async () => {
    const cache = { prepare: () => Promise.reject(new RangeError('lost')) } as unknown as LaunchCache;
    await expect(prefillBy(cache, choice).prepare(kernels, args)).rejects.toThrow(RangeError);
  });
});
