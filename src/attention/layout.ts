import { InvalidArgumentError } from '../errors.ts';

/** How keys and values are stored. 16-bit values are packed in pairs into u32, so that no host needs `shader-f16`. */
export type KvDtype = 'f32' | 'f16';

/** The WGSL constants kvF32, kvF16 of shaders/attention/blocks.wgsl. */
export const kvDtypeCodes: Readonly<Record<KvDtype, number>> = { f32: 0, f16: 1 };

const bytesPerValue: Readonly<Record<KvDtype, number>> = { f32: 4, f16: 2 };

/** What fixes the layout of a layer's pool: [blocks][key, value][blockSize][numKvHeads][headDim]. */
export interface KvLayout {
  /** Token slots of a block; a multiple of 8. */
  readonly blockSize: number;
  readonly numKvHeads: number;
  /** Values of one head; a multiple of 8, at most 256. */
  readonly headDim: number;
  readonly dtype: KvDtype;
}

/** @throws {InvalidArgumentError} for a layout that the kernels cannot address. */
export function checkLayout(layout: KvLayout): void {
  const { blockSize, numKvHeads, headDim, dtype } = layout;
  if (!Number.isInteger(blockSize) || blockSize < 8 || blockSize % 8 !== 0) {
    throw new InvalidArgumentError('blockSize', blockSize, 'a positive multiple of 8');
  }
  checkPositive('numKvHeads', numKvHeads);
  if (!Number.isInteger(headDim) || headDim < 8 || headDim > 256 || headDim % 8 !== 0) {
    throw new InvalidArgumentError('headDim', headDim, 'a multiple of 8 from 8 to 256');
  }
  if (!Object.hasOwn(bytesPerValue, dtype))
    throw new InvalidArgumentError('kvDtype', dtype, `one of ${Object.keys(bytesPerValue).join(', ')}`);
}

/** @throws {InvalidArgumentError} unless `value` is a positive integer. */
export function checkPositive(argument: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError(argument, value, 'a positive integer');
}

/** Bytes of one block: the keys and values of `blockSize` tokens in one layer. */
export function blockBytes(layout: KvLayout): number {
  return 2 * layout.blockSize * layout.numKvHeads * layout.headDim * bytesPerValue[layout.dtype];
}
