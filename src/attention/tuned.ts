/**
 * What tuning found, as JSON: where it was measured, and for each shape of attention the tiles and splits that were fastest. Nothing that
 * comes from a file is trusted: a tile counts only where it is in the space that this device and shape would search.
 */
import { LimitExceededError } from '../errors.ts';
import type { AdapterDescription, Gpu } from '../gpu.ts';
import { hostName, isNagaHost } from '../host.ts';
import { indexedDbStore, type JsonKind, type JsonStore, type JsonStoreOptions, type TextFiles, textStore } from '../launch/json-store.ts';
import { hash } from '../launch/manifest.ts';
import { sameJson } from '../same-json.ts';
import { version } from '../version.ts';
import { adapterDefaults } from './adapters.ts';
import { attentionKernels, type KernelParts } from './kernels.ts';
import { hasTokenScales, type KvDtype, type KvLayout, kvFormats } from './layout.ts';
import { type LargeSplit, planPrelude, type Split } from './plan.ts';
import { type DecodeTile, decodeTileSpace } from './tiles/decode.ts';
import {
  isMatrixTile,
  largeDecodeTile,
  largeSplit,
  type MatrixDecodeTile,
  type MatrixPrefillTile,
  matrixDecodeTileSpace,
  matrixPrefillTileSpace,
} from './tiles/matrix.ts';
import { type PrefillTile, prefillTileSpace } from './tiles/prefill.ts';

/** What attention is compiled for. */
export interface AttentionShape extends KvLayout {
  /** Query heads; a multiple of `numKvHeads`. */
  readonly numHeads: number;
}

/** The best split of a decode step of so many sequences, of so many keys each. */
export interface TunedSplit extends Split {
  readonly sequences: number;
  readonly keys: number;
}

/** What was found for one shape; what is left out was not measured, and the default holds. */
export interface TuningEntry {
  readonly shape: AttentionShape;
  readonly decode?: DecodeTile | MatrixDecodeTile;
  readonly prefill?: PrefillTile | MatrixPrefillTile;
  readonly splits?: readonly TunedSplit[];
}

/** Where a tuning was measured. It holds nowhere else. */
export interface TuningOrigin {
  /** Pagewise's version. */
  readonly library: string;
  /** A hash of the kernels' WGSL. */
  readonly wgsl: string;
  readonly adapter: Omit<AdapterDescription, 'software'>;
  readonly host: string;
  /** What the device has of the features and limits that decide which kernels it can run. */
  readonly features: readonly string[];
}

/** Plain JSON, to be kept and given to `PagedAttention` or `Engine.load`. */
export interface Tuning {
  readonly version: 1;
  readonly origin: TuningOrigin;
  readonly entries: readonly TuningEntry[];
}

export type TuningStore = JsonStore<Tuning>;

export function tuningOrigin({ device, limits, adapter }: Gpu): TuningOrigin {
  const { vendor, architecture, device: name, description } = adapter;
  return {
    library: version,
    wgsl: hash([planPrelude, ...attentionKernels.flatMap(({ source }) => source)].join('\n')),
    adapter: { vendor, architecture, device: name, description },
    host: hostName(),
    features: [
      ...['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'].filter((feature) => device.features.has(feature)),
      `${limits.maxComputeWorkgroupStorageSize} bytes of workgroup memory`,
    ],
  };
}

/** The key under which a store keeps the tuning of this device: another device, host, library or WGSL has another one. */
export function tuningKey(gpu: Gpu): string {
  return JSON.stringify(tuningOrigin(gpu));
}

const tunings: JsonKind<Tuning> = { name: 'tuning', field: 'tuning', collection: 'tunings', is: isTuning };

/** Tunings in a page's IndexedDB, in a database of this name: the one of the manifests. */
export function indexedDbTunings(name?: string, options?: JsonStoreOptions): TuningStore {
  return indexedDbStore(tunings, name, options);
}

/** Tunings as JSON texts, one for each key. */
export function textTunings(files: TextFiles, options?: JsonStoreOptions): TuningStore {
  return textStore(tunings, files, options);
}

/** What one `PagedAttention` runs with. */
export interface KernelChoice {
  readonly decode: DecodeTile | MatrixDecodeTile;
  readonly prefill: PrefillTile | MatrixPrefillTile;
  /** For steps that its split calls large, instead of `decode`. */
  readonly large?: { readonly tile: MatrixDecodeTile; readonly split: LargeSplit };
  /** What takes the place of `decode` and `prefill` where these are of matrices and do not compile. */
  readonly plainDecode: DecodeTile;
  /** What takes the place of a decode kernel by subgroups that does not compile. */
  readonly barrierDecode: DecodeTile;
  readonly plainPrefill: PrefillTile;
  readonly parts?: KernelParts;
  /** At least one; a step takes the nearest. */
  readonly splits: readonly TunedSplit[];
  /** What holds where the buffer of partial states would be too large for `splits`: what was not tuned. */
  readonly split: TunedSplit;
  /** While tuning: nothing else is compiled, or launched. */
  readonly only?: 'decode' | 'prefill';
}

export interface ChoiceOptions extends Partial<Split> {
  readonly maxInvocations?: number;
  readonly deterministic?: boolean;
  readonly subgroupMatrices?: boolean;
  readonly shaderF16?: boolean;
  readonly tuning?: unknown;
  readonly onTuningProblem?: (problem: string) => void;
}

/**
 * The tiles and splits for a shape: what options say, else what was tuned for the shape or the nearest to it, else the adapter's defaults.
 * @throws {LimitExceededError} when no kernel variant fits into the device's workgroup memory.
 */
export function chooseKernels(gpu: Gpu, shape: AttentionShape, options: ChoiceOptions = {}): KernelChoice {
  const { deterministic = false, tuning, onTuningProblem } = options;
  const entries = tuning === undefined ? [] : nearestEntries(readTuning(gpu, tuning, onTuningProblem), shape);
  const space = tileSpace(gpu, shape, options);
  const decode = pickTile('decode', space.decode, entries, onTuningProblem);
  const prefill = pickTile('prefill', space.prefill, entries, onTuningProblem);
  const plainDecode = space.decode.find((tile): tile is DecodeTile => !isMatrixTile(tile));
  const barrierDecode = space.decode.find((tile): tile is DecodeTile => !isMatrixTile(tile) && !tile.subgroups);
  const plainPrefill = space.prefill.find((tile): tile is PrefillTile => !isMatrixTile(tile));
  if (!decode || !prefill || !plainDecode || !barrierDecode || !plainPrefill) {
    const { maxComputeWorkgroupStorageSize: granted } = gpu.limits;
    const what = `Attention with headDim ${shape.headDim}`;
    const remedy = 'Open the device with larger limits.';
    throw new LimitExceededError(what, 'maxComputeWorkgroupStorageSize', shape.headDim * 64, granted, remedy);
  }
  const { targetWorkgroups, minSegmentKeys, unsplitKeys, leastWorkgroups } = adapterDefaults(gpu.adapter);
  // In deterministic mode keys are cut at the same places whatever the batch, so that there may be more states than the GPU needs.
  const split = {
    ...{ sequences: 1, keys: 1 },
    targetWorkgroups: deterministic ? Number.POSITIVE_INFINITY : (options.targetWorkgroups ?? targetWorkgroups),
    minSegmentKeys: options.minSegmentKeys ?? (deterministic ? 1024 : minSegmentKeys),
    unsplitKeys: options.minSegmentKeys ?? (deterministic ? 1024 : unsplitKeys),
    leastWorkgroups: deterministic || options.minSegmentKeys !== undefined ? 0 : leastWorkgroups,
  };
  const isFixed = deterministic || options.targetWorkgroups !== undefined || options.minSegmentKeys !== undefined;
  const tuned = isFixed ? undefined : entries.find(({ splits }) => splits && splits.length > 0)?.splits;
  // An item is several workgroups, so that more of these take no more room; beyond that they would.
  const most = split.targetWorkgroups * workgroupsPerItem(shape, decode);
  const splits = tuned?.map(({ sequences, keys, targetWorkgroups, minSegmentKeys }) => {
    return { sequences, keys, minSegmentKeys, targetWorkgroups: Math.min(targetWorkgroups, most) };
  });
  const large = space.large && !isFixed ? { large: { tile: space.large, split: largeSplit } } : {};
  return { decode, prefill, ...large, plainDecode, barrierDecode, plainPrefill, splits: splits ?? [split], split };
}

/** Workgroups of one work item of the decode kernel. */
export function workgroupsPerItem({ numHeads, numKvHeads }: AttentionShape, { headTile }: Pick<DecodeTile, 'headTile'>): number {
  return numKvHeads * Math.ceil(numHeads / numKvHeads / headTile);
}

/** The tiles to choose among, the defaults first. */
export interface TileSpace {
  readonly decode: readonly (DecodeTile | MatrixDecodeTile)[];
  /** For large batches, where there is one. */
  readonly large?: MatrixDecodeTile;
  readonly prefill: readonly (PrefillTile | MatrixPrefillTile)[];
}

/** All tiles that a device can run for a shape, as far as tuning looks and options allow; the default first. */
export function tileSpace(
  { limits, adapter, features, subgroupMinSize, wgslLanguageFeatures }: Gpu,
  shape: AttentionShape,
  options: Pick<ChoiceOptions, 'maxInvocations' | 'subgroupMatrices' | 'shaderF16'> = {},
): TileSpace {
  const { maxInvocations: most, subgroupMatrices = true, shaderF16 = true } = options;
  const groupSize = shape.numHeads / shape.numKvHeads;
  const memory = limits.maxComputeWorkgroupStorageSize;
  const maxInvocations = most ?? adapterDefaults(adapter).maxInvocations;
  const device = {
    ...{ memory, maxInvocations, subgroupSize: subgroupMinSize },
    shaderF16: shaderF16 && features.shaderF16,
    byteProducts: wgslLanguageFeatures.has('packed_4x8_integer_dot_product'),
    byteMatrices: features.byteMatrices,
    countsRounds: isNagaHost(),
  };
  const decodesByMatrices = subgroupMatrices && features.narrowMatrices;
  return {
    decode: [
      ...(decodesByMatrices ? matrixDecodeTileSpace(shape, groupSize, device) : []),
      ...decodeTileSpace(shape, groupSize, device, most),
    ],
    large: decodesByMatrices ? largeDecodeTile(shape, groupSize, device) : undefined,
    prefill: [
      ...(subgroupMatrices && features.subgroupMatrices ? matrixPrefillTileSpace(shape, groupSize, memory, maxInvocations) : []),
      ...prefillTileSpace(shape, groupSize, memory, maxInvocations, most),
    ],
  };
}

/** The split that was measured nearest to a decode step: by the ratios of sequences and of keys. */
export function nearestSplit(splits: readonly TunedSplit[], sequences: number, keys: number): TunedSplit {
  let nearest = splits[0];
  if (splits.length === 1) return nearest;
  const distance = (split: TunedSplit) => ratio(split.sequences, Math.max(1, sequences)) + ratio(split.keys, Math.max(1, keys));
  for (const split of splits) if (distance(split) < distance(nearest)) nearest = split;
  return nearest;
}

/** The tuning, where it was measured here; else undefined, and `onProblem` hears why. */
export function readTuning(gpu: Gpu, tuning: unknown, onProblem?: (problem: string) => void): Tuning | undefined {
  if (!isTuning(tuning)) {
    onProblem?.('the tuning is damaged, or of another version of the format; it is ignored');
    return undefined;
  }
  const here = tuningOrigin(gpu);
  const different = (Object.keys(here) as (keyof TuningOrigin)[]).find((name) => !sameJson(here[name], tuning.origin[name]));
  if (different === undefined) return tuning;
  const [there, own] = [tuning.origin[different], here[different]].map((value) => JSON.stringify(value));
  onProblem?.(`the tuning was measured elsewhere: its ${different} is ${there}, not ${own}; it is ignored`);
  return undefined;
}

/** Entries that hold for a shape, the nearest first. What is compiled in must be equal; heads and block sizes may be near. */
function nearestEntries(tuning: Tuning | undefined, shape: AttentionShape): readonly TuningEntry[] {
  const distance = ({ shape: other }: TuningEntry) => ratio(other.numKvHeads, shape.numKvHeads) + ratio(other.blockSize, shape.blockSize);
  return (tuning?.entries ?? []).filter((entry) => sameKernels(entry.shape, shape)).sort((a, b) => distance(a) - distance(b));
}

function sameKernels(a: AttentionShape, b: AttentionShape): boolean {
  const groups = a.numHeads * b.numKvHeads === b.numHeads * a.numKvHeads;
  return groups && a.headDim === b.headDim && a.dtype === b.dtype && hasTokenScales(a) === hasTokenScales(b);
}

export function sameShape(a: AttentionShape, b: AttentionShape): boolean {
  return sameKernels(a, b) && a.numKvHeads === b.numKvHeads && a.blockSize === b.blockSize;
}

/** The nearest entry's tile that is in the space, else the default. */
function pickTile<K extends 'decode' | 'prefill'>(
  kind: K,
  space: readonly KernelChoice[K][],
  entries: readonly TuningEntry[],
  onProblem?: (problem: string) => void,
): KernelChoice[K] | undefined {
  for (const entry of entries) {
    const tile = entry[kind];
    if (tile === undefined) continue;
    const known = space.find((one) => sameJson(one, tile));
    if (known) return known;
    onProblem?.(`the tuned ${kind} tile ${JSON.stringify(tile)} does not fit this device and shape; it is ignored`);
  }
  return space[0];
}

/** Whether this has a tuning's form, all its numbers within what kernels and planner can take; its tiles may still be impossible. */
export function isTuning(value: unknown): value is Tuning {
  if (!isRecord(value) || value.version !== 1 || !isRecord(value.origin) || !Array.isArray(value.entries)) return false;
  return value.entries.every(isEntry);
}

function isEntry(value: unknown): value is TuningEntry {
  if (!isRecord(value) || !isRecord(value.shape)) return false;
  const { shape, decode, prefill, splits } = value;
  const isSized = ['numHeads', 'numKvHeads', 'headDim', 'blockSize'].every((name) => isCount(shape[name]));
  const isShape = isSized && Object.hasOwn(kvFormats, shape.dtype as KvDtype);
  const isTile = (tile: unknown) =>
    tile === undefined || (isRecord(tile) && Object.values(tile).every((value) => isCount(value) || typeof value === 'boolean'));
  return isShape && isTile(decode) && isTile(prefill) && (splits === undefined || (Array.isArray(splits) && splits.every(isSplit)));
}

function isSplit(value: unknown): value is TunedSplit {
  if (!isRecord(value) || !isCount(value.sequences) || !isCount(value.keys)) return false;
  const { targetWorkgroups, minSegmentKeys } = value;
  return isCount(targetWorkgroups) && targetWorkgroups <= 65536 && isCount(minSegmentKeys) && minSegmentKeys >= 16;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** How far apart two sizes are: 0 for equal ones, 1 for a factor of two. */
function ratio(a: number, b: number): number {
  return Math.abs(Math.log2(a / b));
}
