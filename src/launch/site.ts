import { BufferDestroyedError, CapacityExceededError, LimitExceededError } from '../errors.ts';
import { type ArgumentField, type ArgumentSlot, fieldsOf, ImmediateArguments } from './arguments.ts';
import type { KernelEntry, Values, Variant } from './entry.ts';
import type { ArgumentDeclarations, ArgumentsOf, BufferArgument, Grid } from './kernel.ts';
import { createBindGroup } from './pipelines.ts';
import type { LaunchState } from './state.ts';
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
  readonly #state: LaunchState;
  readonly #entry: KernelEntry;
  /** The arguments that the site was prepared with. */
  readonly #stored: Values;
  readonly #grid: Grid | undefined;
  readonly #indirect: string | undefined;
  readonly #immediates: ImmediateArguments | undefined;
  // What every launch reads, taken out of the records that it comes from: a getter of the host's, or a second property, is felt there.
  readonly #maxWorkgroups: number;
  readonly #fields: readonly ArgumentField[];
  readonly #hasCaps: boolean;
  readonly #swappable: readonly string[];
  /** A launch that is not sampled needs nothing but its prepared objects: no verification, no uncached path, no indirect grid. */
  readonly #simple: boolean;
  readonly #sets: BindingSet[] = [];
  #set: BindingSet | undefined;
  #variant: Variant;
  /** The argument whose buffer is gone for good. */
  #destroyed: string | undefined;

  /** Use `LaunchCache.prepare`. */
  constructor(state: LaunchState, entry: KernelEntry, variant: Variant, values: Values) {
    this.#state = state;
    this.#entry = entry;
    this.#variant = variant;
    this.#stored = Object.fromEntries(
      Object.entries(values).map(([name, value]) => [name, typeof value === 'object' ? keptRange(value) : value]),
    );
    const { workgroups } = entry.kernel;
    this.#grid = 'x' in workgroups ? workgroups : undefined;
    this.#indirect = 'indirect' in workgroups ? workgroups.indirect : undefined;
    const { shape, layout } = entry;
    this.#maxWorkgroups = state.gpu.limits.maxComputeWorkgroupsPerDimension;
    this.#fields = fieldsOf(shape);
    this.#hasCaps = shape.caps.length > 0;
    this.#swappable = shape.swappable;
    this.#simple = this.#indirect === undefined && (state.mode === 'on' || state.mode === 'verify-sample');
    if (layout.path === 'immediates' && shape.argumentBytes > 0) this.#immediates = new ImmediateArguments(shape.argumentBytes);
    const watched: [GPUBuffer, () => void][] = [];
    for (const { name } of shape.buffers) {
      if (shape.swappable.includes(name)) continue;
      const buffer = bufferOf(values[name] as BufferArgument);
      if (state.watch.isDestroyed(buffer)) throw new BufferDestroyedError(entry.kernel.name, name);
      const onDestroy = () => {
        this.#destroyed = name;
        for (const set of [...this.#sets]) this.#dropSet(set);
        // Buffers that live on, a caller's mostly, must not keep a site that is of no use any more.
        for (const [other, listener] of watched) state.watch.unwatch(other, listener);
      };
      watched.push([buffer, onDestroy]);
      state.watch.watch(buffer, onDestroy);
    }
    const set = this.#addSet(values);
    if (state.mode !== 'off') set.places.push(this.#makePlace(set));
    this.#set = set;
  }

  /** Compiles the variant for these keys ahead of the launch that needs it. */
  prepare(args: ArgumentsOf<A>): Promise<void> {
    return this.#state.prepareKeys(this.#entry, args as Values);
  }

  /**
   * Records one launch into the caller's pass. Only keys, swappable buffers, counts with a cap and the grid's limits are looked at; per-call
   * values travel at the next flush.
   *
   * @throws {DeviceLostError} {BufferDestroyedError} {CapacityExceededError} {LimitExceededError} {LaunchMissError}; nothing is recorded then.
   */
  record(pass: GPUComputePassEncoder, args: ArgumentsOf<A>): void {
    const state = this.#state;
    const values = args as Values;
    const grid = this.#grid;
    if (state.failure) throw state.failure;
    let x = 1;
    let y = 1;
    let z = 1;
    if (grid) {
      x = grid.x(args);
      if (grid.y) y = grid.y(args);
      if (grid.z) z = grid.z(args);
      if (x === 0 || y === 0 || z === 0) return;
    }
    if (this.#hasCaps) this.#checkCaps(values);
    const most = this.#maxWorkgroups;
    if (!(x <= most && y <= most && z <= most)) this.#refuseGrid(Math.max(x, y, z)); // NaN, too
    if (!this.#simple || state.counts.launches >= state.nextSample) {
      this.#recordWatched(pass, values, x, y, z);
      return;
    }
    const variant = this.#currentVariant(values);
    if (variant) this.#setPrepared(pass, values, variant);
    else state.setUncached(pass, this.#entry, values);
    // Each argument crosses into the host, and costs.
    if (z !== 1) pass.dispatchWorkgroups(x, y, z);
    else if (y !== 1) pass.dispatchWorkgroups(x, y);
    else pass.dispatchWorkgroups(x);
    state.counts.launches++;
  }

  /** The rest of `record`, with whatever a mode, an indirect grid or the sampling adds. */
  #recordWatched(pass: GPUComputePassEncoder, values: Values, x: number, y: number, z: number): void {
    const state = this.#state;
    const sampled = state.counts.launches >= state.nextSample;
    const start = sampled ? performance.now() : 0;
    const grid = this.#indirect === undefined ? undefined : this.#gridBuffer(this.#indirect, values);
    this.#setAny(pass, values, state.mode === 'verify' || (state.mode === 'verify-sample' && sampled));
    if (grid) pass.dispatchWorkgroupsIndirect(bufferOf(grid), 'buffer' in grid ? grid.offset : 0);
    else pass.dispatchWorkgroups(x, y, z);
    if (sampled) {
      state.encodeTime.add(performance.now() - start);
      state.nextSample = nextSample(state.counts.launches);
    }
    state.counts.launches++;
  }

  #gridBuffer(name: string, values: Values): BufferArgument {
    const grid = values[name] as BufferArgument;
    if (this.#state.watch.isDestroyed(bufferOf(grid))) throw new BufferDestroyedError(this.#entry.kernel.name, name);
    return grid;
  }

  /** Pipeline, bind group and arguments of a prepared launch. */
  #setPrepared(pass: GPUComputePassEncoder, values: Values, variant: Variant): void {
    if (this.#destroyed !== undefined) throw new BufferDestroyedError(this.#entry.kernel.name, this.#destroyed);
    const { bindGroup, slot } = this.#currentPlace(values);
    pass.setPipeline(variant.pipeline);
    if (slot) slot.arena.write(slot.word, this.#fields, values);
    else if (this.#immediates) pass.setImmediates(0, this.#immediates.write(this.#fields, values));
    pass.setBindGroup(0, bindGroup);
    variant.used = this.#state.epoch;
  }

  /** As `#setPrepared`, or by the uncached path: in mode `off`, after a miss, and for a launch that verification found false. */
  #setAny(pass: GPUComputePassEncoder, values: Values, verified: boolean): void {
    const state = this.#state;
    const variant = state.mode === 'off' ? undefined : this.#currentVariant(values);
    const falseHit = verified && variant ? findFalseHit(this.#entry, variant, this.#stored, values) : undefined;
    if (falseHit) state.reportFalseHit(falseHit);
    if (!variant || falseHit) {
      state.setUncached(pass, this.#entry, values);
      return;
    }
    this.#setPrepared(pass, values, variant);
  }

  #checkCaps(values: Values): void {
    for (const { name, cap } of this.#entry.shape.caps) {
      if ((values[name] as number) > cap) throw new CapacityExceededError(name, values[name] as number, cap, name);
    }
  }

  #refuseGrid(workgroups: number): never {
    const remedy = 'Split the launch, or spread the grid over two dimensions.';
    const kernel = `Kernel "${this.#entry.kernel.name}"`;
    throw new LimitExceededError(kernel, 'maxComputeWorkgroupsPerDimension', workgroups, this.#maxWorkgroups, remedy);
  }

  #currentVariant(values: Values): Variant | undefined {
    const { keys } = this.#entry.shape;
    const last = this.#variant.keys;
    for (let i = 0; i < last.length; i++) {
      const { name, of } = keys[i];
      if (Object.is(of ? of(values[name] as number) : values[name], last[i])) continue;
      const found = this.#state.findVariant(this.#entry, values);
      if (found) this.#variant = found;
      return found;
    }
    this.#state.counts.hits++;
    return this.#variant;
  }

  #currentPlace(values: Values): Place {
    const { epoch } = this.#state;
    const swappable = this.#swappable;
    let set = this.#set;
    for (let i = 0; i < swappable.length && set; i++) {
      if (!sameBuffer(values[swappable[i]] as BufferArgument, set.buffers[i])) set = undefined;
    }
    set ??= this.#set = this.#findSet(values);
    if (set.epoch !== epoch) {
      set.epoch = epoch;
      set.uses = 0;
    }
    const { places } = set;
    // Without a slot there is nothing to tell launches apart by, and one place serves them all.
    if (set.uses > 0 && !places[0].slot) return places[0];
    if (set.uses === places.length) places.push(this.#makePlace(set));
    return places[set.uses++];
  }

  #findSet(values: Values): BindingSet {
    const { swappable } = this.#entry.shape;
    const known = this.#sets.find(({ buffers }) => swappable.every((name, i) => sameBuffer(values[name] as BufferArgument, buffers[i])));
    return known ?? this.#addSet(values);
  }

  #addSet(values: Values): BindingSet {
    const { kernel, shape } = this.#entry;
    const { watch, maxBindings } = this.#state;
    const buffers = shape.swappable.map((name) => keptRange(values[name] as BufferArgument));
    const set: BindingSet = { buffers, places: [], epoch: -1, uses: 0, drop: () => this.#dropSet(set) };
    const destroyed = shape.swappable.find((_, i) => watch.isDestroyed(bufferOf(set.buffers[i])));
    if (destroyed !== undefined) throw new BufferDestroyedError(kernel.name, destroyed);
    for (const argument of buffers) watch.watch(bufferOf(argument), set.drop);
    this.#sets.push(set);
    if (this.#sets.length > maxBindings) {
      const oldest = this.#sets.filter((one) => one !== set).reduce((a, b) => (b.epoch < a.epoch ? b : a));
      this.#dropSet(oldest);
      this.#state.counts.evictions++;
    }
    return set;
  }

  #dropSet(set: BindingSet): void {
    this.#sets.splice(this.#sets.indexOf(set), 1);
    if (this.#set === set) this.#set = undefined;
    for (const argument of set.buffers) this.#state.watch.unwatch(bufferOf(argument), set.drop);
    for (const { slot } of set.places.splice(0)) if (slot) this.#state.releaseSlot(slot);
  }

  #makePlace({ buffers }: BindingSet): Place {
    const { shape, layout } = this.#entry;
    const slot = shape.argumentBytes > 0 && layout.path === 'arena' ? this.#state.takeSlot() : undefined;
    const argumentBuffer = slot && { buffer: slot.arena.buffer, offset: slot.offset, size: shape.argumentBytes };
    const swapped = Object.fromEntries(shape.swappable.map((name, i) => [name, buffers[i]]));
    const values = { ...this.#stored, ...swapped };
    const bindGroup = createBindGroup(this.#state.gpu.device, shape, layout, values, argumentBuffer);
    this.#state.counts.bindGroups++;
    return { bindGroup, slot };
  }
}

/** A copy that the caller cannot change any more. */
function keptRange(argument: BufferArgument): BufferArgument {
  return 'buffer' in argument ? { ...argument } : argument;
}
