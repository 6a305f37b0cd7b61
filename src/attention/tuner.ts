/** Measures which tiles and splits are fastest for a shape on this device. What wins computes what the default computes. */
import { InvalidArgumentError } from '../errors.ts';
import { causeOf, type Gpu } from '../gpu.ts';
import { LaunchCache } from '../launch/cache.ts';
import type { LaunchEvent } from '../launch/options.ts';
import { type PassTimer, passTimer } from '../launch/pass-timer.ts';
import { checkLayout, checkPositive, type KvDtype } from './layout.ts';
import { chooseSegmentKeys, type Split } from './plan.ts';
import { type Found, findFastest, type LeftOut, type SearchHost, type Subject } from './search.ts';
import type { DecodeTile } from './tiles/decode.ts';
import type { MatrixDecodeTile, MatrixPrefillTile } from './tiles/matrix.ts';
import type { PrefillTile } from './tiles/prefill.ts';
import {
  type AttentionShape,
  chooseKernels,
  type KernelChoice,
  readTuning,
  sameShape,
  type TileSpace,
  type TunedSplit,
  type Tuning,
  type TuningEntry,
  type TuningStore,
  tileSpace,
  tuningKey,
  tuningOrigin,
  workgroupsPerItem,
} from './tuned.ts';
import { OpenWorkload, type ReadyWorkload, type Workload } from './workload.ts';

export interface TuneOptions {
  readonly shape: AttentionShape;
  /** Decode steps to be fast at: so many sequences of so many keys. Default: a few of each kind, small ones on a software adapter. */
  readonly decode?: readonly { readonly sequences: number; readonly keys: number }[];
  /** Prefills to be fast at: so many new tokens at the end of so many keys. */
  readonly prefill?: readonly { readonly tokens: number; readonly keys: number }[];
  /** Milliseconds after which nothing new is tried, but for the default, which is always timed; default 20,000. */
  readonly budget?: number;
  /** What is known already: its entries of other shapes stay. */
  readonly tuning?: unknown;
  readonly onProgress?: (progress: TuneProgress) => void;
  readonly signal?: AbortSignal;
}

export interface TuneProgress {
  readonly part: TunedPart['part'];
  /** Candidates. */
  readonly done: number;
  readonly total: number;
}

/** One choice that was made. */
export type TunedPart =
  | ({ readonly part: 'decode' } & Comparison<DecodeTile | MatrixDecodeTile>)
  | ({ readonly part: 'splits' } & Comparison<Split>)
  | ({ readonly part: 'prefill' } & Comparison<PrefillTile | MatrixPrefillTile>);

interface Comparison<T> extends Found<T> {
  readonly workloads: readonly Workload[];
  readonly default: T;
}

export interface TuneResult {
  readonly tuning: Tuning;
  /** What was compared, and what came of it. */
  readonly parts: readonly TunedPart[];
  /** Workloads that the device has no room for. */
  readonly leftOut: readonly LeftOut<Workload>[];
}

/** When a part must be done, as a share of the budget: what one does not need, the next one has. */
const shares = { decode: 0.45, splits: 0.6, prefill: 1 } as const;

/**
 * Measures on the device, in slices between which the host is free, and compares every candidate's output with the default's before it may win.
 * Needs memory for one workload of each kind, and gives all of it back. The device should have nothing else to do meanwhile.
 *
 * @throws {InvalidArgumentError} for a shape or workloads that make no sense. @throws {LimitExceededError} when nothing fits the device.
 * @throws {DeviceLostError} Also rejects with the signal's reason.
 */
export function tune(gpu: Gpu, options: TuneOptions): Promise<TuneResult> {
  return tuneAmong(gpu, options, (shape) => tileSpace(gpu, shape));
}

/**
 * What the store has for this device and shape, with no dispatch; where it has nothing, what `tune` finds, which is then kept.
 * Throws as `tune` does.
 */
export async function tuneOnce(gpu: Gpu, store: TuningStore, options: TuneOptions): Promise<Tuning> {
  const key = tuningKey(gpu);
  const kept = await store.load(key);
  const known = kept && readTuning(gpu, kept);
  if (known?.entries.some(({ shape }) => sameShape(shape, options.shape))) return known;
  const { tuning } = await tune(gpu, { tuning: known, ...options });
  await store.save(key, tuning);
  return tuning;
}

/** As `tune`, with the tiles that `spaceOf` gives for a shape. */
export async function tuneAmong(gpu: Gpu, options: TuneOptions, spaceOf: (shape: AttentionShape) => TileSpace): Promise<TuneResult> {
  checkOptions(options);
  const { shape } = options;
  // What is tuned is what serves all batches but large ones.
  const { large: _, ...choice } = chooseKernels(gpu, shape);
  const tuner = new Tuner(gpu, options, choice);
  try {
    const space = spaceOf(shape);
    await tuner.tuneDecode(space.decode);
    await tuner.tunePrefill(space.prefill);
    return tuner.result();
  } catch (error) {
    options.signal?.throwIfAborted();
    throw await causeOf(gpu, error);
  } finally {
    tuner.destroy();
  }
}

/** Largest difference from the default's output, as a share of the root mean square of the row: kernels may round weights to the dtype. */
const tolerances: Readonly<Record<KvDtype, number>> = { f32: 2e-4, f16: 4e-3, int8: 4e-3, fp8_e4m3: 4e-3, fp8_e5m2: 4e-3 };

class Tuner {
  readonly #gpu: Gpu;
  readonly #options: TuneOptions;
  readonly #choice: KernelChoice;
  readonly #timer: PassTimer;
  readonly #begin = performance.now();
  readonly #parts: TunedPart[] = [];
  readonly #leftOut: LeftOut<Workload>[] = [];
  #entry: TuningEntry;

  /** @param choice what runs without any tuning. */
  constructor(gpu: Gpu, options: TuneOptions, choice: KernelChoice) {
    this.#gpu = gpu;
    this.#options = options;
    this.#choice = choice;
    this.#timer = passTimer(gpu);
    this.#entry = { shape: plainShape(options.shape) };
  }

  /** Finds a decode tile, and then, with it, a split for each workload. */
  async tuneDecode(tiles: TileSpace['decode']): Promise<void> {
    const defaults = this.#gpu.adapter.software ? smallWorkloads.decode : workloads.decode;
    const asked = (this.#options.decode ?? defaults).map((one) => ({ ...one, tokens: 1 }));
    await this.#withWorkloads(asked, async (open) => {
      const found = await this.#search('decode', tiles, open, (decode) => ({ ...this.#choice, decode, only: 'decode' }));
      if (!found) return;
      this.#entry = { ...this.#entry, decode: found.best };
      const splits: TunedSplit[] = [];
      for (const one of open) {
        const choice = { ...this.#choice, decode: found.best, only: 'decode' } as const;
        const { sequences, keys } = one.workload;
        const candidates = splitSpace(this.#options.shape, choice, one.workload);
        const split = await this.#search('splits', candidates, [one], (candidate) => ({
          ...choice,
          splits: [{ sequences, keys, ...candidate }],
        }));
        if (split) splits.push({ sequences, keys, ...split.best });
      }
      this.#entry = { ...this.#entry, splits };
    });
  }

  async tunePrefill(tiles: TileSpace['prefill']): Promise<void> {
    const defaults = this.#gpu.adapter.software ? smallWorkloads.prefill : workloads.prefill;
    const asked = (this.#options.prefill ?? defaults).map((one) => ({ ...one, sequences: 1 }));
    await this.#withWorkloads(asked, async (open) => {
      const found = await this.#search('prefill', tiles, open, (prefill) => ({ ...this.#choice, prefill, only: 'prefill' }));
      if (found) this.#entry = { ...this.#entry, prefill: found.best };
    });
  }

  result(): TuneResult {
    const { tuning, shape } = this.#options;
    const known = tuning === undefined ? undefined : readTuning(this.#gpu, tuning);
    const isFound = this.#entry.decode !== undefined || this.#entry.prefill !== undefined;
    const others = (known?.entries ?? []).filter((entry) => !isFound || !sameShape(entry.shape, shape));
    return {
      tuning: { version: 1, origin: tuningOrigin(this.#gpu), entries: isFound ? [...others, this.#entry] : others },
      parts: this.#parts,
      leftOut: this.#leftOut,
    };
  }

  destroy(): void {
    this.#timer.destroy();
  }

  /** Opens what fits, for as long as `use` takes. */
  async #withWorkloads(asked: readonly Workload[], use: (open: readonly OpenedWorkload[]) => Promise<void>): Promise<void> {
    const open: OpenedWorkload[] = [];
    try {
      for (const workload of asked) {
        await this.#pause();
        try {
          open.push({ workload, data: await OpenWorkload.open(this.#gpu, this.#options.shape, workload) });
        } catch (error) {
          this.#check();
          this.#leftOut.push({ candidate: workload, reason: reasonOf(error) });
        }
      }
      if (open.length > 0) await use(open);
    } finally {
      for (const { data } of open) data.destroy();
    }
  }

  /** @returns undefined where the budget was spent before; the first search times the default at least, so that whatever the host a tuning names a tile. */
  async #search<T extends DecodeTile | MatrixDecodeTile | PrefillTile | MatrixPrefillTile | Split>(
    part: TunedPart['part'],
    candidates: readonly T[],
    open: readonly OpenedWorkload[],
    choose: (candidate: T) => KernelChoice,
  ): Promise<Found<T> | undefined> {
    const { budget = defaultBudget, onProgress } = this.#options;
    if (this.#parts.length > 0 && performance.now() - this.#begin >= budget) return undefined;
    let expected: readonly Float32Array[] | undefined;
    const host: SearchHost<T> = {
      open: async (candidate) => {
        await this.#pause();
        const subject = await Candidate.open(this.#gpu, open, choose(candidate), this.#timer, () => this.#pause());
        try {
          const outputs = await subject.compute();
          if (expected && subject.fallback) throw subject.fallback;
          if (expected) compareOutputs(outputs, expected, this.#options.shape);
          expected ??= outputs;
          return subject;
        } catch (error) {
          subject.destroy();
          throw error;
        }
      },
      now: () => performance.now(),
      check: () => this.#check(),
      onTried: (done) => onProgress?.({ part, done, total: candidates.length }),
    };
    const found = await findFastest(candidates, host, this.#begin + budget * shares[part]);
    const comparison = { ...found, workloads: open.map(({ workload }) => workload), default: candidates[0] };
    this.#parts.push({ part, ...comparison } as unknown as TunedPart);
    return found;
  }

  #check(): void {
    this.#options.signal?.throwIfAborted();
    if (this.#gpu.loss) throw this.#gpu.loss;
  }

  /** Lets the host do what waits; resolves when it has nothing else to do, or soon. */
  async #pause(): Promise<void> {
    this.#check();
    await new Promise<void>((resolve) => {
      if (typeof globalThis.requestIdleCallback === 'function') requestIdleCallback(() => resolve(), { timeout: 100 });
      else setTimeout(resolve);
    });
    this.#check();
  }
}

interface OpenedWorkload {
  readonly workload: Workload;
  readonly data: OpenWorkload;
}

/** One choice of kernels, ready to run all workloads of a part. */
class Candidate implements Subject {
  /** Why another kernel than the choice's runs, where it does. */
  fallback: unknown;
  readonly #cache: LaunchCache;
  readonly #ready: ReadyWorkload[] = [];
  readonly #timer: PassTimer;
  readonly #pause: () => Promise<void>;

  static async open(
    gpu: Gpu,
    workloads: readonly OpenedWorkload[],
    choice: KernelChoice,
    timer: PassTimer,
    pause: () => Promise<void>,
  ): Promise<Candidate> {
    let fallback: unknown;
    const onEvent = (event: LaunchEvent) => {
      if (event.type === 'fallback') fallback = event.reason;
    };
    // Tiles are frozen in a launch cache: each candidate has one.
    const candidate = new Candidate(new LaunchCache(gpu, { argumentSlots: 64, onEvent }), timer, pause);
    try {
      for (const { data } of workloads) candidate.#ready.push(await data.prepare(candidate.#cache, choice));
      candidate.fallback = fallback;
      return candidate;
    } catch (error) {
      candidate.destroy();
      throw error;
    }
  }

  private constructor(cache: LaunchCache, timer: PassTimer, pause: () => Promise<void>) {
    this.#cache = cache;
    this.#timer = timer;
    this.#pause = pause;
  }

  async time(): Promise<readonly number[]> {
    const times: number[] = [];
    for (const ready of this.#ready) {
      await this.#pause();
      times.push(await ready.time(this.#timer));
    }
    return times;
  }

  async compute(): Promise<readonly Float32Array[]> {
    const outputs: Float32Array[] = [];
    for (const ready of this.#ready) {
      await this.#pause();
      outputs.push(await ready.compute());
    }
    return outputs;
  }

  destroy(): void {
    for (const ready of this.#ready) ready.destroy();
    this.#cache.destroy();
  }
}

/** @throws {Error} where rows differ by more than the dtype allows. */
function compareOutputs(actual: readonly Float32Array[], expected: readonly Float32Array[], { headDim, dtype }: AttentionShape): void {
  actual.forEach((output, workload) => {
    for (let at = 0; at < output.length; at += headDim) {
      let squares = 0;
      let largest = 0;
      for (let d = at; d < at + headDim; d++) {
        const value = expected[workload][d];
        squares += value * value;
        const difference = Math.abs(output[d] - value);
        if (!(difference <= largest)) largest = difference; // NaN stays
      }
      const share = largest / Math.sqrt(squares / headDim);
      if (!(share <= tolerances[dtype]))
        throw new Error(`its output differs from the default's, by ${share.toPrecision(3)} of a row's size`);
    }
  });
}

/** Splits that cut a workload's keys into different numbers of segments; the default first. */
export function splitSpace(shape: AttentionShape, choice: KernelChoice, { sequences, keys }: Workload): readonly Split[] {
  const workgroups = workgroupsPerItem(shape, choice.decode);
  const batch = Array.from({ length: sequences }, () => ({ tableRow: 0, blocks: [], queryLen: 1, seqLen: keys }));
  const { targetWorkgroups, minSegmentKeys } = choice.split;
  const chosen = chooseSegmentKeys(batch, workgroups, choice.split);
  const targets = [512, 256, 1024, 128, 2048, 4096].filter((target) => target <= targetWorkgroups * workgroups);
  const splits = [256, 128, 64, 512].flatMap((least) => targets.map((target) => ({ targetWorkgroups: target, minSegmentKeys: least })));
  const bySegments = new Map<number, Split>();
  for (const split of [{ targetWorkgroups, minSegmentKeys: Math.min(minSegmentKeys, chosen) }, ...splits]) {
    const segments = Math.ceil(keys / chooseSegmentKeys(batch, workgroups, split));
    if (!bySegments.has(segments)) bySegments.set(segments, split);
  }
  return [...bySegments.values()];
}

const defaultBudget = 20_000;

const workloads = {
  decode: [
    { sequences: 1, keys: 1024 },
    { sequences: 1, keys: 8192 },
    { sequences: 8, keys: 2048 },
  ],
  prefill: [
    { tokens: 512, keys: 512 },
    { tokens: 2048, keys: 2048 },
  ],
} as const;

const smallWorkloads = { decode: [{ sequences: 1, keys: 512 }], prefill: [{ tokens: 64, keys: 64 }] } as const;

function checkOptions({ shape, decode = [], prefill = [], budget = defaultBudget }: TuneOptions): void {
  checkLayout(shape);
  checkPositive('numHeads', shape.numHeads);
  if (shape.numHeads % shape.numKvHeads !== 0)
    throw new InvalidArgumentError('numHeads', shape.numHeads, `a positive multiple of numKvHeads (${shape.numKvHeads})`);
  if (!(budget > 0)) throw new InvalidArgumentError('budget', budget, 'a positive number of milliseconds');
  for (const one of [...decode, ...prefill]) for (const [name, value] of Object.entries(one)) checkPositive(name, value);
  for (const { tokens, keys } of prefill)
    if (tokens > keys) throw new InvalidArgumentError('tokens', tokens, `at most the workload's keys (${keys})`);
}

/** The fields of a shape, and no others that the caller's object may have. */
function plainShape({ numHeads, numKvHeads, headDim, blockSize, dtype, scales }: AttentionShape): AttentionShape {
  return { numHeads, numKvHeads, headDim, blockSize, dtype, ...(scales && { scales }) };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
