import { BufferDestroyedError, InvalidArgumentError, LaunchArgumentError, LaunchMissError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { ArgumentArena, type ArgumentSlot } from './arguments.ts';
import { frozenOf, fullKey, type KernelEntry, keysOf, namedKeys, sameKeys, selectorsOf, type Values, type Variant } from './entry.ts';
import { Histogram } from './histogram.ts';
import { type ArgumentPath, type BufferArgument, type Kernel, type SelectorValue, shapeOf } from './kernel.ts';
import type { LaunchCacheMode, LaunchCacheOptions, LaunchEvent, MissPolicy } from './options.ts';
import { compilePipeline, compilePipelineSync, createLayout, type Selectors } from './pipelines.ts';
import { UncachedLaunches } from './uncached.ts';
import type { FalseHit } from './verify.ts';
import { BufferWatch, bufferOf } from './watch.ts';

/** What a launch cache and its sites share: variants, argument slots, counts. Callers see `LaunchCache` alone. */
export class LaunchState {
  readonly gpu: Gpu;
  readonly mode: LaunchCacheMode;
  readonly argumentPath: ArgumentPath;
  readonly maxBindings: number;
  readonly watch = new BufferWatch();
  readonly encodeTime = new Histogram();
  /** The launch after which the next one is sampled. */
  nextSample = 0;
  /** Counts flushes: a site that sees a new number starts over with its first slot. */
  epoch = 0;
  /** Why nothing can be recorded any more; undefined while it can. */
  failure: Error | undefined;
  /** What a launch without its variant does, once the cache is frozen. */
  policy: MissPolicy | undefined;
  readonly counts = {
    ...{ launches: 0, hits: 0, misses: 0, prepares: 0, sites: 0, pipelines: 0, bindGroups: 0 },
    ...{ falseHits: 0, evictions: 0, uncached: 0 },
  };
  readonly #onEvent: ((event: LaunchEvent) => void) | undefined;
  readonly #argumentSlots: number;
  readonly #maxPipelines: number;
  readonly #arenas: ArgumentArena[] = [];
  readonly #freeSlots: ArgumentSlot[] = [];
  readonly #releasedSlots: ArgumentSlot[] = [];
  readonly #entries = new Map<Kernel, KernelEntry>();
  readonly #uncached: UncachedLaunches;

  constructor(gpu: Gpu, options: LaunchCacheOptions) {
    this.gpu = gpu;
    this.mode = options.mode ?? 'on';
    this.argumentPath = options.argumentPath ?? 'arena';
    this.maxBindings = positive('maxBindings', options.maxBindings ?? 16);
    this.#onEvent = options.onEvent;
    this.#argumentSlots = positive('argumentSlots', options.argumentSlots ?? 512);
    this.#maxPipelines = positive('maxPipelines', options.maxPipelines ?? 256);
    this.#uncached = new UncachedLaunches(gpu.device, this.#maxPipelines);
    void gpu.lost.then((loss) => {
      this.failure ??= loss;
      this.#entries.clear();
    });
  }

  get entries(): Iterable<KernelEntry> {
    return this.#entries.values();
  }

  tell(event: LaunchEvent): void {
    this.#onEvent?.(event);
  }

  throwIfFailed(): void {
    const failure = this.failure ?? this.gpu.loss;
    if (failure) throw failure;
  }

  /** Writes the per-call values recorded since the last flush. */
  flush(): void {
    for (const arena of this.#arenas) arena.flush();
    if (this.#releasedSlots.length > 0) this.#freeSlots.push(...this.#releasedSlots.splice(0));
    this.#uncached.next();
    this.epoch++;
  }

  destroy(failure: Error): void {
    this.failure ??= failure;
    for (const arena of this.#arenas) arena.destroy();
    this.#uncached.destroy();
    this.#entries.clear();
  }

  /** Compiles a variant for other keys ahead of the launch that needs it. */
  async prepareKeys(entry: KernelEntry, values: Values): Promise<void> {
    this.throwIfFailed();
    await this.compile(entry, keysOf(entry.shape, values));
  }

  /** A slot for per-call values; a full arena is joined by another, it never wraps. */
  takeSlot(): ArgumentSlot {
    const slot = this.#freeSlots.pop() ?? this.#arenas.at(-1)?.take();
    if (slot) return slot;
    this.#arenas.push(new ArgumentArena(this.gpu.device, this.#argumentSlots));
    return this.takeSlot();
  }

  /** Slots that no later launch needs. Another may take them once what they hold is written. */
  releaseSlot(slot: ArgumentSlot): void {
    this.#releasedSlots.push(slot);
  }

  /**
   * The variant for other keys than the last ones. Undefined: take the uncached path.
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
    this.tell({ type: 'miss', kernel: entry.kernel.name, keys: named });
    if (this.policy === 'throw') throw new LaunchMissError(entry.kernel.name, named);
    if (this.policy === 'uncached') return undefined;
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

  /** Sets everything but the grid by the uncached path. */
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

  reportFalseHit(falseHit: FalseHit): void {
    this.counts.falseHits++;
    this.tell({ type: 'false-hit', ...falseHit });
  }

  /** @throws {LaunchArgumentError} for a frozen value other than that of the kernel's sites. */
  entryOf(kernel: Kernel, values: Values): KernelEntry {
    const known = this.#entries.get(kernel);
    const changed = known && [...known.frozen].find(([name, value]) => !Object.is(values[name], value));
    if (known && !changed) return known;
    if (known && changed && known.sites > 0) {
      const [name, value] = changed;
      const problem = `is frozen at ${String(value)} in this cache, but ${String(values[name])} was passed. Use another cache for another model.`;
      throw new LaunchArgumentError(kernel.name, name, problem);
    }
    const shape = shapeOf(kernel);
    const layout = known?.layout ?? createLayout(this.gpu, kernel, shape, this.argumentPath);
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
  forgetEmpty(entry: KernelEntry): void {
    const empty = entry.variants.length === 0 && entry.compiling.length === 0;
    if (empty && this.#entries.get(entry.kernel) === entry) this.#entries.delete(entry.kernel);
  }

  /** Once, however many ask for it meanwhile. */
  async compile(entry: KernelEntry, keys: readonly SelectorValue[]): Promise<Variant> {
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
      this.tell({ type: 'compile-error', kernel: kernel.name, error });
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
    this.tell({ type: 'eviction', kernel: entry.kernel.name, keys: namedKeys(entry.shape, variant.keys) });
  }
}

/** Keys that no launch has, for a variant that turned out not to compile. */
const unmatched = [{}] as unknown as readonly SelectorValue[];

/** Compiled, or about to be. */
export function isKnown(entry: KernelEntry, keys: readonly SelectorValue[]): boolean {
  return [...entry.variants, ...entry.compiling].some((one) => sameKeys(one.keys, keys));
}

function positive(option: string, value: number): number {
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError(option, value, 'a positive integer');
  return value;
}
