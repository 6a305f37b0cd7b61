import { KernelCompileError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import type { PoolKernels } from './kernels.ts';
import type { KernelChoice } from './tuned.ts';
import { isMatrixTile, type PrefillTile } from './tuning.ts';

type PlainArguments = PoolKernels['prefill']['arguments'];
type MatrixArguments = PoolKernels['matrixPrefill']['arguments'];
type TileNames = 'headTile' | 'rowTile' | 'keyTile' | 'rowsPerThread' | 'keysPerThread';

/** What a layer attends with, whatever the kernel. */
export type AttendArguments = Omit<ArgumentsOf<PlainArguments>, TileNames>;

/** The prefill launch of a layer. */
export interface PrefillLaunch {
  record(pass: GPUComputePassEncoder, numItems: number): void;
  /** Changes per-call values. */
  set(values: Readonly<Record<string, number>>): void;
}

/**
 * The prefill kernel of all layers: by matrices, if that was chosen, until one does not compile; then the plain one. As the plan has work items
 * of one size, all layers change over together.
 */
export class Prefill {
  readonly #cache: LaunchCache;
  readonly #choice: KernelChoice;
  readonly #layers: LayerPrefill[] = [];
  #byMatrices: boolean;

  constructor(cache: LaunchCache, choice: KernelChoice) {
    this.#cache = cache;
    this.#choice = choice;
    this.#byMatrices = isMatrixTile(choice.prefill);
  }

  /** Query tokens of one work item; settled when all layers are prepared. */
  get tokens(): number {
    return (this.#byMatrices ? this.#choice.prefill : plainTile(this.#choice)).tokens;
  }

  /** @throws {KernelCompileError} when the plain kernel does not compile: a modification of the caller's does not. */
  async prepare(kernels: PoolKernels, args: AttendArguments): Promise<PrefillLaunch> {
    const layer = new LayerPrefill(this.#cache, kernels, this.#choice, args);
    if (this.#byMatrices) {
      try {
        await layer.useMatrices();
      } catch (error) {
        if (!(error instanceof KernelCompileError)) throw error;
        await layer.usePlain();
        await this.#fallBack(kernels.matrixPrefill.name, error);
      }
    }
    this.#layers.push(layer);
    if (!this.#byMatrices) await layer.usePlain();
    return layer;
  }

  async #fallBack(kernel: string, reason: KernelCompileError): Promise<void> {
    if (!this.#byMatrices) return;
    this.#byMatrices = false;
    this.#cache.reportFallback(kernel, reason);
    await Promise.all(this.#layers.map((layer) => layer.usePlain()));
  }
}

function plainTile({ prefill, plainPrefill }: KernelChoice): PrefillTile {
  return isMatrixTile(prefill) ? plainPrefill : prefill;
}

class LayerPrefill implements PrefillLaunch {
  readonly #cache: LaunchCache;
  readonly #kernels: PoolKernels;
  readonly #choice: KernelChoice;
  readonly #values: AttendArguments;
  #plain: { readonly site: LaunchSite<PlainArguments>; readonly args: ArgumentsOf<PlainArguments> } | undefined;
  #matrices: { readonly site: LaunchSite<MatrixArguments>; readonly args: ArgumentsOf<MatrixArguments> } | undefined;

  constructor(cache: LaunchCache, kernels: PoolKernels, choice: KernelChoice, values: AttendArguments) {
    this.#cache = cache;
    this.#kernels = kernels;
    this.#choice = choice;
    this.#values = { ...values };
  }

  async usePlain(): Promise<void> {
    if (this.#plain) return;
    const { tokens: _, ...tile } = plainTile(this.#choice);
    const args = { ...this.#values, ...tile };
    this.#plain = { site: await this.#cache.prepare(this.#kernels.prefill, args), args };
    this.#matrices = undefined;
  }

  async useMatrices(): Promise<void> {
    if (!isMatrixTile(this.#choice.prefill)) return;
    const { tokens: _, sharedStage, ...tile } = this.#choice.prefill;
    const args = { ...this.#values, ...tile, sharedStage: String(sharedStage) };
    this.#matrices = { site: await this.#cache.prepare(this.#kernels.matrixPrefill, args), args };
  }

  record(pass: GPUComputePassEncoder, numItems: number): void {
    if (this.#matrices) {
      this.#matrices.args.numItems = numItems;
      this.#matrices.site.record(pass, this.#matrices.args);
    } else if (this.#plain) {
      this.#plain.args.numItems = numItems;
      this.#plain.site.record(pass, this.#plain.args);
    }
  }

  set(values: Readonly<Record<string, number>>): void {
    for (const args of [this.#values, this.#plain?.args, this.#matrices?.args]) if (args) Object.assign(args, values);
  }
}
