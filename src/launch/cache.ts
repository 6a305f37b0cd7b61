import { LaunchCacheDestroyedError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { checkArguments } from './checks.ts';
import { keysOf, type Values } from './entry.ts';
import type { AnyKernel, ArgumentDeclarations, ArgumentsOf, Kernel } from './kernel.ts';
import { describeEntries, type LaunchManifest, readManifest } from './manifest.ts';
import type { LaunchCacheMode, LaunchCacheOptions, LaunchCounts, LaunchStats, MissPolicy } from './options.ts';
import { choosePath } from './self-test.ts';
import { LaunchSite } from './site.ts';
import { isKnown, LaunchState } from './state.ts';

/**
 * Pipelines, bind groups and argument slots of one model session on one device.
 *
 * `prepare` compiles (asynchronously, in parallel, once per variant) and returns a `LaunchSite`; `LaunchSite.record` is the hot path.
 * A cache is the scope of frozen arguments: two models have two caches and cannot meet.
 * Record any number of launches, then `submit` (or `flush` before a submit of your own): their per-call values travel in one write.
 * After the loss of its device a cache holds nothing and refuses everything.
 */
export class LaunchCache {
  readonly gpu: Gpu;
  readonly mode: LaunchCacheMode;
  readonly #state: LaunchState;
  #passThrough: string | undefined;

  /**
   * A cache whose way of passing per-call values was tested and measured on this device: arena or immediates, whichever is faster. Where
   * neither works, the cache stands aside (`stats().passThrough` says why) and launches take the uncached path.
   */
  static async open(gpu: Gpu, options: LaunchCacheOptions = {}): Promise<LaunchCache> {
    const { path, failure } = await choosePath(gpu, (argumentPath) => new LaunchCache(gpu, { argumentPath }));
    const cache = new LaunchCache(gpu, { argumentPath: path, ...options, ...(failure !== undefined && { mode: 'off' }) });
    if (failure !== undefined) {
      cache.#passThrough = failure;
      options.onEvent?.({ type: 'pass-through', reason: failure });
    }
    return cache;
  }

  constructor(gpu: Gpu, options: LaunchCacheOptions = {}) {
    this.#state = new LaunchState(gpu, options);
    this.gpu = gpu;
    this.mode = this.#state.mode;
  }

  /** Of `stats`, the counts alone, which go on counting. */
  get counts(): LaunchCounts {
    return this.#state.counts;
  }

  /**
   * Prepares a place in a program from which `kernel` is launched. The arguments fix its buffers and frozen values; keys, per-call values and
   * swappable buffers may differ at each launch. Concurrent calls that need one variant compile it once.
   *
   * @throws {LaunchArgumentError} for unknown, missing or ill-typed arguments, or a frozen value other than this cache's.
   * @throws {KernelCompileError} when the WGSL does not compile.
   * @throws {DeviceLostError} when the device is gone.
   */
  async prepare<A extends ArgumentDeclarations>(kernel: Kernel<A>, args: ArgumentsOf<A>): Promise<LaunchSite<A>> {
    const state = this.#state;
    state.throwIfFailed();
    const plain = kernel as unknown as Kernel;
    const values = args as Values;
    checkArguments(plain, values);
    state.counts.prepares++;
    const entry = state.entryOf(plain, values);
    entry.sites++; // from the start, so that no concurrent call freezes other values
    try {
      const variant = await state.compile(entry, keysOf(entry.shape, values));
      state.throwIfFailed();
      const site = new LaunchSite<A>(state, entry, variant, values);
      state.counts.sites++;
      return site;
    } catch (error) {
      entry.sites--;
      state.forgetEmpty(entry);
      throw error;
    }
  }

  /**
   * `prepare` with the first of several argument sets that this device can compile, the best one first: tile sizes, mostly.
   * @returns the site and the index of the set that it was made with
   */
  async prepareFitting<A extends ArgumentDeclarations>(
    kernel: Kernel<A>,
    candidates: readonly ArgumentsOf<A>[],
  ): Promise<{ readonly site: LaunchSite<A>; readonly index: number }> {
    for (let index = 0; ; index++) {
      try {
        return { site: await this.prepare(kernel, candidates[index]), index };
      } catch (error) {
        if (index + 1 >= candidates.length || this.#state.failure || this.gpu.loss) throw error;
        this.#state.tell({ type: 'fallback', kernel: kernel.name, index, reason: error });
      }
    }
  }

  /** Tells `onEvent` that a caller took another kernel, because this one does not compile here. */
  reportFallback(kernel: string, reason: unknown): void {
    this.#state.tell({ type: 'fallback', kernel, index: 0, reason });
  }

  /**
   * Compiles, in parallel, what a manifest says was used before; `prepare` then finds it. Variants of kernels that are not among `kernels`,
   * or whose WGSL has changed since, are left out.
   * @returns how many were compiled, and what was left out and why
   */
  async warmup(kernels: readonly AnyKernel[], manifest: unknown): Promise<{ compiled: number; skipped: readonly string[] }> {
    const state = this.#state;
    state.throwIfFailed();
    const { variants, skipped } = readManifest(manifest, kernels as readonly Kernel[]);
    let compiled = 0;
    const work = variants.map(async ({ kernel, frozen, keys }) => {
      const entry = state.entryOf(kernel, frozen);
      const values = entry.shape.keys.map(({ name }) => keys[name]);
      if (isKnown(entry, values)) return;
      compiled++;
      await state.compile(entry, values).catch((error) => {
        compiled--;
        state.forgetEmpty(entry);
        throw error;
      });
    });
    const results = await Promise.allSettled(work);
    state.throwIfFailed();
    const failed = results.flatMap((result, i) => (result.status === 'rejected' ? [`${variants[i].kernel.name}: ${result.reason}`] : []));
    return { compiled, skipped: [...skipped, ...failed] };
  }

  /** Every variant compiled so far, as JSON for the next visit's `warmup`. */
  manifest(): LaunchManifest {
    return describeEntries(this.#state.entries);
  }

  /** From here on a launch whose variant is not there follows `policy`. Nothing can be compiled behind the caller's back any more. */
  freeze(policy: MissPolicy = 'throw'): void {
    this.#state.policy = policy;
  }

  /** Writes the per-call values recorded since the last flush. Call it right before a submit of your own. */
  flush(): void {
    this.#state.flush();
  }

  /** Flushes and submits. @throws {DeviceLostError} when the device is gone. */
  submit(commands: readonly GPUCommandBuffer[]): void {
    this.#state.throwIfFailed();
    this.flush();
    this.gpu.device.queue.submit(commands);
  }

  stats(): LaunchStats {
    const { counts, argumentPath, encodeTime } = this.#state;
    return { ...counts, passThrough: this.#passThrough, argumentPath, encodeTime: encodeTime.entries() };
  }

  /** Destroys the cache's own buffers; nothing can be recorded any more. Pipelines and bind groups go with the last reference. */
  destroy(): void {
    this.#state.destroy(new LaunchCacheDestroyedError());
  }
}
