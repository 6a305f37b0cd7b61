import { InvalidArgumentError, LaunchArgumentError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { ArgumentArena, type ArgumentSlot } from './arguments.ts';
import { checkArguments } from './checks.ts';
import { type KernelEntry, keysOf, sameKeys, selectorsOf, type Values, type Variant } from './entry.ts';
import { type ArgumentDeclarations, type ArgumentsOf, type Kernel, type KernelShape, type SelectorValue, shapeOf } from './kernel.ts';
import { argumentBytes, compilePipeline, compilePipelineSync, createBindGroup, createLayout } from './pipelines.ts';
import { UncachedLaunches } from './uncached.ts';

/**
 * `on`: launches go through prepared sites. `off`: what a careful program does without a launch cache: the full key is built from all
 * arguments, the pipeline comes from a Map, the uniform from a pool, and every launch makes a bind group; nothing is compiled twice.
 */
export type LaunchCacheMode = 'on' | 'off';

export interface LaunchCacheOptions {
  readonly mode?: LaunchCacheMode;
  /** Launches whose per-call values fit into one buffer before another is made; default 512 (128 KiB). */
  readonly argumentSlots?: number;
}

/** Counts since the cache was made. */
export interface LaunchStats {
  /** Launches recorded. */
  readonly launches: number;
  /** Launches whose keys were those of the site's last launch, or of another prepared variant. */
  readonly hits: number;
  /** Launches that had to compile a pipeline on the spot. */
  readonly misses: number;
  readonly sites: number;
  readonly pipelines: number;
  readonly bindGroups: number;
}

/**
 * Pipelines, bind groups and argument slots of one model session on one device.
 *
 * `prepare` compiles (asynchronously, in parallel, once per variant) and returns a `LaunchSite`; `LaunchSite.record` is the hot path.
 * A cache is the scope of frozen arguments: two models have two caches and cannot meet.
 * Record any number of launches, then `submit` (or `flush` before a submit of your own): their per-call values travel in one write.
 */
export class LaunchCache {
  readonly gpu: Gpu;
  readonly mode: LaunchCacheMode;
  /** Counts flushes: a site that sees a new number starts over with its first slot. */
  epoch = 0;
  readonly counts = { launches: 0, hits: 0, misses: 0, sites: 0, pipelines: 0, bindGroups: 0 };
  readonly #argumentSlots: number;
  readonly #arenas: ArgumentArena[] = [];
  readonly #entries = new Map<Kernel, KernelEntry>();
  readonly #uncached: UncachedLaunches;

  constructor(gpu: Gpu, options: LaunchCacheOptions = {}) {
    this.gpu = gpu;
    this.mode = options.mode ?? 'on';
    this.#argumentSlots = options.argumentSlots ?? 512;
    if (!Number.isInteger(this.#argumentSlots) || this.#argumentSlots < 1)
      throw new InvalidArgumentError('argumentSlots', this.#argumentSlots, 'a positive integer');
    this.#uncached = new UncachedLaunches(gpu.device);
  }

  /**
   * Prepares a place in a program from which `kernel` is launched. The arguments fix its buffers and frozen values; keys and per-call
   * values may differ at each launch. Concurrent calls that need one variant compile it once.
   *
   * @throws {LaunchArgumentError} for unknown, missing or ill-typed arguments, or a frozen value other than this cache's.
   * @throws {KernelCompileError} when the WGSL does not compile.
   * @throws {DeviceLostError} when the device is gone.
   */
  async prepare<A extends ArgumentDeclarations>(kernel: Kernel<A>, args: ArgumentsOf<A>): Promise<LaunchSite<A>> {
    if (this.gpu.loss) throw this.gpu.loss;
    const plain = kernel as unknown as Kernel;
    const values = args as Values;
    checkArguments(plain, values);
    const entry = this.#entry(plain, values);
    for (const [name, value] of entry.frozen) {
      if (values[name] === value) continue;
      const problem = `is frozen at ${String(value)} in this cache, but ${String(values[name])} was passed. Use another cache for another model.`;
      throw new LaunchArgumentError(kernel.name, name, problem);
    }
    const variant = await this.#compile(entry, keysOf(entry.shape, values)).catch((error) => {
      this.#forgetEmpty(entry);
      throw error;
    });
    if (this.gpu.loss) throw this.gpu.loss;
    this.counts.sites++;
    return new LaunchSite<A>(this, entry, variant, values);
  }

  /** Writes the per-call values recorded since the last flush. Call it right before a submit of your own. */
  flush(): void {
    for (const arena of this.#arenas) arena.flush();
    this.#uncached.next();
    this.epoch++;
  }

  /** Flushes and submits. @throws {DeviceLostError} when the device is gone. */
  submit(commands: readonly GPUCommandBuffer[]): void {
    if (this.gpu.loss) throw this.gpu.loss;
    this.flush();
    this.gpu.device.queue.submit(commands);
  }

  stats(): LaunchStats {
    return { ...this.counts };
  }

  /** Destroys the cache's own buffers. Pipelines and bind groups go with the last reference. */
  destroy(): void {
    for (const arena of this.#arenas) arena.destroy();
    this.#uncached.destroy();
    this.#entries.clear();
  }

  /** For sites: a slot for per-call values; a full arena is joined by another, it never wraps. */
  takeSlot(): ArgumentSlot {
    const slot = this.#arenas.at(-1)?.take();
    if (slot) return slot;
    this.#arenas.push(new ArgumentArena(this.gpu.device, this.#argumentSlots));
    return this.takeSlot();
  }

  /** For sites: the variant for other keys than the last ones; compiled on the spot if nobody prepared it. */
  findVariant(entry: KernelEntry, values: Values): Variant {
    const keys = keysOf(entry.shape, values);
    const known = entry.variants.find((v) => sameKeys(v.keys, keys));
    if (known) {
      this.counts.hits++;
      return known;
    }
    this.counts.misses++;
    const pipeline = compilePipelineSync(this.gpu, entry.kernel, entry.shape, entry.layout, selectorsOf(entry, keys));
    return this.#keep(entry, { keys, pipeline });
  }

  /** For sites in mode `off`. */
  recordUncached(pass: GPUComputePassEncoder, entry: KernelEntry, values: Values, x: number, y: number, z: number): void {
    let pipeline = this.#uncached.findPipeline(entry, values);
    if (pipeline) this.counts.hits++;
    else pipeline = this.#uncached.keepPipeline(entry, values, this.findVariant(entry, values).pipeline);
    this.#uncached.record(pass, pipeline, entry, values, x, y, z);
    this.counts.bindGroups++;
  }

  #entry(kernel: Kernel, values: Values): KernelEntry {
    let entry = this.#entries.get(kernel);
    if (!entry) {
      const shape = shapeOf(kernel);
      const frozen = new Map(shape.frozen.map((name) => [name, values[name] as SelectorValue]));
      entry = { kernel, shape, layout: createLayout(this.gpu, kernel, shape), frozen, variants: [], compiling: [] };
      this.#entries.set(kernel, entry);
    }
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
    const done = compilePipeline(this.gpu, entry.kernel, entry.shape, entry.layout, selectorsOf(entry, keys)).then((pipeline) =>
      this.#keep(entry, { keys, pipeline }),
    );
    const compiling = { keys, done };
    entry.compiling.push(compiling);
    try {
      return await done;
    } finally {
      entry.compiling.splice(entry.compiling.indexOf(compiling), 1);
    }
  }

  #keep(entry: KernelEntry, variant: Variant): Variant {
    entry.variants.push(variant);
    this.counts.pipelines++;
    return variant;
  }
}

/**
 * One place in a program from which a kernel is launched: it remembers the last variant, its bind groups and its argument slots,
 * so that a launch is `setPipeline`, `setBindGroup`, `dispatchWorkgroups` and the few words that changed.
 */
export class LaunchSite<A extends ArgumentDeclarations = ArgumentDeclarations> {
  readonly #cache: LaunchCache;
  readonly #entry: KernelEntry;
  readonly #buffers: Values;
  readonly #workgroups: Kernel<A>['workgroups'];
  /** Place n serves the n-th launch from here between two flushes. */
  readonly #places: { readonly bindGroup: GPUBindGroup; readonly slot: ArgumentSlot | undefined }[] = [];
  #variant: Variant;
  #epoch = -1;
  #uses = 0;

  /** Use `LaunchCache.prepare`. */
  constructor(cache: LaunchCache, entry: KernelEntry, variant: Variant, buffers: Values) {
    this.#cache = cache;
    this.#entry = entry;
    this.#variant = variant;
    this.#buffers = buffers;
    this.#workgroups = entry.kernel.workgroups as unknown as Kernel<A>['workgroups'];
    if (cache.mode === 'on') this.#places.push(this.#makePlace());
  }

  /** Records one launch into the caller's pass. Nothing is checked but the keys; per-call values travel at the next flush. */
  record(pass: GPUComputePassEncoder, args: ArgumentsOf<A>): void {
    const { x: gridX, y: gridY, z: gridZ } = this.#workgroups;
    const x = gridX(args);
    const y = gridY ? gridY(args) : 1;
    const z = gridZ ? gridZ(args) : 1;
    if (x === 0 || y === 0 || z === 0) return;
    const cache = this.#cache;
    const values = args as Values;
    cache.counts.launches++;
    if (cache.mode === 'off') {
      cache.recordUncached(pass, this.#entry, values, x, y, z);
      return;
    }

    const variant = this.#currentVariant(values);
    const place = this.#currentPlace();
    if (place.slot) writeArguments(place.slot, this.#entry.shape, values);
    pass.setPipeline(variant.pipeline);
    pass.setBindGroup(0, place.bindGroup);
    pass.dispatchWorkgroups(x, y, z);
  }

  #currentVariant(values: Values): Variant {
    const { keys } = this.#entry.shape;
    const last = this.#variant.keys;
    for (let i = 0; i < keys.length; i++) {
      const { name, of } = keys[i];
      if ((of ? of(values[name] as number) : values[name]) === last[i]) continue;
      this.#variant = this.#cache.findVariant(this.#entry, values);
      return this.#variant;
    }
    this.#cache.counts.hits++;
    return this.#variant;
  }

  #currentPlace() {
    if (this.#epoch !== this.#cache.epoch) {
      this.#epoch = this.#cache.epoch;
      this.#uses = 0;
    }
    if (!this.#places[0].slot) return this.#places[0];
    if (this.#uses === this.#places.length) this.#places.push(this.#makePlace());
    return this.#places[this.#uses++];
  }

  #makePlace() {
    const { shape, layout, kernel } = this.#entry;
    const slot = shape.perCall.length > 0 ? this.#cache.takeSlot() : undefined;
    const argumentBuffer = slot && { buffer: slot.arena.buffer, offset: slot.offset, size: argumentBytes(shape) };
    const bindGroup = createBindGroup(this.#cache.gpu.device, kernel, shape, layout, this.#buffers, argumentBuffer);
    this.#cache.counts.bindGroups++;
    return { bindGroup, slot };
  }
}

function writeArguments(slot: ArgumentSlot, shape: KernelShape, values: Values): void {
  const { perCall } = shape;
  const { arena } = slot;
  let changed = false;
  for (let i = 0; i < perCall.length; i++) {
    const { name, type } = perCall[i];
    const at = slot.word + i;
    const before = arena.u32[at]; // bits, so that NaN equals itself and -0 is not 0
    arena[type][at] = values[name] as number;
    if (arena.u32[at] !== before) changed = true;
  }
  if (changed) arena.touch(slot.word, slot.word + perCall.length);
}
