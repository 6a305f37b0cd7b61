/** Tiles of the attention kernels by subgroup matrices. Pure. */
import { type KvLayout, kvFormats } from '../layout.ts';
import { spanWords } from '../plan.ts';

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
  /** Matrices of 16 keys that a subgroup takes in a round: 1 or 2. */
  readonly keyBlocks: number;
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
export function matrixDecodeMemory({ subgroupCount, keyBlocks }: Omit<MatrixDecodeTile, 'headTile'>): number {
  const stagedVectors = 16 * 9;
  return subgroupCount * (16 * (stagedVectors + 16 * keyBlocks + 2) + 8 * matrixHeads) + 48;
}

/**
 * The decode tiles by matrices to choose among, the best first; none for shapes that other kernels take as fast: by multiply-adds a group of up to four
 * heads decodes at the memory's speed, or nearly. On an H100 with groups of 8, us for 64 x 4096 in f16, int8, e4m3 and e5m2: four subgroups and 16 keys
 * 353, 228, 224, 222, 32 keys 415, 209, 210, 201; two subgroups and 16 keys 377, 310, 301, 295, 32 keys 373, 254, 258, 236; by multiply-adds 504, 337,
 * 346, 298.
 */
export function matrixDecodeTileSpace(
  { headDim, dtype }: KvLayout,
  groupSize: number,
  memory: number,
  mostInvocations: number,
): readonly MatrixDecodeTile[] {
  if (dtype === 'f32' || ![64, 128].includes(headDim) || groupSize <= 4 || mostInvocations < 128) return [];
  const blocks = kvFormats[dtype].bytes === 1 ? [2, 1] : [1, 2];
  const sizes = blocks.flatMap((keyBlocks) => [4, 2].map((subgroupCount) => ({ subgroupCount, keyBlocks })));
  return sizes
    .filter((size) => matrixDecodeMemory(size) <= memory)
    .map((size) => ({ headTile: Math.min(groupSize, matrixHeads), ...size }));
}
