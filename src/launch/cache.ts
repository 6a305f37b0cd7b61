import {
  BufferDestroyedError,
  InvalidArgumentError,
  type KernelCompileError,
  LaunchArgumentError,
  LaunchCacheDestroyedError,
  LaunchMissError,
} from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { ArgumentArena, type ArgumentSlot } from './arguments.ts';
import { checkArguments } from './checks.ts';
import { frozenOf, fullKey, type KernelEntry, keysOf, namedKeys, sameKeys, selectorsOf, type Values, type Variant } from './entry.ts';
import { Histogram } from './histogram.ts';
import {
  type AnyKernel,
  type ArgumentDeclarations,
  type ArgumentPath,
  type ArgumentsOf,
  type BufferArgument,
  type Kernel,
  type SelectorValue,
  shapeOf,
} from './kernel.ts';
import { describeEntries, type LaunchManifest, readManifest } from './manifest.ts';
import { compilePipeline, compilePipelineSync, createLayout, type Selectors } from './pipelines.ts';
import { choosePath } from './self-test.ts';
import { LaunchSite } from './site.ts';
import { UncachedLaunches } from './uncached.ts';
import type { FalseHit } from './verify.ts';
import { BufferWatch, bufferOf } from './watch.ts';

/**
 * `on`: launches go through prepared sites. `off`: what a careful program does without a launch cache: the full key is built from all
 * arguments, the pipeline comes from a Map, the uniform from a pool, and every launch makes a bind group; nothing is compiled twice.
 * `verify` and `verify-sample`: as `on`, but every launch, or one in 64, is held against its full key; one that differs is reported as a
 * false hit and takes the uncached path, so that its result is right.
 */
export type LaunchCacheMode = 'on' | 'off' | 'verify' | 'verify-sample';

/** What a frozen cache does about a variant that nobody prepared. */
export type MissPolicy = 'throw' | 'uncached' | 'compile';

/** Something worth telling a developer. */
export type LaunchEvent =
  | ({ readonly type: 'false-hit' } & FalseHit)
  | { readonly type: 'miss'; readonly kernel: string; readonly keys: Readonly<Record<string, SelectorValue>> }
  | { readonly type: 'eviction'; readonly kernel: string; readonly keys: Readonly<Record<string, SelectorValue>> }
  | { readonly type: 'pass-through'; readonly reason: string }
  /** A variant that a launch could not wait for does not compile. The launch is lost with its command buffer, and the next one throws the error. */
  | { readonly type: 'compile-error'; readonly kernel: string; readonly error: KernelCompileError }
  /** `prepareFitting` passed over a set of arguments; or another kernel took the place of this one (index 0). */
  | { readonly type: 'fallback'; readonly kernel: string; readonly index: number; readonly reason: unknown };

export interface LaunchCacheOptions {
  readonly mode?: LaunchCacheMode;
  /** Launches whose per-call values fit into one buffer before another is made; default 512 (128 KiB). */
  readonly argumentSlots?: number;
  /** How per-call values travel; default `arena`. `LaunchCache.open` measures which is faster here. */
  readonly argumentPath?: ArgumentPath;
  /** Pipelines kept, over all kernels; the one unused for longest goes. The uncached path keeps as many of its own. Default 256. */
  readonly maxPipelines?: number;
  /** Combinations of swappable buffers kept per site; default 16. */
  readonly maxBindings?: number;
  readonly onEvent?: (event: LaunchEvent) => void;
}

/** Counts since the cache was made. */
export interface LaunchStats {
  /** Launches recorded. */
  readonly launches: number;
  /** Launches whose keys were those of the site's last launch, or of another prepared variant. */
  readonly hits: number;
  /** Launches that found no prepared variant. */
  readonly misses: number;
  /** Calls of `prepare`. */
  readonly prepares: number;
  readonly sites: number;
  readonly pipelines: number;
  readonly bindGroups: number;
  readonly falseHits: number;
  readonly evictions: number;
  /** Launches that took the uncached path. */
  readonly uncached: number;
  /** Why the cache stands aside, where it does. */
  readonly passThrough: string | undefined;
  readonly argumentPath: ArgumentPath;
  /** Host time of one launch in each 64: [below so many microseconds, count]. */
  readonly encodeTime: readonly (readonly [microseconds: number, count: number])[];
}

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
  readonly maxBindings: number;
  readonly watch = new BufferWatch();
  readonly encodeTime = new Histogram();
  /** The launch after which the next one is sampled. */
  nextSample = 0;
  /** Counts flushes: a site that sees a new number starts over with its first slot. */
  epoch = 0;
  /** Why nothing can be recorded any more; undefined while it can. */
  failure: Error | undefined;
  readonly counts = {
    ...{ launches: 0, hits: 0, misses: 0, prepares: 0, sites: 0, pipelines: 0, bindGroups: 0 },
    ...{ falseHits: 0, evictions: 0, uncached: 0 },
  };
  readonly #options: LaunchCacheOptions;
  readonly #argumentSlots: number;
  readonly #maxPipelines: number;
  readonly #arenas: ArgumentArena[] = [];
  readonly #freeSlots: ArgumentSlot[] = [];
  readonly #releasedSlots: ArgumentSlot[] = [];
  readonly #entries = new Map<Kernel, KernelEntry>();
  readonly #uncached: UncachedLaunches;
  #passThrough: string | undefined;
  #policy: MissPolicy | undefined;

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
    this.gpu = gpu;
    this.mode = options.mode ?? 'on';
    this.maxBindings = positive('maxBindings', options.maxBindings ?? 16);
    this.#options = options;
    this.#argumentSlots = positive('argumentSlots', options.argumentSlots ?? 512);
    this.#maxPipelines = positive('maxPipelines', options.maxPipelines ?? 256);
    this.#uncached = new UncachedLaunches(gpu.device, this.#maxPipelines);
    void gpu.lost.then((loss) => {
      this.failure ??= loss;
      this.#entries.clear();
    });
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
    this.throwIfFailed();
    const plain = kernel as unknown as Kernel;
    const values = args as Values;
    checkArguments(plain, values);
    this.counts.prepares++;
    const entry = this.#entryOf(plain, values);
    entry.sites++; // from the start, so that no concurrent call freezes other values
    try {
      const variant = await this.#compile(entry, keysOf(entry.shape, values));
      this.throwIfFailed();
      const site = new LaunchSite<A>(this, entry, variant, values);
      this.counts.sites++;
      return site;
    } catch (error) {
      entry.sites--;
      this.#forgetEmpty(entry);
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
        if (index + 1 >= candidates.length || this.failure || this.gpu.loss) throw error;
        this.#options.onEvent?.({ type: 'fallback', kernel: kernel.name, index, reason: error });
      }
    }
  }

  /** Tells `onEvent` that a caller took another kernel, because this one does not compile here. */
  reportFallback(kernel: string, reason: unknown): void {
    this.#options.onEvent?.({ type: 'fallback', kernel, index: 0, reason });
  }

  /** Compiles a site's variant for other keys ahead of the launch that needs it. */
  async prepareKeys(entry: KernelEntry, values: Values): Promise<void> {
    this.throwIfFailed();
    await this.#compile(entry, keysOf(entry.shape, values));
  }

  /**
   * Compiles, in parallel, what a manifest says was used before; `prepare` then finds it. Variants of kernels that are not among `kernels`,
   * or whose WGSL has changed since, are left out.
   * @returns how many were compiled, and what was left out and why
   */
  async warmup(kernels: readonly AnyKernel[], manifest: unknown): Promise<{ compiled: number; skipped: readonly string[] }> {
    this.throwIfFailed();
    const { variants, skipped } = readManifest(manifest, kernels as readonly Kernel[]);
    let compiled = 0;
    const work = variants.map(async ({ kernel, frozen, keys }) => {
      const entry = this.#entryOf(kernel, frozen);
      const values = entry.shape.keys.map(({ name }) => keys[name]);
      if (isKnown(entry, values)) return;
      compiled++;
      await this.#compile(entry, values).catch((error) => {
        compiled--;
        this.#forgetEmpty(entry);
        throw error;
      });
    });
    const results = await Promise.allSettled(work);
    this.throwIfFailed();
    const failed = results.flatMap((result, i) => (result.status === 'rejected' ? [`${variants[i].kernel.name}: ${result.reason}`] : []));
    return { compiled, skipped: [...skipped, ...failed] };
  }

  /** Every variant compiled so far, as JSON for the next visit's `warmup`. */
  manifest(): LaunchManifest {
    return describeEntries(this.#entries.values());
  }

  /** From here on a launch whose variant is not there follows `policy`. Nothing can be compiled behind the caller's back any more. */
  freeze(policy: MissPolicy = 'throw'): void {
    this.#policy = policy;
  }

  /** Writes the per-call values recorded since the last flush. Call it right before a submit of your own. */
  flush(): void {
    for (const arena of this.#arenas) arena.flush();
    if (this.#releasedSlots.length > 0) this.#freeSlots.push(...this.#releasedSlots.splice(0));
    this.#uncached.next();
    this.epoch++;
  }

  /** Flushes and submits. @throws {DeviceLostError} when the device is gone. */
  submit(commands: readonly GPUCommandBuffer[]): void {
    this.throwIfFailed();
    this.flush();
    this.gpu.device.queue.submit(commands);
  }

  stats(): LaunchStats {
    const argumentPath = this.#options.argumentPath ?? 'arena';
    return { ...this.counts, passThrough: this.#passThrough, argumentPath, encodeTime: this.encodeTime.entries() };
  }

  /** Destroys the cache's own buffers; nothing can be recorded any more. Pipelines and bind groups go with the last reference. */
  destroy(): void {
    this.failure ??= new LaunchCacheDestroyedError();
    for (const arena of this.#arenas) arena.destroy();
    this.#uncached.destroy();
    this.#entries.clear();
  }

  throwIfFailed(): void {
    const failure = this.failure ?? this.gpu.loss;
    if (failure) throw failure;
  }

  /** For sites: a slot for per-call values; a full arena is joined by another, it never wraps. */
  takeSlot(): ArgumentSlot {
    const slot = this.#freeSlots.pop() ?? this.#arenas.at(-1)?.take();
    if (slot) return slot;
    this.#arenas.push(new ArgumentArena(this.gpu.device, this.#argumentSlots));
    return this.takeSlot();
  }

  /** For sites: slots that no later launch needs. Another may take them once what they hold is written. */
  releaseSlot(slot: ArgumentSlot): void {
    this.#releasedSlots.push(slot);
  }

  /**
   * For sites: the variant for other keys than the last ones. Undefined: take the uncached path.
   * @throws {LaunchMissError} when nobody prepared it and the cache is frozen with the policy `throw`.
   */
  findVariant(entry: KernelEntry, values: Values): Variant | undefined {
    const keys = keysOf(entry.shape, values);
    const known = entry.variants.find((v) => sameKeys(v.keys, keys));
    if (known) {
      this.counts.hits++;
      return known;
    }
    this.counts.misses++;
    const named = namedKeys(entry.shape, keys);
    this.#options.onEvent?.({ type: 'miss', kernel: entry.kernel.name, keys: named });
    if (this.#policy === 'throw') throw new LaunchMissError(entry.kernel.name, named);
    if (this.#policy === 'uncached') return undefined;
    const variant = this.#keep(
      entry,
      keys,
      this.#compileNow(entry, values, selectorsOf(entry.shape, entry.frozen, keys), () => {
        const index = entry.variants.indexOf(variant); // evicted, perhaps
        if (index >= 0) entry.variants.splice(index, 1);
        variant.keys = unmatched;
      }),
    );
    return variant;
  }

  /** For sites: sets everything but the grid by the uncached path. */
  setUncached(pass: GPUComputePassEncoder, entry: KernelEntry, values: Values): void {
    const destroyed = entry.shape.buffers.find(({ name }) => this.watch.isDestroyed(bufferOf(values[name] as BufferArgument)));
    if (destroyed) throw new BufferDestroyedError(entry.kernel.name, destroyed.name);
    let compiled = 0;
    const pipeline = this.#uncached.pipeline(entry, values, (selectors) => {
      const keys = keysOf(entry.shape, values);
      const unchanged = [...entry.frozen].every(([name, value]) => Object.is(values[name], value));
      const known = unchanged ? entry.variants.find((v) => sameKeys(v.keys, keys)) : undefined;
      if (known) return known.pipeline;
      compiled = 1;
      return this.#compileNow(entry, values, selectors, (key) => this.#uncached.forget(entry, key));
    });
    this.#uncached.set(pass, pipeline, entry, values);
    this.counts.pipelines += compiled;
    if (this.mode === 'off') this.counts[compiled ? 'misses' : 'hits']++;
    this.counts.bindGroups++;
    this.counts.uncached++;
  }

  /** For sites. */
  reportFalseHit(falseHit: FalseHit): void {
    this.counts.falseHits++;
    this.#options.onEvent?.({ type: 'false-hit', ...falseHit });
  }

  #entryOf(kernel: Kernel, values: Values): KernelEntry {
    const known = this.#entries.get(kernel);
    const changed = known && [...known.frozen].find(([name, value]) => !Object.is(values[name], value));
    if (known && !changed) return known;
    if (known && changed && known.sites > 0) {
      const [name, value] = changed;
      const problem = `is frozen at ${String(value)} in this cache, but ${String(values[name])} was passed. Use another cache for another model.`;
      throw new LaunchArgumentError(kernel.name, name, problem);
    }
    const shape = shapeOf(kernel);
    const layout = known?.layout ?? createLayout(this.gpu, kernel, shape, this.#options.argumentPath ?? 'arena');
    const entry: KernelEntry = {
      kernel,
      shape,
      layout,
      frozen: frozenOf(shape, values),
      variants: [],
      compiling: [],
      failures: new Map(),
      sites: 0,
    };
    this.#entries.set(kernel, entry);
    return entry;
  }

  /** A kernel of which nothing was ever compiled freezes no value. */
  #forgetEmpty(entry: KernelEntry): void {
    const empty = entry.variants.length === 0 && entry.compiling.length === 0;
    if (empty && this.#entries.get(entry.kernel) === entry) this.#entries.delete(entry.kernel);
  }

  async #compile(entry: KernelEntry, keys: readonly SelectorValue[]): Promise<Variant> {
    const known = entry.variants.find((v) => sameKeys(v.keys, keys));
    if (known) return known;
    const running = entry.compiling.find((c) => sameKeys(c.keys, keys));
    if (running) return running.done;
    const { kernel, shape, layout, frozen } = entry;
    const done = compilePipeline(this.gpu, kernel, shape, layout, selectorsOf(shape, frozen, keys)).then((pipeline) =>
      this.#keep(entry, keys, pipeline),
    );
    const compiling = { keys, done };
    entry.compiling.push(compiling);
    try {
      return await done;
    } finally {
      entry.compiling.splice(entry.compiling.indexOf(compiling), 1);
    }
  }

  #compileNow(entry: KernelEntry, values: Values, selectors: Selectors, drop: (key: string) => void): GPUComputePipeline {
    const { kernel, shape, layout, failures } = entry;
    const key = fullKey(shape, values);
    const failure = failures.get(key);
    if (failure) throw failure;
    return compilePipelineSync(this.gpu, kernel, shape, layout, selectors, (error) => {
      failures.set(key, error);
      drop(key);
      this.#options.onEvent?.({ type: 'compile-error', kernel: kernel.name, error });
    });
  }

  #keep(entry: KernelEntry, keys: readonly SelectorValue[], pipeline: GPUComputePipeline): Variant {
    const variant = { keys, pipeline, used: this.epoch };
    entry.variants.push(variant);
    this.counts.pipelines++;
    this.#evict(variant);
    return variant;
  }

  /** Lets go of the variant that was not recorded for longest, where there is one too many. Sites that hold it keep it until they switch. */
  #evict(kept: Variant): void {
    const all = [...this.#entries.values()].flatMap((entry) => entry.variants.map((variant) => ({ entry, variant })));
    if (all.length <= this.#maxPipelines) return;
    const { entry, variant } = all.filter((one) => one.variant !== kept).reduce((a, b) => (b.variant.used < a.variant.used ? b : a));
    entry.variants.splice(entry.variants.indexOf(variant), 1);
    this.counts.evictions++;
    this.#options.onEvent?.({ type: 'eviction', kernel: entry.kernel.name, keys: namedKeys(entry.shape, variant.keys) });
  }
}

/** Keys that no launch has, for a variant that turned out not to compile. */
const unmatched = [{}] as unknown as readonly SelectorValue[];

/** Compiled, or about to be. */
function isKnown(entry: KernelEntry, keys: readonly SelectorValue[]): boolean {
  return [...entry.variants, ...entry.compiling].some((one) => sameKeys(one.keys, keys));
}

function positive(option: string, value: number): number {
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError(option, value, 'a positive integer');
  return value;
}
