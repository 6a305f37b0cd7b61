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
 * The kernel of all layers: the first of several, until it does not compile for a layer, as one by matrices or subgroups may; then the next. As the
 * plan has work items of one size, all layers change over together.
 */
export class Attend<T> {
  readonly #cache: LaunchCache;
  readonly #variants: readonly Variant<T>[];
  readonly #layers: LayerAttend<T>[] = [];
  #chosen = 0;

  constructor(cache: LaunchCache, variants: readonly Variant<T>[]) {
    this.#cache = cache;
    this.#variants = variants;
  }

  /** Settled when all layers are prepared. */
  get tile(): T {
    return this.#variants[this.#chosen].tile;
  }

  /** @throws {KernelCompileError} when no kernel compiles: a modification of the caller's does not. */
  async prepare(kernels: PoolKernels, args: AttendArguments): Promise<AttendLaunch> {
    const layer = new LayerAttend<T>(this.#cache, kernels, args);
    const failures = new Map<number, KernelCompileError>();
    await this.#fallBack(await this.#useFirst(layer, this.#chosen, failures), failures);
    this.#layers.push(layer);
    await layer.use(this.#variants[this.#chosen]);
    return layer;
  }

  /** @returns which variant, from `i` on, is the first that compiles for a layer; `failures` has why those before do not */
  async #useFirst(layer: LayerAttend<T>, i: number, failures: Map<number, KernelCompileError>): Promise<number> {
    try {
      await layer.use(this.#variants[i]);
      return i;
    } catch (error) {
      if (i + 1 === this.#variants.length || !(error instanceof KernelCompileError)) throw error;
      failures.set(i, error);
      return this.#useFirst(layer, i + 1, failures);
    }
  }

  async #fallBack(to: number, failures: ReadonlyMap<number, KernelCompileError>): Promise<void> {
    if (to <= this.#chosen) return;
    for (const [i, reason] of failures) if (i >= this.#chosen) this.#cache.reportFallback(reason.kernel, reason);
    this.#chosen = to;
    await Promise.all(this.#layers.map((layer) => layer.use(this.#variants[to])));
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
  const tiles = isMatrixTile(prefill) ? [prefill, plainPrefill] : [prefill];
  return new Attend(cache, tiles.map(prefillVariant));
}

/** Attention of single tokens as it was chosen: by matrices, else by subgroups, else by barriers. */
export function decodeBy(cache: LaunchCache, { decode, plainDecode, barrierDecode }: KernelChoice): Attend<DecodeTile | MatrixDecodeTile> {
  const plain = isMatrixTile(decode) ? plainDecode : decode;
  const tiles = new Set([decode, plain, plain.subgroups ? barrierDecode : plain]);
  return new Attend(cache, [...tiles].map(decodeVariant));
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
