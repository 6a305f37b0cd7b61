/** Tiles of the prefill kernel by multiply-adds, shaders/attention/prefill.wgsl. Pure. */
import { type KvLayout, rowBytes } from '../layout.ts';
import { spanWords } from '../plan.ts';
import { anyDeviceInvocations, neighbours } from './space.ts';

export interface PrefillTile {
  /** Rows (token, head) of a workgroup. */
  readonly rowTile: number;
  /** Keys staged at a time. */
  readonly keyTile: number;
  /** An invocation's block of scores: a divisor of rowTile, and 2 or 4 dividing keyTile. */
  readonly rowsPerThread: number;
  readonly keysPerThread: number;
  /** Query heads of a group that one workgroup takes. */
  readonly headTile: number;
  /** Query tokens of one workgroup. */
  readonly tokens: number;
}

/**
 * Rows, keys, and the block of scores of an invocation, the best first. On an H200, ms for 2,048 and 8,192 tokens in f16: 32 x 64 in blocks of
 * 4 x 2 takes 1.70 and 25.0, 32 x 32 in blocks of 2 x 2 1.76 and 26.5, of 2 x 4 2.04 and 30.4, of 4 x 4 3.24 and 47.4: more invocations hide more
 * of what workgroup memory makes one wait. Where a workgroup should be small, on SwiftShader, large blocks run a little faster and take far longer
 * to compile: 32 x 16 in blocks of 8 x 4 runs 128 tokens in 14.2 ms after 4.0 s of compiling, 16 x 8 in blocks of 4 x 2 in 17.8 ms after 1.4 s.
 */
const prefillTiles = {
  large: [
    [32, 64, 4, 2],
    [32, 32, 2, 2],
    [32, 32, 2, 4],
    [16, 32, 2, 2],
    [16, 16, 2, 2],
    [8, 16, 1, 2],
    [8, 8, 1, 2],
    [8, 4, 1, 2],
    [4, 4, 1, 2],
  ],
  small: [
    [16, 8, 4, 2],
    [8, 8, 2, 2],
    [8, 4, 2, 2],
    [4, 4, 2, 2],
  ],
} as const;

/** Bytes of workgroup memory of the prefill kernel, at most: queries, keys or values, weights, what is by row, spans, rows and scales. */
export function prefillMemory(
  headDim: number,
  rowBytes: number,
  { rowTile, keyTile, headTile }: Pick<PrefillTile, 'rowTile' | 'keyTile' | 'headTile'>,
): number {
  const spans = Math.floor(rowTile / headTile) * spanWords;
  const byRow = [rowTile * (headDim + 4), rowTile * keyTile, rowTile, rowTile, rowTile];
  const words = [...byRow, keyTile * (rowBytes / 4 + 4), spans, 2 * keyTile, 4 * keyTile + 2];
  return words.reduce((bytes, count) => bytes + Math.ceil(count / 4) * 16, 0);
}

/**
 * How the invocations of a prefill workgroup share the outputs: in so many groups of rows, four values of a row each. The more rows an invocation has, the
 * fewer values it unpacks.
 */
export function prefillOutputRowGroups(tile: PrefillBlocks, headDim: number): number {
  const invocations = prefillInvocations(tile);
  const columnGroups = 2 ** Math.floor(Math.log2(headDim / 4));
  return Math.min(tile.rowTile, Math.max(1, invocations / columnGroups));
}

/**
 * Whether a key's units are multiplied without a loop: on a GPU, where 8,192 tokens in f16 take an H100 23.1 instead of 24.3 ms in Dawn, and 2,048 in f32
 * 2.43 instead of 2.77 ms in Deno; but not in 8 bits, whose units are longer (2,048 in int8 2.39 instead of 2.27 ms). A CPU takes seconds to compile so much.
 */
export function unrollsPrefillUnits(tile: PrefillBlocks, valueBytes: number): boolean {
  return prefillInvocations(tile) >= 128 && valueBytes > 1;
}

/**
 * How many groups of a tile's keys one round of the loop over outputs takes: on a GPU all of them, in 8 bits 8. Drivers do not write naga's loops out, which
 * count their rounds lest they be endless. On an H200 in Deno, 8,192 tokens in f16 take 29.4 ms by one group, 24.8 by 4, 24.0 by 8, 23.5 by all 32, 2,048 in
 * int8 2.58, 2.35, 2.31, 2.32, in e4m3 2.74, 2.48, 2.49, 2.54; in Dawn, by one and by 8, 23.0 and 22.8, 2.24 and 2.13, 2.46 and 2.34.
 */
export function prefillGroupsAtOnce(tile: PrefillBlocks, valueBytes: number): number {
  const groups = tile.keyTile / tile.keysPerThread;
  if (prefillInvocations(tile) < 128) return 1;
  return valueBytes === 1 && groups % 8 === 0 ? 8 : groups;
}

/** Invocations of a prefill workgroup, each with a block of scores. */
function prefillInvocations({ rowTile, keyTile, rowsPerThread, keysPerThread }: PrefillBlocks): number {
  return (rowTile / rowsPerThread) * (keyTile / keysPerThread);
}

type PrefillBlocks = Pick<PrefillTile, 'rowTile' | 'keyTile' | 'rowsPerThread' | 'keysPerThread'>;

/**
 * The largest prefill tile that fits into `memory` bytes of workgroup storage; undefined when none does.
 * @param groupSize query heads per KV head
 */
export function choosePrefillTile(layout: KvLayout, groupSize: number, memory: number, maxInvocations: number): PrefillTile | undefined {
  for (const [rowTile, keyTile, rowsPerThread, keysPerThread] of maxInvocations < 64 ? prefillTiles.small : prefillTiles.large) {
    if (prefillInvocations({ rowTile, keyTile, rowsPerThread, keysPerThread }) > Math.max(maxInvocations, 16)) continue;
    const headTile = Math.min(groupSize, rowTile);
    if (prefillMemory(layout.headDim, rowBytes(layout), { rowTile, keyTile, headTile }) > memory) continue;
    return { rowTile, keyTile, rowsPerThread, keysPerThread, headTile, tokens: Math.floor(rowTile / headTile) };
  }
  return undefined;
}

/**
 * The prefill tiles to choose among when tuning: `choosePrefillTile`'s first, then those of which one value, then two, are half or twice as
 * large. All fit into `memory` bytes and into workgroups of `mostInvocations`. Empty when nothing fits.
 */
export function prefillTileSpace(
  layout: KvLayout,
  groupSize: number,
  memory: number,
  maxInvocations: number,
  mostInvocations = anyDeviceInvocations,
): readonly PrefillTile[] {
  const first = choosePrefillTile(layout, groupSize, memory, maxInvocations);
  if (!first) return [];
  const { rowTile, keyTile, rowsPerThread, keysPerThread } = first;
  return neighbours({ rowTile, keyTile, rowsPerThread, keysPerThread }).flatMap((tile, i) => {
    if (i === 0) return [first];
    const invocations = prefillInvocations(tile);
    const isBlocked = tile.rowTile % tile.rowsPerThread === 0 && tile.keyTile % tile.keysPerThread === 0;
    const isWhole = isBlocked && tile.rowTile % 4 === 0 && invocations % 4 === 0 && [2, 4].includes(tile.keysPerThread);
    if (!isWhole || invocations > Math.max(mostInvocations, 16)) return [];
    const headTile = Math.min(groupSize, tile.rowTile);
    if (prefillMemory(layout.headDim, rowBytes(layout), { ...tile, headTile }) > memory) return [];
    return [{ ...tile, headTile, tokens: Math.floor(tile.rowTile / headTile) }];
  });
}
