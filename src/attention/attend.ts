import { KernelCompileError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentDeclarations, ArgumentsOf, Kernel } from '../launch/kernel.ts';
import type { PoolKernels } from './kernels.ts';
import { type DecodeTile, tileSizes } from './tiles/decode.ts';
import { isMatrixTile, type MatrixDecodeTile, type MatrixPrefillTile } from './tiles/matrix.ts';
import type { PrefillTile } from './tiles/prefill.ts';
import type { KernelChoice } from './tuned.ts';

type PrefillArguments = PoolKernels['prefill']['arguments'];
type TileNames = 'headTile' | 'rowTile' | 'keyTile' | 'rowsPerThread' | 'keysPerThread';

/** What a layer attends with, whatever the kernel. */
export type AttendArguments = Omit<ArgumentsOf<PrefillArguments>, TileNames>;

/** The launch of a layer. */
export interface AttendLaunch {
  record(pass: GPUComputePassEncoder, numItems: number): void;
  /** Changes per-call values. */
  set(values: Readonly<Record<string, number>>): void;
}

/** A kernel in a tile. */
export interface Variant<T> {
  readonly tile: T;
  prepare(cache: LaunchCache, kernels: PoolKernels, values: AttendArguments): Promise<AttendLaunch>;
}

/**
 * The kernel of all layers: the one that was chosen until it does not compile for a layer, as one by matrices may; then the plain one. As the plan has
 * work items of one size, all layers change over together.
 */
export class Attend<T> {
  readonly #cache: LaunchCache;
  readonly #plain: Variant<T>;
  readonly #layers: LayerAttend<T>[] = [];
  #variant: Variant<T>;

  constructor(cache: LaunchCache, chosen: Variant<T>, plain: Variant<T>) {
    this.#cache = cache;
    this.#variant = chosen;
    this.#plain = plain;
  }

  /** Settled when all layers are prepared. */
  get tile(): T {
    return this.#variant.tile;
  }

  /** @throws {KernelCompileError} when the plain kernel does not compile: a modification of the caller's does not. */
  async prepare(kernels: PoolKernels, args: AttendArguments): Promise<AttendLaunch> {
    const layer = new LayerAttend<T>(this.#cache, kernels, args);
    const variant = this.#variant;
    try {
      await layer.use(variant);
    } catch (error) {
      if (variant === this.#plain || !(error instanceof KernelCompileError)) throw error;
      await layer.use(this.#plain);
      await this.#fallBack(error);
    }
    this.#layers.push(layer);
    await layer.use(this.#variant);
    return layer;
  }

  async #fallBack(reason: KernelCompileError): Promise<void> {
    if (this.#variant === this.#plain) return;
    this.#variant = this.#plain;
    this.#cache.reportFallback(reason.kernel, reason);
    await Promise.all(this.#layers.map((layer) => layer.use(this.#plain)));
  }
}

class LayerAttend<T> implements AttendLaunch {
  readonly #cache: LaunchCache;
  readonly #kernels: PoolKernels;
  readonly #values: AttendArguments;
  #used: { readonly variant: Variant<T>; readonly launch: AttendLaunch } | undefined;

  constructor(cache: LaunchCache, kernels: PoolKernels, values: AttendArguments) {
    this.#cache = cache;
    this.#kernels = kernels;
    this.#values = { ...values };
  }

  async use(variant: Variant<T>): Promise<void> {
    if (this.#used?.variant === variant) return;
    this.#used = { variant, launch: await variant.prepare(this.#cache, this.#kernels, this.#values) };
  }

  record(pass: GPUComputePassEncoder, numItems: number): void {
    this.#used?.launch.record(pass, numItems);
  }

  set(values: Readonly<Record<string, number>>): void {
    Object.assign(this.#values, values);
    this.#used?.launch.set(values);
  }
}

/** Attention of prompts as it was chosen. */
export function prefillBy(cache: LaunchCache, { prefill, plainPrefill }: KernelChoice): Attend<PrefillTile | MatrixPrefillTile> {
  return attendBy<PrefillTile | MatrixPrefillTile>(cache, prefillVariant, prefill, plainPrefill);
}

/** Attention of single tokens as it was chosen. */
export function decodeBy(cache: LaunchCache, { decode, plainDecode }: KernelChoice): Attend<DecodeTile | MatrixDecodeTile> {
  return attendBy<DecodeTile | MatrixDecodeTile>(cache, decodeVariant, decode, plainDecode);
}

/** @param instead what takes the place of a chosen tile of matrices */
function attendBy<T extends object>(cache: LaunchCache, variantOf: (tile: T) => Variant<T>, chosen: T, instead: T): Attend<T> {
  const variant = variantOf(chosen);
  return new Attend(cache, variant, isMatrixTile(chosen) ? variantOf(instead) : variant);
}

function prefillVariant(tile: PrefillTile | MatrixPrefillTile): Variant<PrefillTile | MatrixPrefillTile> {
  const prepare: Variant<unknown>['prepare'] = (cache, kernels, values) => {
    if (isMatrixTile(tile)) {
      const { tokens: _, sharedStage, ...sizes } = tile;
      return launch(cache, kernels.matrixPrefill, { ...values, ...sizes, sharedStage: String(sharedStage) });
    }
    const { tokens: _, ...sizes } = tile;
    return launch(cache, kernels.prefill, { ...values, ...sizes });
  };
  return { tile, prepare };
}

function decodeVariant(tile: DecodeTile | MatrixDecodeTile): Variant<DecodeTile | MatrixDecodeTile> {
  const prepare: Variant<unknown>['prepare'] = (cache, kernels, values) => {
    if (isMatrixTile(tile)) {
      const { byteKeys, ...sizes } = tile;
      return launch(cache, byteKeys ? kernels.matrixDecodeBytes : kernels.matrixDecode, { ...values, ...sizes });
    }
    return launch(cache, kernels.decode(tile), { ...values, ...tileSizes(tile) });
  };
  return { tile, prepare };
}

async function launch<A extends ArgumentDeclarations>(
  cache: LaunchCache,
  kernel: Kernel<A>,
  args: ArgumentsOf<A> & { numItems: number },
): Promise<AttendLaunch> {
  const site = await cache.prepare(kernel, args);
  return {
    record(pass, numItems) {
      args.numItems = numItems;
      site.record(pass, args);
    },
    set: (values) => void Object.assign(args, values),
  };
}
