/** Tiles of the attention kernels by subgroup matrices. Pure. */
import { type KvLayout, kvFormats } from '../layout.ts';
import { type LargeSplit, spanWords } from '../plan.ts';
import type { DecodeDevice } from './decode.ts';

/** How the prefill kernel by matrices takes rows and keys; see shaders/attention/prefill-matrix.wgsl. */
export interface MatrixPrefillTile {
  /** Subgroups, of 32 invocations, of a workgroup. */
  readonly subgroupCount: number;
  /** Matrices of 16 rows that a subgroup has: a multiple of columnGroups. */
  readonly rowBlocks: number;
  /** Subgroups that share rows: a divisor of subgroupCount, of keyTile / 16 and of headDim / 16. */
  readonly columnGroups: number;
  /** Keys staged at a time, a multiple of 16. */
  readonly keyTile: number;
  /** Keys and values take turns in workgroup memory, at the price of a barrier. */
  readonly sharedStage: boolean;
  /** Query heads of a group that one workgroup takes. */
  readonly headTile: number;
  /** Query tokens of one workgroup. */
  readonly tokens: number;
}

export function isMatrixTile<T extends object>(tile: T): tile is Extract<T, { readonly subgroupCount: number }> {
  return 'subgroupCount' in tile;
}

/** How the decode kernel by matrices takes keys; see shaders/attention/decode-matrix.wgsl. */
export interface MatrixDecodeTile {
  /** Query heads of a group that one workgroup takes: at most 8. */
  readonly headTile: number;
  /** Subgroups, of 32 invocations, of a workgroup: each has keys of its own. */
  readonly subgroupCount: number;
  /** Matrices of 16 keys that a subgroup takes in a round: 1 or 2; 2 where headTile is at most 4. */
  readonly keyBlocks: number;
  /** Keys in int8 are operands as they are (shaders/attention/matrix-keys-i8.wgsl). */
  readonly byteKeys: boolean;
}

/** Bytes of workgroup memory of the prefill kernel by matrices: keys and values, scores, weights, what is by row, spans, rows and scales. */
export function matrixPrefillMemory(
  { subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage, headTile }: Omit<MatrixPrefillTile, 'tokens'>,
  headDim: number,
): number {
  const rowTile = (subgroupCount / columnGroups) * rowBlocks * 16;
  const vectors = (sharedStage ? 1 : 2) * keyTile * (headDim / 8 + 1) + rowTile * (keyTile / 4 + 1 + keyTile / 8 + 1);
  const words = [2 * rowTile, Math.floor(rowTile / headTile) * spanWords, 2 * keyTile, 4 * keyTile + 2, 1];
  return words.reduce((bytes, count) => bytes + Math.ceil(count / 4) * 16, 16 * vectors);
}

/**
 * Tiles of the prefill kernel by matrices: subgroups, blocks of rows and column groups, keys, and whether keys and values take turns; the best first.
 * On an H100, us for 512 and 8,192 tokens in f16: 48.9 and 4,152 (132 TFLOP/s), 57.2 and 4,420, 56.7 and 4,469, 59.1 and 5,274, 60.8 and 5,389,
 * 66.7 and 5,720, 74.6 and 5,776, 60.1 and 5,463, 70.9 and 6,043, 81.1 and 6,818, 89.1 and 7,863. Two blocks of rows that share their columns with
 * nobody need more registers than there are: 8,348 to 17,480.
 */
const matrixPrefillTiles = [
  [4, 1, 1, 32, true],
  [8, 1, 1, 32, true],
  [8, 1, 1, 32, false],
  [4, 1, 1, 16, false],
  [4, 2, 2, 32, true],
  [8, 2, 2, 32, true],
  [4, 1, 1, 64, true],
  [4, 1, 1, 16, true],
  [8, 2, 2, 32, false],
  [4, 1, 1, 32, false],
  [4, 2, 2, 32, false],
] as const;

/**
 * The prefill tiles by matrices to choose among, the best first; none for shapes that they do not take: values of 32 bits would lose precision, and
 * rows of more than 128 values have no room in registers.
 */
export function matrixPrefillTileSpace(
  layout: KvLayout,
  groupSize: number,
  memory: number,
  mostInvocations: number,
): readonly MatrixPrefillTile[] {
  const { headDim, dtype } = layout;
  if (dtype === 'f32' || headDim % 16 !== 0 || headDim > 128) return [];
  return matrixPrefillTiles.flatMap(([subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage]) => {
    const rowTile = (subgroupCount / columnGroups) * rowBlocks * 16;
    const headTile = Math.min(groupSize, rowTile);
    const tile = { subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage, headTile, tokens: Math.floor(rowTile / headTile) };
    const isWhole = (headDim / 16) % columnGroups === 0 && 32 * subgroupCount <= mostInvocations;
    return isWhole && matrixPrefillMemory(tile, headDim) <= memory ? [tile] : [];
  });
}

/** Query heads that the decode kernel by matrices takes at a time. */
const matrixHeads = 8;

/** Bytes of workgroup memory of the decode kernel by matrices: a part of keys or values, weights, what is by subgroup and head, flags and bounds. */
export function matrixDecodeMemory({ subgroupCount, keyBlocks, byteKeys }: Omit<MatrixDecodeTile, 'headTile'>): number {
  const stagedVectors = 16 * 9;
  const queries = byteKeys ? 8 * matrixHeads : 0;
  return subgroupCount * (16 * (stagedVectors + 16 * keyBlocks + 2) + 8 * matrixHeads) + queries + 48;
}

/** What of a device decides how decode by matrices takes keys. */
export interface MatrixDecodeDevice extends Pick<DecodeDevice, 'memory' | 'maxInvocations'> {
  /** It has matrices of bytes. */
  readonly byteMatrices: boolean;
}

/**
 * The decode tiles by matrices to choose among, the best first; none for shapes that other kernels take as fast: in groups of up to two heads of 64 values
 * and four of 128 multiply-adds decode at the memory's speed, or nearly, but for large batches in 8 bits (`largeDecodeTile`).
 *
 * Of head dim 128 in groups of 8, on an H100, us for 64 x 4096 in f16, int8, e4m3 and e5m2: four subgroups and 16 keys 353, 228, 224, 222, 32 keys 415,
 * 209, 210, 201; two subgroups and 16 keys 377, 310, 301, 295, 32 keys 373, 254, 258, 236; by multiply-adds 504, 337, 346, 298. Bytes as operands
 * need more registers there: 242 instead of 180 in int8 on an H200.
 *
 * Of head dim 64, on an H200, f16, int8, e5m2: in groups of 4 four subgroups and 32 keys 128, 108, 114, two subgroups 136, 113, 121, one 135, 104, 110, by
 * multiply-adds 130, 96, 99, but 8 x 4096 26.9, 24.3, 23.8 and 28.8, 25.4, 24.5, 1 x 1024 10.9, 11.7, 10.9 and 12.6, 13.0, 13.2. Groups of 8, four
 * subgroups, f16, int8 in bytes and as f16, e4m3: 130, 111, 118, 120, with 16 keys 149, 138, 148, 147, by multiply-adds 227, 180, 180, 184. Groups of 1, f16 and
 * int8: 127, 107 and by multiply-adds 128, 74, 1 x 1024 10.7, 11.6 and 9.3, 9.5; of 2 64 x 4096 130, 107 and 133, 77.
 */
export function matrixDecodeTileSpace(
  { headDim, dtype }: KvLayout,
  groupSize: number,
  { memory, maxInvocations, byteMatrices }: MatrixDecodeDevice,
): readonly MatrixDecodeTile[] {
  const isTaken = (headDim === 64 && groupSize > 2) || (headDim === 128 && groupSize > 4);
  if (dtype === 'f32' || !isTaken || maxInvocations < 128) return [];
  const headTile = Math.min(groupSize, matrixHeads);
  const byteKeys = headDim === 64 && dtype === 'int8' && byteMatrices;
  const blocks = headDim === 128 && dtype === 'f16' ? [1, 2] : [2, 1];
  return blocks
    .filter((keyBlocks) => keyBlocks === 2 || headTile > 4)
    .flatMap((keyBlocks) => [4, 2].map((subgroupCount) => ({ headTile, subgroupCount, keyBlocks, byteKeys })))
    .filter((tile) => matrixDecodeMemory(tile) <= memory);
}

/**
 * The tile by matrices for batches of many keys, where rows of 128 values are stored in 8 bits and groups have three or four heads; undefined for other
 * shapes. One subgroup a workgroup, whose barriers cost nothing, and a batch cut into as many parts as run at once (`largeSplit`). On an H200, us for 64 x 4096 in
 * int8, e4m3 and e5m2: 153, 162, 153, by multiply-adds 180, 183, 172; in groups of 3 149, 160, 150 and 155, 188, 168, of 2 147, 158, 149 and 155, 154, 147,
 * of 1 145, 157, 148 and 136, 142, 138. Keys in int8 as f16 instead of bytes: 158.
 */
export function largeDecodeTile(
  { headDim, dtype }: KvLayout,
  groupSize: number,
  { memory, maxInvocations, byteMatrices }: MatrixDecodeDevice,
): MatrixDecodeTile | undefined {
  const isTaken = kvFormats[dtype].bytes === 1 && headDim === 128 && [3, 4].includes(groupSize) && maxInvocations >= 128;
  const tile = { headTile: groupSize, subgroupCount: 1, keyBlocks: 2, byteKeys: dtype === 'int8' && byteMatrices };
  return isTaken && matrixDecodeMemory(tile) <= memory ? tile : undefined;
}

/**
 * How the batches of that tile are cut, into about as many parts as an H100 or H200 runs at once, and which batches these are: on an H200 8 x 4096 takes 34.8 us
 * in int8 (by multiply-adds 34.5), 32 ragged ones 44.9 (51.7), 8 x 8192 52.0 (55.5), but 1 x 65536 59.0 (56.9), and of rows that are left whole by
 * multiply-adds 64 x 1024 54.0 (51.8), 64 x 2048 90.9 in e4m3 (93.8), 64 x 4096 153 (180).
 */
export const largeSplit: LargeSplit = { targetWorkgroups: 2048, minSegmentKeys: 128, leastKeys: 144, leastWholeKeys: 512 };
