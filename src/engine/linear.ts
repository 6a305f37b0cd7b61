import { KernelCompileError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentDeclarations, ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import { directKernel, type linearArguments, matmulKernel, matmulMatrixKernel, matvecKernel, weightDtypeCodes } from './kernels.ts';
import { type Product, type ProductFrom, productsFor } from './tiles.ts';

/** What every matrix product takes. `numRows` is the launch's own. */
export type LinearArguments = ArgumentsOf<typeof linearArguments>;

/** A matrix product with its operands, for any number of input rows that it was prepared for. */
export interface Linear {
  record(pass: GPUComputePassEncoder, numRows: number): void;
}

export interface LinearOptions {
  /** Multiply 16-bit weights by subgroup matrices where the device has them and there are rows for it, inputs rounded to f16; default true. */
  readonly subgroupMatrices?: boolean;
  /** Hears of a kernel by matrices that does not compile, so that the plain ones took its place; default: the launch cache's `onEvent`. */
  readonly onFallback?: (kernel: string, reason: KernelCompileError) => void;
}

/** The kernels for a product on a graphics processor, by the number of input rows; see `productsFor`. */
export function chooseProducts(
  { features, limits }: Pick<Gpu, 'features' | 'limits'>,
  { inputSize, outputSize, weightDtype }: Pick<LinearArguments, 'inputSize' | 'outputSize' | 'weightDtype'>,
  maxRows: number,
  subgroupMatrices = true,
): readonly ProductFrom[] {
  // Products of f32 weights are as exact as these are.
  const byMatrices = subgroupMatrices && features.subgroupMatrices && weightDtype !== weightDtypeCodes.f32;
  return productsFor({ inputs: inputSize, outputs: outputSize }, maxRows, limits.maxComputeWorkgroupStorageSize, byMatrices);
}

/**
 * The product at one place in a program: the kernels for it, chosen by the adapter and, at each launch, by the number of input rows.
 * @param maxRows most input rows; kernels for more are not compiled
 * @throws {KernelCompileError} when a plain kernel does not compile
 */
export async function prepareLinear(
  cache: LaunchCache,
  args: LinearArguments,
  maxRows: number,
  { subgroupMatrices = true, onFallback }: LinearOptions = {},
): Promise<Linear> {
  if (cache.gpu.adapter.software) return prepareDirect(cache, args);
  try {
    return await prepareAll(cache, chooseProducts(cache.gpu, args, maxRows, subgroupMatrices), args);
  } catch (error) {
    if (!(error instanceof KernelCompileError) || error.kernel !== matmulMatrixKernel.name) throw error;
    if (onFallback) onFallback(error.kernel, error);
    else cache.reportFallback(error.kernel, error);
    return prepareAll(cache, chooseProducts(cache.gpu, args, maxRows, false), args);
  }
}

async function prepareAll(cache: LaunchCache, products: readonly ProductFrom[], args: LinearArguments): Promise<Linear> {
  const prepared = await Promise.all(
    products.map(async (product) => ({ from: product.from, linear: await prepareProduct(cache, product, args) })),
  );
  return {
    record(pass, numRows) {
      let last = prepared.length - 1;
      while (last > 0 && prepared[last].from > numRows) last--;
      prepared[last].linear.record(pass, numRows);
    },
  };
}

/** One kernel for any number of rows. @param matrices the kernel by matrices; tests have one that runs anywhere */
export async function prepareProduct(
  cache: LaunchCache,
  { kernel, tile }: Product,
  args: LinearArguments,
  matrices = matmulMatrixKernel,
): Promise<Linear> {
  // Each site compares its keys with its own last ones: a site for each tile never has to look for a variant.
  if (kernel === 'matvec') {
    const own = { ...args, ...tile };
    return recorder(await cache.prepare(matvecKernel, own), own);
  }
  if (kernel === 'matmul') {
    const own = { ...args, ...tile };
    return recorder(await cache.prepare(matmulKernel, own), own);
  }
  const own = { ...args, ...tile };
  return recorder(await cache.prepare(matrices, own), own);
}

/** The kernel of adapters that compute on the CPU. */
export async function prepareDirect(cache: LaunchCache, args: LinearArguments): Promise<Linear> {
  const own = { ...args };
  return recorder(await cache.prepare(directKernel, own), own);
}

function recorder<A extends ArgumentDeclarations>(site: LaunchSite<A>, args: ArgumentsOf<A> & { numRows: number }): Linear {
  return {
    record(pass, numRows) {
      args.numRows = numRows;
      site.record(pass, args);
    },
  };
}
