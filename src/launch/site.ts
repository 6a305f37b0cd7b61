import { BufferDestroyedError, CapacityExceededError, LimitExceededError } from '../errors.ts';
import type { ArgumentSlot } from './arguments.ts';
import type { LaunchCache } from './cache.ts';
import type { KernelEntry, Values, Variant } from './entry.ts';
import type { ArgumentDeclarations, ArgumentsOf, BufferArgument, Grid } from './kernel.ts';
import { createBindGroup } from './pipelines.ts';
import { findFalseHit, sameBuffer } from './verify.ts';
import { bufferOf } from './watch.ts';

/** One launch between two flushes: its bind group, and the slot of its per-call values that the bind group points at. */
interface Place {
  readonly bindGroup: GPUBindGroup;
  readonly slot: ArgumentSlot | undefined;
}

/** One combination of swappable buffers. Place n serves the n-th launch with it between two flushes. */
interface BindingSet {
  readonly buffers: readonly BufferArgument[];
  readonly places: Place[];
  epoch: number;
  uses: number;
  /** Hears that one of the buffers is gone. */
  readonly drop: () => void;
}

/** One memory, as the types of per-call values. */
interface ImmediateViews {
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly i32: Int32Array;
  readonly f32: Float32Array;
}

/** Of one launch in each so many, the host time is measured, and in mode `verify-sample` the key. */
const sampling = 64;

/** The launch to sample in the block after that of `launch`: at another place in each, so that no launch of a step escapes for ever. */
function nextSample(launch: number): number {
  const block = Math.floor(launch / sampling) + 1;
  return block * sampling + ((block * 37) % sampling);
}

/**
 * One place in a program from which a kernel is launched: it remembers the last variant, its bind groups and its argument slots,
 * so that a launch is `setPipeline`, `setBindGroup`, `dispatchWorkgroups` and the few words that changed.
 */
export class LaunchSite<A extends ArgumentDeclarations = ArgumentDeclarations> {
  readonly #cache: LaunchCache;
  readonly #entry: KernelEntry;
  /** The arguments that the site was prepared with. */
  readonly #stored: Values;
  readonly #grid: Grid | undefined;
  readonly #indirect: string | undefined;
  readonly #immediates: ImmediateViews | undefined;
  readonly #sets: BindingSet[] = [];
  #set: BindingSet | undefined;
  #variant: Variant;
  /** The argument whose buffer is gone for good. */
  #destroyed: string | undefined;

  /** Use `LaunchCache.prepare`. */
  constructor(cache: LaunchCache, entry: KernelEntry, variant: Variant, values: Values) {
    this.#cache = cache;
    this.#entry = entry;
    this.#variant = variant;
    this.#stored = Object.fromEntries(
      Object.entries(values).map(([name, value]) => [name, typeof value === 'object' ? keptRange(value) : value]),
    );
    const { workgroups } = entry.kernel;
    this.#grid = 'x' in workgroups ? workgroups : undefined;
    this.#indirect = 'indirect' in workgroups ? workgroups.indirect : undefined;
    const { shape, layout } = entry;
    if (layout.path === 'immediates' && shape.argumentBytes > 0) {
      const memory = new ArrayBuffer(shape.argumentBytes);
      this.#immediates = { u32: new Uint32Array(memory), i32: new Int32Array(memory), f32: new Float32Array(memory) };
    }
    for (const { name } of shape.buffers) {
      if (shape.swappable.includes(name)) continue;
      const buffer = bufferOf(values[name] as BufferArgument);
      if (cache.watch.isDestroyed(buffer)) throw new BufferDestroyedError(entry.kernel.name, name);
      cache.watch.watch(buffer, () => {
        this.#destroyed = name;
        for (const set of [...this.#sets]) this.#dropSet(set);
      });
    }
    const set = this.#addSet(values);
    if (cache.mode !== 'off') set.places.push(this.#makePlace(set));
    this.#set = set;
  }

  /** Compiles the variant for these keys ahead of the launch that needs it. */
  prepare(args: ArgumentsOf<A>): Promise<void> {
    return this.#cache.prepareKeys(this.#entry, args as Values);
  }

  /**
   * Records one launch into the caller's pass. Only keys, swappable buffers, counts with a cap and the grid's limits are looked at; per-call
   * values travel at the next flush.
   *
   * @throws {DeviceLostError} {BufferDestroyedError} {CapacityExceededError} {LimitExceededError} {LaunchMissError}; nothing is recorded then.
   */
  record(pass: GPUComputePassEncoder, args: ArgumentsOf<A>): void {
    const cache = this.#cache;
    const values = args as Values;
    if (cache.failure) throw cache.failure;
    const x = this.#grid ? this.#grid.x(args) : 1;
    const y = this.#grid?.y ? this.#grid.y(args) : 1;
    const z = this.#grid?.z ? this.#grid.z(args) : 1;
    if (x === 0 || y === 0 || z === 0) return;
    this.#checkGrid(values, x, y, z);

    const sampled = cache.counts.launches >= cache.nextSample;
    const start = sampled ? performance.now() : 0;
    const grid = this.#indirect === undefined ? undefined : this.#gridBuffer(this.#indirect, values);
    this.#setAny(pass, values, cache.mode === 'verify' || (cache.mode === 'verify-sample' && sampled));
    if (grid) pass.dispatchWorkgroupsIndirect(bufferOf(grid), 'buffer' in grid ? grid.offset : 0);
    else pass.dispatchWorkgroups(x, y, z);
    if (sampled) {
      cache.encodeTime.add(performance.now() - start);
      cache.nextSample = nextSample(cache.counts.launches);
    }
    cache.counts.launches++;
  }

  #gridBuffer(name: string, values: Values): BufferArgument {
    const grid = values[name] as BufferArgument;
    if (this.#cache.watch.isDestroyed(bufferOf(grid))) throw new BufferDestroyedError(this.#entry.kernel.name, name);
    return grid;
  }

  /** Pipeline, bind group and arguments of a prepared launch. */
  #setPrepared(pass: GPUComputePassEncoder, values: Values, variant: Variant): void {
    const { bindGroup, slot } = this.#currentPlace(values);
    pass.setPipeline(variant.pipeline);
    if (slot) this.#writeSlot(slot, values);
    else if (this.#immediates) this.#writeImmediates(pass, this.#immediates, values);
    pass.setBindGroup(0, bindGroup);
    variant.used = this.#cache.epoch;
  }

  /** As `#setPrepared`, or by the uncached path: in mode `off`, after a miss, and for a launch that verification found false. */
  #setAny(pass: GPUComputePassEncoder, values: Values, verified: boolean): void {
    const cache = this.#cache;
    const variant = cache.mode === 'off' ? undefined : this.#currentVariant(values);
    const falseHit = verified && variant ? findFalseHit(this.#entry, variant, this.#stored, values) : undefined;
    if (falseHit) cache.reportFalseHit(falseHit);
    if (!variant || falseHit) {
      cache.setUncached(pass, this.#entry, values);
      return;
    }
    if (this.#destroyed !== undefined) throw new BufferDestroyedError(this.#entry.kernel.name, this.#destroyed);
    this.#setPrepared(pass, values, variant);
  }

  #checkGrid(values: Values, x: number, y: number, z: number): void {
    const { caps } = this.#entry.shape;
    for (let i = 0; i < caps.length; i++) {
      const { name, cap } = caps[i];
      if ((values[name] as number) > cap) throw new CapacityExceededError(name, values[name] as number, cap, name);
    }
    const most = this.#cache.gpu.limits.maxComputeWorkgroupsPerDimension;
    if (x <= most && y <= most && z <= most) return;
    const remedy = 'Split the launch, or spread the grid over two dimensions.';
    throw new LimitExceededError(
      `Kernel "${this.#entry.kernel.name}"`,
      'maxComputeWorkgroupsPerDimension',
      Math.max(x, y, z),
      most,
      remedy,
    );
  }

  #currentVariant(values: Values): Variant | undefined {
    const { keys } = this.#entry.shape;
    const last = this.#variant.keys;
    for (let i = 0; i < keys.length; i++) {
      const { name, of } = keys[i];
      if (Object.is(of ? of(values[name] as number) : values[name], last[i])) continue;
      const found = this.#cache.findVariant(this.#entry, values);
      if (found) this.#variant = found;
      return found;
    }
    this.#cache.counts.hits++;
    return this.#variant;
  }

  #currentPlace(values: Values): Place {
    const { swappable } = this.#entry.shape;
    let set = this.#set;
    for (let i = 0; i < swappable.length && set; i++) {
      if (!sameBuffer(values[swappable[i]] as BufferArgument, set.buffers[i])) set = undefined;
    }
    set ??= this.#set = this.#findSet(values);
    if (set.epoch !== this.#cache.epoch) {
      set.epoch = this.#cache.epoch;
      set.uses = 0;
    }
    if (set.places.length === 0) set.places.push(this.#makePlace(set));
    if (!set.places[0].slot) return set.places[0];
    if (set.uses === set.places.length) set.places.push(this.#makePlace(set));
    return set.places[set.uses++];
  }

  #findSet(values: Values): BindingSet {
    const { swappable } = this.#entry.shape;
    const known = this.#sets.find(({ buffers }) => swappable.every((name, i) => sameBuffer(values[name] as BufferArgument, buffers[i])));
    return known ?? this.#addSet(values);
  }

  #addSet(values: Values): BindingSet {
    const { kernel, shape } = this.#entry;
    const { watch, maxBindings } = this.#cache;
    const buffers = shape.swappable.map((name) => keptRange(values[name] as BufferArgument));
    const set: BindingSet = { buffers, places: [], epoch: -1, uses: 0, drop: () => this.#dropSet(set) };
    const destroyed = shape.swappable.find((_, i) => watch.isDestroyed(bufferOf(set.buffers[i])));
    if (destroyed !== undefined) throw new BufferDestroyedError(kernel.name, destroyed);
    for (const argument of buffers) watch.watch(bufferOf(argument), set.drop);
    this.#sets.push(set);
    if (this.#sets.length > maxBindings) {
      const oldest = this.#sets.filter((one) => one !== set).reduce((a, b) => (b.epoch < a.epoch ? b : a));
      this.#dropSet(oldest);
      this.#cache.counts.evictions++;
    }
    return set;
  }

  #dropSet(set: BindingSet): void {
    this.#sets.splice(this.#sets.indexOf(set), 1);
    if (this.#set === set) this.#set = undefined;
    for (const argument of set.buffers) this.#cache.watch.unwatch(bufferOf(argument), set.drop);
    for (const { slot } of set.places.splice(0)) if (slot) this.#cache.releaseSlot(slot);
  }

  #makePlace({ buffers }: BindingSet): Place {
    const { shape, layout, kernel } = this.#entry;
    const slot = shape.argumentBytes > 0 && layout.path === 'arena' ? this.#cache.takeSlot() : undefined;
    const argumentBuffer = slot && { buffer: slot.arena.buffer, offset: slot.offset, size: shape.argumentBytes };
    const swapped = Object.fromEntries(shape.swappable.map((name, i) => [name, buffers[i]]));
    const values = { ...this.#stored, ...swapped };
    const bindGroup = createBindGroup(this.#cache.gpu.device, kernel, shape, layout, values, argumentBuffer);
    this.#cache.counts.bindGroups++;
    return { bindGroup, slot };
  }

  #writeSlot({ arena, word: base }: ArgumentSlot, values: Values): void {
    const { perCall } = this.#entry.shape;
    for (let i = 0; i < perCall.length; i++) {
      const { name, type, word } = perCall[i];
      const at = base + word;
      const before = arena.u32[at]; // bits, so that NaN equals itself and -0 is not 0
      arena[type][at] = values[name] as number;
      if (arena.u32[at] !== before) arena.touch(at);
    }
  }

  #writeImmediates(pass: GPUComputePassEncoder, views: ImmediateViews, values: Values): void {
    const { perCall } = this.#entry.shape;
    for (let i = 0; i < perCall.length; i++) {
      const { name, type, word } = perCall[i];
      views[type][word] = values[name] as number;
    }
    pass.setImmediates(0, views.u32);
  }
}

/** A copy that the caller cannot change any more. */
function keptRange(argument: BufferArgument): BufferArgument {
  return 'buffer' in argument ? { ...argument } : argument;
}
