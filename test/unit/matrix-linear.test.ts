/** Products by subgroup matrices without a GPU that has them: when they are chosen, that the WGSL compiles, and what happens where it does not. */
import { describe, expect, it } from 'vitest';
import { isMatrixTile } from '../../src/attention/tiles/matrix.ts';
import { chooseKernels } from '../../src/attention/tuned.ts';
import { matmulMatrixKernel, weightDtypeCodes } from '../../src/engine/kernels.ts';
import { chooseProducts, type LinearArguments, prepareLinear } from '../../src/engine/linear.ts';
import { subgroupMemory, subgroupTiles } from '../../src/engine/tiles.ts';
import { KernelCompileError } from '../../src/errors.ts';
import type { Gpu } from '../../src/gpu.ts';
import type { LaunchCache } from '../../src/launch/cache.ts';
import { joinSource, type Kernel } from '../../src/launch/kernel.ts';
import { gpuWith } from './fake-gpu.ts';
import { complaintsOf, useNullDevice } from './null-device.ts';

const withMatrices = gpuWith({ subgroupMatrices: true });
const without = gpuWith({});
const product = (dtype: keyof typeof weightDtypeCodes) => ({ inputSize: 2048, outputSize: 2048, weightDtype: weightDtypeCodes[dtype] });

describe('matrices', () => {
  const serve = (gpu: Gpu, dtype: keyof typeof weightDtypeCodes, subgroupMatrices?: boolean) =>
    chooseProducts(gpu, product(dtype), 512, subgroupMatrices).some(({ kernel }) => kernel === 'matmul by matrices');

  it('serve weights of 16 bits, where the device has them', () => {
    expect([serve(withMatrices, 'f16'), serve(withMatrices, 'bf16'), serve(withMatrices, 'f32')]).toEqual([true, true, false]);
    expect([serve(without, 'f16'), serve(without, 'bf16')]).toEqual([false, false]);
  });

  it('serve neither products nor prefill where the caller does without', () => {
    expect(serve(withMatrices, 'f16', false)).toBe(false);
    expect(chooseProducts(withMatrices, product('f16'), 512, false)).toEqual(chooseProducts(without, product('f16'), 512));
    const shape = { blockSize: 16, numKvHeads: 2, numHeads: 8, headDim: 64, dtype: 'f16' } as const;
    const prefills = [true, false].map((subgroupMatrices) =>
      isMatrixTile(chooseKernels(withMatrices, shape, { subgroupMatrices }).prefill),
    );
    expect(prefills).toEqual([true, false]);
  });

  it('are left out where no step has rows enough', () => {
    expect(chooseProducts(withMatrices, product('f16'), 8)).toEqual(chooseProducts(without, product('f16'), 8));
  });
});

describe('the WGSL', () => {
  const device = useNullDevice();

  const textOf = (tile: (typeof subgroupTiles)[number]) => joinSource(matmulMatrixKernel as unknown as Kernel, { ...tile });

  it.each(subgroupTiles.map((tile) => [Object.values(tile).join(' '), tile] as const))('compiles in the tile %s', async (_, tile) => {
    expect(await complaintsOf(device(), textOf(tile))).toEqual([]);
  });

  it.each([false, true])('makes a pipeline, with all options %s', async (on) => {
    const options = { normalized: on, swiglu: on, accumulate: on, gathered: on, biased: on };
    const constants = Object.fromEntries(Object.entries(options).map(([name, value]) => [name, Number(value)]));
    const module = device().createShaderModule({ code: textOf(subgroupTiles.find((tile) => subgroupMemory(tile) <= 16384)!) });
    const compute = { module, entryPoint: 'main', constants: { ...constants, weightDtype: on ? 2 : 1 } };
    await expect(device().createComputePipelineAsync({ layout: 'auto', compute })).resolves.toBeDefined();
  });
});

describe('a product whose kernel by matrices does not compile', () => {
  const pass = {} as GPUComputePassEncoder;
  const args = { ...product('f16'), inputSize: 64 } as LinearArguments;

  /** A cache that notes what is recorded, and in which some kernels do not compile. */
  function fakeCache(error: (kernel: string) => Error | undefined) {
    const recorded: (readonly [kernel: string, numRows: number])[] = [];
    const fallbacks: string[] = [];
    const cache = {
      gpu: withMatrices,
      async prepare({ name }: Kernel) {
        const reason = error(name);
        if (reason) throw reason;
        return { record: (_: unknown, { numRows }: { numRows: number }) => void recorded.push([name, numRows]) };
      },
      reportFallback: (kernel: string) => void fallbacks.push(kernel),
    };
    return { cache: cache as unknown as LaunchCache, recorded, fallbacks };
  }
  const failing = (failed: string) => (kernel: string) =>
    kernel === failed ? new KernelCompileError(kernel, 'no such type', '') : undefined;

  it('is not missed where it compiles', async () => {
    const { cache, recorded, fallbacks } = fakeCache(() => undefined);
    const linear = await prepareLinear(cache, args, 512);
    for (const rows of [1, 24, 49, 512]) linear.record(pass, rows);
    expect(recorded.map(([kernel]) => kernel)).toEqual(['matvec', 'matvec', 'matmul by matrices', 'matmul by matrices']);
    expect(fallbacks).toEqual([]);
  });

  it('is computed by the plain kernels, and whoever listens is told', async () => {
    const { cache, recorded, fallbacks } = fakeCache(failing('matmul by matrices'));
    const linear = await prepareLinear(cache, args, 512);
    const told: string[] = [];
    await prepareLinear(cache, args, 512, { onFallback: (kernel) => void told.push(kernel) });
    for (const rows of [16, 512]) linear.record(pass, rows);
    expect(recorded).toEqual([
      ['matvec', 16],
      ['matmul', 512],
    ]);
    expect([fallbacks, told]).toEqual([['matmul by matrices'], ['matmul by matrices']]);
  });

  it('is no excuse where a plain one does not compile, and none for other failures', async () => {
    await expect(prepareLinear(fakeCache(failing('matvec')).cache, args, 512)).rejects.toThrow(KernelCompileError);
    const { cache, fallbacks } = fakeCache((kernel) => (kernel === 'matmul by matrices' ? new RangeError('lost') : undefined));
    await expect(prepareLinear(cache, args, 512)).rejects.toThrow(RangeError);
    expect(fallbacks).toEqual([]);
  });
});
