/** The acceptance grid of attention: what a case can be asked for, what goes together, and sets of cases. Pure. */

import { loadWords, rowBytes } from '../../src/attention/layout.ts';
import { chooseDecodeTile } from '../../src/attention/tiles/decode.ts';
import { choosePrefillTile } from '../../src/attention/tiles/prefill.ts';
import type { KvDtype, KvScales } from '../../src/index.ts';
import type { Variant } from '../harness/events.ts';
import { type Random, random } from '../harness/random.ts';
import { type Axes, pairsOf, pairwise, type Rule } from './pairwise.ts';

/** (queryLen, seqLen) of one sequence. */
export type Lengths = readonly [queryLen: number, seqLen: number];

const repeat = (count: number, of: (random: Random) => Lengths): readonly Lengths[] => {
  const numbers = random(count);
  return Array.from({ length: count }, () => of(numbers));
};

const gridLengths = {
  'decode, draft and prompt': [
    [1, 1328],
    [5, 18],
    [129, 463],
  ],
  'three single tokens': [
    [1, 523],
    [1, 37],
    [1, 2011],
  ],
  'one key': [[1, 1]],
  'round a block': [
    [1, 15],
    [1, 16],
    [1, 17],
  ],
  'a prompt of 7': [[7, 7]],
  'a chunk of 16': [[16, 1040]],
  '533 of one key': repeat(533, () => [1, 1]),
  '64 mixed': repeat(64, ({ integer }) => {
    const queryLen = [1, 1, 1 + integer(5), 1 + integer(40)][integer(4)];
    return [queryLen, queryLen + integer(160)];
  }),
  'no query in the middle': [
    [1, 40],
    [0, 33],
    [6, 70],
  ],
  'one long among 31 short': [[1, 16_384], ...repeat(31, ({ integer }) => [1, 1 + integer(60)] as const)],
  'six over one prefix': [
    [1, 1090],
    [1, 1010],
    [3, 1040],
    [1, 1001],
    [9, 1160],
    [1, 1100],
  ],
} as const satisfies Readonly<Record<string, readonly Lengths[]>>;

/** Of cases outside the grid. */
const otherLengths = {
  'on edges of blocks, tiles and pieces': [
    [1, 512],
    [1, 511],
    [1, 449],
    [1, 448],
    [1, 65],
    [1, 64],
    [1, 63],
    [16, 128],
    [17, 129],
    [15, 127],
    [32, 32],
    [33, 33],
  ],
  'three long and a draft': [
    [1, 400],
    [1, 257],
    [5, 300],
    [1, 1],
  ],
} as const satisfies Readonly<Record<string, readonly Lengths[]>>;

export const lengthLists = { ...gridLengths, ...otherLengths };

/** How keys and values are stored. */
export const storages = {
  f32: { dtype: 'f32' },
  f16: { dtype: 'f16' },
  'int8 by token': { dtype: 'int8', scales: 'token' },
  'int8 by tensor': { dtype: 'int8', scales: 'tensor' },
  'e4m3 by token': { dtype: 'fp8_e4m3', scales: 'token' },
  'e4m3 by tensor': { dtype: 'fp8_e4m3', scales: 'tensor' },
  'e5m2 by token': { dtype: 'fp8_e5m2', scales: 'token' },
  'e5m2 by tensor': { dtype: 'fp8_e5m2', scales: 'tensor' },
} as const satisfies Readonly<Record<string, { readonly dtype: KvDtype; readonly scales?: KvScales }>>;

/** What is compiled into the kernels: cases of one layout share their pipelines. */
export interface GridLayout {
  readonly device: Variant;
  /** Query heads and KV heads. */
  readonly heads: '4/4' | '8/2' | '5/1' | '16/2' | '32/8' | '14/2' | '64/1';
  readonly headDim: number;
  readonly blockSize: number;
  readonly storage: keyof typeof storages;
  /** Buffers of the pool. */
  readonly buffers: 1 | 3;
  /** SwiftShader's workgroups, or a GPU's. */
  readonly maxInvocations: number;
  /** Scores and masks in WGSL of the caller's. */
  readonly modified: boolean;
}

export interface GridCase extends GridLayout {
  readonly lengths: keyof typeof lengthLists;
  readonly window: number | 'none' | 'longer';
  readonly keepFirst: number;
  readonly softcap: number | 'none';
  readonly alibi: 'none' | 'linear' | 'sqrt';
  readonly sinks: 'none' | 'normal' | '+-40';
  /** Pieces of the longest row; `chosen`: as the planner does without being told. */
  readonly splits: number | 'none' | 'chosen';
  /** `full`: every token sees all keys; `ranges`: some see one another in both directions; `tree`: with biases among new tokens. */
  readonly order: 'causal' | 'full' | 'ranges' | 'tree';
  /** `own`: every sequence has blocks of its own; `shared`: all have the first blocks in common; `told`: the plan is told so. */
  readonly prefix: 'own' | 'shared' | 'told';
  /** `prefill`: single tokens go through the prefill kernel, too. */
  readonly route: 'by length' | 'prefill';
  readonly deterministic: boolean;
  readonly logSumExp: boolean;
  /** Where query, key and value are: in three buffers, or with gaps in one. */
  readonly operands: 'apart' | 'packed';
  readonly rotary: 'none' | 'whole' | 'part';
}

/** Every option at what it is where nobody asks for it; what cases written by hand start from. */
export const plainCase: Omit<GridCase, 'device' | 'maxInvocations' | 'heads' | 'headDim' | 'storage'> = {
  blockSize: 16,
  buffers: 1,
  modified: false,
  lengths: 'three long and a draft',
  window: 'none',
  keepFirst: 0,
  softcap: 'none',
  alibi: 'none',
  sinks: 'none',
  splits: 'none',
  order: 'causal',
  prefix: 'own',
  route: 'by length',
  deterministic: false,
  logSumExp: true,
  operands: 'apart',
  rotary: 'none',
};

const layoutAxes: Axes<GridLayout> = {
  device: ['granted', 'default'],
  heads: ['4/4', '8/2', '5/1', '16/2', '32/8', '14/2', '64/1'],
  headDim: [24, 32, 64, 80, 96, 120, 128, 192, 256],
  blockSize: [8, 16, 32, 64],
  storage: Object.keys(storages) as (keyof typeof storages)[],
  buffers: [1, 3],
  maxInvocations: [8, 64],
  modified: [false, true],
};

export const gridAxes: Axes<GridCase> = {
  ...layoutAxes,
  lengths: Object.keys(gridLengths) as (keyof typeof gridLengths)[],
  window: ['none', 1, 16, 64, 128, 256, 2048, 'longer'],
  keepFirst: [0, 5, 70],
  softcap: ['none', 1, 30, 50],
  alibi: ['none', 'linear', 'sqrt'],
  sinks: ['none', 'normal', '+-40'],
  splits: ['none', 1, 2, 7, 16, 'chosen'],
  order: ['causal', 'full', 'ranges', 'tree'],
  prefix: ['own', 'shared', 'told'],
  route: ['by length', 'prefill'],
  deterministic: [false, true],
  logSumExp: [false, true],
  operands: ['apart', 'packed'],
  rotary: ['none', 'whole', 'part'],
};

export function headsOf({ heads }: Pick<GridLayout, 'heads'>): { readonly numHeads: number; readonly numKvHeads: number } {
  const [numHeads, numKvHeads] = heads.split('/').map(Number);
  return { numHeads, numKvHeads };
}

export function longestOf({ lengths }: Pick<GridCase, 'lengths'>): number {
  return lengthLists[lengths].reduce((longest: number, [, seqLen]) => Math.max(longest, seqLen), 0);
}

/** Slots of all blocks that the sequences take. */
function slotsOf({ lengths, blockSize }: Pick<GridCase, 'lengths' | 'blockSize'>): number {
  return lengthLists[lengths].reduce((sum: number, [, seqLen]) => sum + Math.ceil(seqLen / blockSize) * blockSize, 0);
}

/** Keys that all sequences can have in common: whole blocks, before every new token. 0 where it would not be worth a test. */
export function prefixOf({ lengths, blockSize }: Pick<GridCase, 'lengths' | 'blockSize'>): number {
  const list: readonly Lengths[] = lengthLists[lengths];
  const context = list.reduce((least, [queryLen, seqLen]) => Math.min(least, seqLen - queryLen), Number.POSITIVE_INFINITY);
  return list.length > 1 ? Math.floor(context / blockSize) * blockSize : 0;
}

/** Keys of one piece of a row, at least a tile of 64; undefined: the planner's choice. */
export function segmentKeysOf({ splits, lengths }: Pick<GridCase, 'splits' | 'lengths'>): number | undefined {
  if (splits === 'chosen') return undefined;
  return splits === 'none' ? 100_000 : Math.max(64, Math.ceil(longestOf({ lengths }) / splits));
}

/** Values of all keys, and of all values, of a case's blocks; at most these. */
const maxPoolValues = 5e6;
/** Multiplications for all scores of a case: a second or so of a software adapter. */
const maxProducts = 5e8;
const maxPartialBytes = 2 ** 26;

/**
 * Rounds of all loops together that one invocation of the attention kernels may take: lavapipe ends loops after 65,536, without an error.
 * An upper bound from the loops of decode.wgsl and prefill.wgsl that are not written out.
 */
function rounds(of: GridCase): number {
  const { numHeads, numKvHeads } = headsOf(of);
  const { headDim, blockSize, device, maxInvocations, route, lengths, deterministic } = of;
  const groupSize = numHeads / numKvHeads;
  const memory = device === 'default' ? 16_384 : 32_768;
  const list: readonly Lengths[] = lengthLists[lengths];
  const segmentKeys = segmentKeysOf(of) ?? 4096;
  const decodes = ([queryLen]: Lengths) => queryLen === 1 && route === 'by length';
  const most = (sequences: readonly Lengths[], isSplit: (queryLen: number) => boolean) =>
    sequences.reduce((keys, [queryLen, seqLen]) => Math.max(keys, isSplit(queryLen) ? Math.min(seqLen, segmentKeys) : seqLen), 0);
  const decodeKeys = most(list.filter(decodes), () => true);
  const prefillKeys = most(
    list.filter((one) => !decodes(one)),
    (queryLen) => !deterministic && queryLen <= 16,
  );
  const layout = { blockSize, numKvHeads, headDim, ...storages[of.storage] };
  const { rowTile, keyTile, rowsPerThread, keysPerThread, tokens } = choosePrefillTile(layout, groupSize, memory, maxInvocations)!;
  const keyGroups = keyTile / keysPerThread;
  const invocations = (rowTile / rowsPerThread) * keyGroups;
  const loads = Math.ceil((keyTile * rowBytes(layout)) / (4 * loadWords(layout)) / invocations);
  const prefillTile = 1 + Math.ceil(keyTile / invocations) * (1 + tokens) + headDim / 4 + keyGroups + 2 * loads; // at most
  const prefill = (prefillKeys / keyTile + 1) * prefillTile + (5 * rowTile * headDim) / 4 / invocations;
  const plain = { memory, maxInvocations, subgroupSize: 0, shaderF16: false, byteProducts: false };
  const decodeTile = chooseDecodeTile(layout, groupSize, plain)!;
  const decodeKeyTile = (decodeTile.invocations / decodeTile.keyThreads) * decodeTile.keysPerThread;
  const decode = 2 * (decodeKeys / decodeKeyTile + 1) + (6 * decodeTile.headTile * headDim) / decodeTile.invocations + 500;
  return Math.max(prefill, decode);
}

/** Bytes of the partial states that are made room for; see `maxPartials` in src/attention/plan.ts. */
function partialBytes(of: GridCase): number {
  const { length } = lengthLists[of.lengths];
  const segment = segmentKeysOf(of) ?? (of.deterministic ? 1024 : 128);
  const segments = Math.ceil((longestOf(of) + of.blockSize) / segment);
  const drafts = of.deterministic ? 0 : 16 * segments;
  return (length * segments + length + drafts) * headsOf(of).numHeads * (of.headDim + 4) * 4;
}

const layoutRules: readonly Rule<GridLayout>[] = [
  // The default limits bind eight storage buffers, of which one is left for the pool.
  { axes: ['buffers', 'device'], holds: ({ buffers, device }) => buffers === 1 || device === 'granted' },
];

export const gridRules: readonly Rule<GridCase>[] = [
  { axes: ['keepFirst', 'window'], holds: ({ keepFirst, window }) => keepFirst === 0 || window !== 'none' },
  // Ranges and trees are of several new tokens.
  {
    axes: ['order', 'lengths'],
    holds: ({ order, lengths }) =>
      order === 'causal' || order === 'full' || lengthLists[lengths].some(([queryLen]) => (queryLen as number) > 4),
  },
  // Far ahead, a linear bias leaves f32 no digits for the scores.
  {
    axes: ['order', 'alibi', 'lengths'],
    holds: ({ order, alibi, lengths }) => order !== 'full' || alibi !== 'linear' || longestOf({ lengths }) <= 100,
  },
  { axes: ['prefix', 'lengths', 'blockSize'], holds: (of) => of.prefix === 'own' || prefixOf(of) > 0 },
  // What is told to be shared is cut by the batch.
  { axes: ['prefix', 'deterministic'], holds: ({ prefix, deterministic }) => prefix !== 'told' || !deterministic },
  {
    axes: ['lengths', 'blockSize', 'heads', 'headDim'],
    holds: (of) => slotsOf(of) * headsOf(of).numKvHeads * of.headDim <= maxPoolValues,
  },
  {
    axes: ['lengths', 'heads', 'headDim'],
    holds: (of) => {
      const list: readonly Lengths[] = lengthLists[of.lengths];
      const keys = list.reduce((sum, [queryLen, seqLen]) => sum + queryLen * seqLen, 0);
      return keys * headsOf(of).numHeads * of.headDim <= maxProducts;
    },
  },
  {
    axes: ['lengths', 'splits', 'deterministic', 'blockSize', 'heads', 'headDim'],
    holds: (of) => partialBytes(of) <= maxPartialBytes,
  },
  {
    axes: ['lengths', 'splits', 'route', 'deterministic', 'device', 'heads', 'headDim', 'maxInvocations'],
    holds: (of) => rounds(of) <= 60_000,
  },
];

export interface GridOptions {
  readonly seed: number;
  /** Cases to make. */
  readonly count: number;
  /** Layouts, and so pipelines, that they share; default: as many as let any two values of a layout meet. */
  readonly layouts?: number;
  /** Takes more layouts than that, a handful, where some options do not go with those at hand. */
  readonly complete?: boolean;
}

/**
 * What a run has where pipelines compile fast: any two values of options meet, and each value of a layout meets theirs, but for some that only few
 * layouts go with: fewer than one pair in 100.
 */
export const everyRun: Omit<GridOptions, 'seed'> = { count: 150, layouts: 12 };
/** With `--full`: in as few layouts as do, any two values that are not both of the layout. */
export const fullRun: Omit<GridOptions, 'seed'> = { count: 300, layouts: 28, complete: true };

/** Cases in which any two values meet that may, of which at most one belongs to the layout; those of a layout side by side. */
export function gridCases({ seed, count, layouts, complete }: GridOptions): readonly GridCase[] {
  const numbers = random(seed);
  const all = pairwise({ axes: layoutAxes, rules: layoutRules, random: numbers }).cases;
  const bases = layouts === undefined ? [...all] : chooseLayouts(all, layouts);
  const make = (of: readonly GridLayout[], cases?: number) =>
    pairwise({ axes: gridAxes, rules: gridRules, random: numbers, bases: of, count: cases }).cases;
  if (complete) {
    const met = new Set(make(bases).flatMap(pairsOf));
    for (const one of make(all)) {
      const isMissing = pairsOf(one).some((pair) => !met.has(pair) && !isOfLayout(pair));
      if (!isMissing) continue;
      if (!bases.some((base) => layoutName(base) === layoutName(one))) bases.push(layoutOf(one));
      for (const pair of pairsOf(one)) met.add(pair);
    }
  }
  const cases = make(bases, count);
  return bases.flatMap((layout) => cases.filter((one) => layoutName(one) === layoutName(layout)));
}

/** Whether both values of a pair belong to the layout. */
function isOfLayout(pair: string): boolean {
  return pair.split(', ').every((value) => Object.keys(layoutAxes).includes(value.split(' ')[0]));
}

/** The same number for both devices, each value of a layout about as often as the others. */
function chooseLayouts(all: readonly GridLayout[], count: number): GridLayout[] {
  const chosen: GridLayout[] = [];
  const times = (name: keyof GridLayout, of: GridLayout) => chosen.filter((one) => one[name] === of[name]).length;
  const names = Object.keys(layoutAxes) as (keyof GridLayout)[];
  const worth = (of: GridLayout) => names.reduce((sum, name) => sum + 1 / (1 + times(name, of)) ** 2, 0);
  while (chosen.length < count) {
    const device = layoutAxes.device[chosen.length % layoutAxes.device.length];
    const left = all.filter((one) => one.device === device && !chosen.includes(one)).map((one) => ({ one, worth: worth(one) }));
    if (left.length === 0) break;
    chosen.push(left.reduce((best, other) => (other.worth > best.worth ? other : best)).one);
  }
  return chosen;
}

function layoutOf(of: GridLayout): GridLayout {
  return Object.fromEntries(Object.keys(layoutAxes).map((name) => [name, of[name as keyof GridLayout]])) as unknown as GridLayout;
}

/** What tells a layout from others. */
export function layoutName(of: GridLayout): string {
  return describe(layoutOf(of));
}

/** A case or a part of one, in words. */
export function describe(parameters: object): string {
  return Object.entries(parameters)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
}
