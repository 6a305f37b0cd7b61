import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentDeclarations, ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import { directKernel, type linearArguments, matmulKernel, matvecKernel } from './kernels.ts';
import { type Product, productsFor } from './tiles.ts';

/** What every matrix product takes. `numRows` is the launch's own. */
export type LinearArguments = ArgumentsOf<typeof linearArguments>;

/** A matrix product with its operands, for any number of input rows that it was prepared for. */
export interface Linear {
  record(pass: GPUComputePassEncoder, numRows: number): void;
}

/**
 * The product at one place in a program: the kernels for it, chosen by the adapter and, at each launch, by the number of input rows.
 * @param maxRows most input rows; kernels for more are not compiled
 */
export async function prepareLinear(cache: LaunchCache, args: LinearArguments, maxRows: number): Promise<Linear> {
  const { adapter, limits } = cache.gpu;
  if (adapter.software) return prepareDirect(cache, args);
  const products = productsFor(args.outputSize, maxRows, limits.maxComputeWorkgroupStorageSize);
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

/** One kernel for any number of rows. */
export async function prepareProduct(cache: LaunchCache, { kernel, tile }: Product, args: LinearArguments): Promise<Linear> {
  // Each site compares its keys with its own last ones: a site for each tile never has to look for a variant.
  if (kernel === 'matvec') {
    const own = { ...args, ...tile };
    return recorder(await cache.prepare(matvecKernel, own), own);
  }
  const own = { ...args, ...tile };
  return recorder(await cache.prepare(matmulKernel, own), own);
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
