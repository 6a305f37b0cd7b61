/** What a case of the grid is computed from: random rows, slopes, trees and the like, all by a seed. Pure. */
import type { ChoiceOptions, KernelChoice } from '../../src/attention/tuned.ts';
import type { BatchEntry } from '../../src/index.ts';
import { type Random, random } from '../harness/random.ts';
import { type GridCase, headsOf, type Lengths, lengthLists, longestOf, prefixOf, storages } from './grid.ts';
import { roundToHalf } from './reference.ts';

export interface SequenceInputs {
  readonly queryLen: number;
  readonly seqLen: number;
  /** By place in the sequence, each [numKvHeads][headDim], before rotary. */
  readonly keys: Float32Array[];
  readonly values: Float32Array[];
  /** Of the new tokens, each [numHeads][headDim], before rotary. */
  readonly queries: Float32Array[];
  readonly entry: Omit<BatchEntry, 'sequence' | 'queryLen'>;
}

/** What a case can be asked for beside its parameters. */
export interface CaseChange {
  /** Blocks of the pool; default: three more than the case needs. `largest`: as many as one buffer can have. */
  readonly numBlocks?: number | 'largest';
  /** Changes the rows of a token, which are its own then. */
  readonly adapt?: (rows: Readonly<Record<'query' | 'key' | 'value', Float32Array>>, place: number) => void;
  /** The keys' scale where the storage is scaled by tensor; default: a little more than what all keys fit by. */
  readonly keyScale?: number;
  /** Gives up the blocks before the windows of the new tokens, and poisons them. */
  readonly release?: boolean;
  /** Runs other kernels than those that would be chosen: what options ask for, or what is made of the choice. Cases of one name share a launch cache. */
  readonly kernels?: { readonly name: string; readonly options?: ChoiceOptions; readonly of?: (choice: KernelChoice) => KernelChoice };
}

/** All scores are `strength` of the key's place, times the default scale and times headDim / every: queries and keys lie along each such dimension. */
export function aligned(strength: (place: number) => number, every = 64): NonNullable<CaseChange['adapt']> {
  return ({ query, key }, place) => {
    for (let i = 0; i < query.length; i++) query[i] = i % every === 3 ? 8 : 0;
    for (let i = 0; i < key.length; i++) key[i] = i % every === 3 ? strength(place) : 0;
  };
}

/** Scores that are hard on sums relative to a maximum, by what they are. */
export const hardScores: Readonly<Record<string, readonly [Partial<GridCase>, CaseChange]>> = {
  'scores near -300 in a window': [{ window: 40 }, { adapt: aligned(() => -300) }],
  'scores near +300': [{}, { adapt: aligned(() => 300) }],
  'scores rising with each key': [{}, { adapt: aligned((place) => place - 500) }],
  'scores falling with each key': [{}, { adapt: aligned((place) => 500 - place) }],
  'a giant now and then': [{}, { adapt: aligned((place) => (place % 67 === 66 ? 800 : -800)) }],
  'a giant first': [{}, { adapt: aligned((place) => (place === 0 ? 1000 : -1000)) }],
};

/** Values that f16 cannot hold, but by their scales. (With the offset of int8's codes in f32, what is left of a zero is a millionth of them.) */
export const largeValues: NonNullable<CaseChange['adapt']> = ({ value }) => value.set(value.map((x) => 1e6 * Math.abs(x)));

export interface CaseInputs {
  readonly sequences: readonly SequenceInputs[];
  /** Keys at the start of all sequences that are the same, in the same blocks. */
  readonly prefixLen: number;
  readonly scale: number;
  /** A stored key times this is the key, where the storage is scaled by tensor; otherwise 1. */
  readonly keyScale: number;
  readonly valueScale: number;
  readonly window: number | undefined;
  readonly slopes: readonly number[];
  readonly sinks: readonly number[];
  /** Of the modifications: their scalars, and a value for each head. */
  readonly scalars: { readonly gain: number; readonly step: number };
  readonly data: readonly number[];
  /** Turns the first 2 * half dimensions; cosines and sines by position, `half` for each. */
  readonly rotary: { readonly half: number; readonly cos: Float64Array; readonly sin: Float64Array } | undefined;
}

/** The largest codes of the 8-bit formats. */
export const largestCodes = { int8: 127, fp8_e4m3: 448, fp8_e5m2: 57344 };

/** As WGSL, for `AttentionModifications`, and what it computes. */
export const modifications = {
  scoreMod: `fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32 {
  return args.gain * score + modData(head) * f32((query + 2u * key) % 5u);
}`,
  maskMod: `fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool {
  return (key + head) % args.step != 0u || key == query;
}`,
  scalars: { gain: 'f32', step: 'u32' },
} as const;

export function modifiedScore({ scalars, data }: CaseInputs, score: number, head: number, query: number, key: number): number | undefined {
  if ((key + head) % scalars.step === 0 && key !== query) return undefined;
  return scalars.gain * score + data[head] * ((query + 2 * key) % 5);
}

/** Normal numbers to cut rows from, by what they are rounded to: making new ones for every row would take most of the time. */
const stocks = new Map<string, Float32Array<ArrayBuffer>>();
const stockSize = 2 ** 20;
/** What has one scale for all values has a known range: its codes must be close to each other to stay within the tolerance. */
const largestClipped = 3;

function stockOf(seed: number, kind: 'normal' | 'half' | 'clipped'): Float32Array<ArrayBuffer> {
  const name = `${seed} ${kind}`;
  const round = kind === 'half' ? roundToHalf : (value: number) => Math.max(-largestClipped, Math.min(largestClipped, value));
  const known = stocks.get(name) ?? (kind === 'normal' ? random(seed).normals(stockSize) : stockOf(seed, 'normal').map(round));
  stocks.set(name, known);
  return known;
}

export function makeInputs(of: GridCase, seed: number, numbers: Random, { adapt, keyScale }: CaseChange = {}): CaseInputs {
  const { numHeads, numKvHeads } = headsOf(of);
  const { headDim } = of;
  const { dtype } = storages[of.storage];
  const take = (stock: Float32Array, length: number) => {
    const first = numbers.integer(stock.length - length);
    return stock.subarray(first, first + length);
  };
  const byTensor = of.storage.endsWith('by tensor');
  const keyStock = stockOf(seed, dtype === 'f16' ? 'half' : byTensor ? 'clipped' : 'normal');
  const rows = (count: number) => Array.from({ length: count }, () => take(keyStock, numKvHeads * headDim));
  const prefixLen = of.prefix === 'own' ? 0 : prefixOf(of);
  const [prefixKeys, prefixValues] = [rows(prefixLen), rows(prefixLen)];
  const list: readonly Lengths[] = lengthLists[of.lengths];
  const sequences = list.map(([queryLen, seqLen]) => ({
    queryLen,
    seqLen,
    keys: [...prefixKeys, ...rows(seqLen - prefixLen)],
    values: [...prefixValues, ...rows(seqLen - prefixLen)],
    queries: Array.from({ length: queryLen }, () => take(stockOf(seed, 'normal'), numHeads * headDim)),
    entry: makeEntry(of, queryLen, seqLen, numbers),
  }));
  for (const { queryLen, seqLen, keys, values, queries } of adapt ? sequences : []) {
    for (let place = 0; place < seqLen; place++) {
      const token = place - seqLen + queryLen;
      const [query, key, value] = [queries[token] ?? new Float32Array(numHeads * headDim), keys[place], values[place]].map((row) =>
        row.slice(),
      );
      adapt?.({ query, key, value }, place);
      [keys[place], values[place]] = [key, value];
      if (token >= 0) queries[token] = query;
    }
  }
  const tensorScale = byTensor ? largestClipped / largestCodes[dtype as keyof typeof largestCodes] : 1;
  const perHead = (value: (head: number) => number) => Array.from({ length: numHeads }, (_, head) => Math.fround(value(head)));
  return {
    sequences,
    prefixLen,
    scale: 1 / Math.sqrt(headDim),
    // A little more than needed for keys, which rotary turns.
    keyScale: keyScale ?? Math.fround(tensorScale * (byTensor ? 1.15 : 1)),
    valueScale: Math.fround(tensorScale),
    window: of.window === 'none' ? undefined : of.window === 'longer' ? longestOf(of) + 13 : of.window,
    slopes: perHead((head) => 2 ** ((-8 * (head + 1)) / numHeads)),
    sinks: perHead((head) => (of.sinks === 'normal' ? numbers.normal() : head % 2 === 0 ? 40 : -40)),
    scalars: { gain: 0.75, step: 7 },
    data: perHead(() => numbers.normal()),
    rotary: makeRotary(of),
  };
}

/** Ranges and trees, for sequences that have the tokens. */
function makeEntry({ order }: GridCase, queryLen: number, seqLen: number, numbers: Random): SequenceInputs['entry'] {
  const context = seqLen - queryLen;
  if (order === 'full') return { causal: false };
  if (order === 'ranges' && queryLen > 4) {
    const middle = context + Math.floor(queryLen / 2);
    return {
      bidirectional: [
        [context + 1, middle],
        [middle, Math.min(seqLen, middle + 3)],
      ],
    };
  }
  if (order !== 'tree' || queryLen < 2 || queryLen > 40) return {};
  const parents = Array.from({ length: queryLen }, (_, node) => (node === 0 ? -1 : numbers.integer(node)));
  const depths: number[] = [];
  const queryBias = new Float32Array(queryLen ** 2).fill(-1e31);
  parents.forEach((parent, node) => {
    depths.push(parent < 0 ? 0 : depths[parent] + 1);
    for (let at = node; at >= 0; at = parents[at]) queryBias[node * queryLen + at] = numbers.normal() / 2;
  });
  return { queryBias, positions: depths.map((depth) => context + depth) };
}

function makeRotary({ rotary, headDim, lengths }: GridCase): CaseInputs['rotary'] {
  if (rotary === 'none') return undefined;
  const half = rotary === 'whole' ? headDim / 2 : Math.max(1, Math.floor(headDim / 6));
  const angles = Float64Array.from(
    { length: longestOf({ lengths }) * half },
    (_, i) => Math.floor(i / half) * 10_000 ** (-(i % half) / half),
  );
  return { half, cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
}

/** A row [heads][headDim] at a position of the rotary table, in float64. */
export function turn(row: Float32Array, rotary: CaseInputs['rotary'], position: number, headDim: number): Float32Array | Float64Array {
  if (!rotary) return row;
  const { half } = rotary;
  const turned = Float64Array.from(row);
  for (let i = 0; i < half; i++) {
    const cos = rotary.cos[position * half + i];
    const sin = rotary.sin[position * half + i];
    for (let at = i; at < row.length; at += headDim) {
      turned[at] = row[at] * cos - row[at + half] * sin;
      turned[at + half] = row[at + half] * cos + row[at] * sin;
    }
  }
  return turned;
}

/** Where rotary turns a token to. */
export function positionOf({ entry, seqLen, queryLen }: SequenceInputs, place: number): number {
  return place < seqLen - queryLen ? place : (entry.positions?.[place - seqLen + queryLen] ?? place);
}
