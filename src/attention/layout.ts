import { InvalidArgumentError } from '../errors.ts';

/**
 * How keys and values are stored. Values of 16 and 8 bits are packed into u32, so that no host needs `shader-f16`. `int8` is symmetric;
 * the two fp8 formats are those of Micikevicius et al. 2022 (e4m3 without infinities, largest 448; e5m2 the upper half of an f16, largest 57344).
 */
export type KvDtype = 'f32' | 'f16' | 'int8' | 'fp8_e4m3' | 'fp8_e5m2';

/**
 * Where the scales of 8-bit values come from. `token`: the append kernel takes one for each token and head (the row's largest magnitude over
 * the format's largest), and keeps it beside the row, in the block. `tensor`: the caller gives one for all keys and one for all values of a layer.
 */
export type KvScales = 'token' | 'tensor';

export interface KvFormat {
  /** The WGSL constant of shaders/attention/blocks.wgsl. */
  readonly code: number;
  readonly bytes: number;
  /** Largest magnitude of a code that is written; 0 for formats that need no scale. */
  readonly largest: number;
  /** WGSL: vector `v` (u32) of the words `w`, as codes; a code times `factor`, plus `offset`, is the value before any scale. */
  readonly unpack: string;
  readonly factor: number;
  readonly offset: number;
  /** Of 8-bit codes: as f16, see shaders/attention/values-f16.wgsl. */
  readonly halves?: {
    /** WGSL, as `unpack`. */
    readonly unpack: string;
    /** Largest magnitude. */
    readonly top: number;
    readonly factor: number;
    /** What codes of values are multiplied with, so that they leave room for sums. */
    readonly valueShift: number;
  };
}

export const kvFormats: Readonly<Record<KvDtype, KvFormat>> = {
  f32: { code: 0, bytes: 4, largest: 0, unpack: 'bitcast<vec4f>(w)', factor: 1, offset: 0 },
  f16: {
    ...{ code: 1, bytes: 2, largest: 0, factor: 1, offset: 0 },
    unpack: 'vec4f(unpack2x16float(w[2u * v]), unpack2x16float(w[2u * v + 1u]))',
  },
  int8: {
    ...{ code: 2, bytes: 1, largest: 127, unpack: 'valuesOf(biasedHalves(w[v]))', factor: 1, offset: -1152 },
    halves: { unpack: 'unbiasedCodesOf(biasedHalves(w[v]))', top: 128, factor: 1, valueShift: 1 },
  },
  fp8_e4m3: {
    ...{ code: 3, bytes: 1, largest: 448, unpack: 'valuesOf(e4m3Halves(w[v]))', factor: 256, offset: 0 },
    halves: { unpack: 'codesOf(e4m3Halves(w[v]))', top: 1.75, factor: 256, valueShift: 1 },
  },
  fp8_e5m2: {
    ...{ code: 4, bytes: 1, largest: 57344, unpack: 'valuesOf(e5m2Halves(w[v]))', factor: 1, offset: 0 },
    halves: { unpack: 'codesOf(e5m2Halves(w[v]))', top: 57344, factor: 1, valueShift: 2 ** -12 },
  },
};

export const kvDtypes = Object.keys(kvFormats) as readonly KvDtype[];

/**
 * What fixes the layout of a layer's pool: blocks of [key, value][numKvHeads][blockSize][headDim] in the storage dtype, each followed by its
 * scales, f32 [numKvHeads][blockSize][key, value], where there is one for each token and head.
 */
export interface KvLayout {
  /** Token slots of a block; a multiple of 8. */
  readonly blockSize: number;
  readonly numKvHeads: number;
  /** Values of one head; a multiple of 8, at most 256. */
  readonly headDim: number;
  readonly dtype: KvDtype;
  /** For 8-bit dtypes; default `token`. */
  readonly scales?: KvScales;
}

/** @throws {InvalidArgumentError} for a layout that the kernels cannot address. */
export function checkLayout(layout: KvLayout): void {
  const { blockSize, numKvHeads, headDim, dtype, scales } = layout;
  if (!Number.isInteger(blockSize) || blockSize < 8 || blockSize % 8 !== 0) {
    throw new InvalidArgumentError('blockSize', blockSize, 'a positive multiple of 8');
  }
  checkPositive('numKvHeads', numKvHeads);
  if (!Number.isInteger(headDim) || headDim < 8 || headDim > 256 || headDim % 8 !== 0) {
    throw new InvalidArgumentError('headDim', headDim, 'a multiple of 8 from 8 to 256');
  }
  if (!Object.hasOwn(kvFormats, dtype)) throw new InvalidArgumentError('kvDtype', dtype, `one of ${kvDtypes.join(', ')}`);
  if (scales !== undefined && scales !== 'token' && scales !== 'tensor')
    throw new InvalidArgumentError('scales', scales, 'one of token, tensor');
  if (scales !== undefined && kvFormats[dtype].largest === 0)
    throw new InvalidArgumentError('scales', scales, `left out: values in ${dtype} have no scale`);
}

/** @throws {InvalidArgumentError} unless `value` is a positive integer. */
export function checkPositive(argument: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError(argument, value, 'a positive integer');
}

/** A scale for each token and head, in the block. */
export function hasTokenScales({ dtype, scales = 'token' }: KvLayout): boolean {
  return kvFormats[dtype].largest > 0 && scales === 'token';
}

/** Bytes of one row: the values of one token and head. */
export function rowBytes({ headDim, dtype }: KvLayout): number {
  return headDim * kvFormats[dtype].bytes;
}

/** Bytes of one block: the keys and values of `blockSize` tokens in one layer, and their scales. */
export function blockBytes(layout: KvLayout): number {
  const rows = 2 * layout.blockSize * layout.numKvHeads;
  return rows * (rowBytes(layout) + (hasTokenScales(layout) ? 4 : 0));
}

/** u32 of one load from the pool: four where rows allow it, two where rows are not whole vectors of 16 bytes. */
export function loadWords(layout: KvLayout): 2 | 4 {
  return rowBytes(layout) % 16 === 0 ? 4 : 2;
}

/** Most buffers of one layer's pool: addresses keep three bits for the number of the buffer. */
export const maxPoolBuffers = 8;
/** Most loads that an address can count within one buffer. */
const maxLoads = 2 ** 29;

/** Most blocks of one layer that one buffer of so many bytes takes. */
export function blocksPerBuffer(layout: KvLayout, bytes: number): number {
  return Math.floor(Math.min(bytes, maxLoads * loadWords(layout) * 4) / blockBytes(layout));
}
