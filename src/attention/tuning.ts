/** Tile sizes of the attention kernels, as far as the device decides them. Pure. */
import type { AdapterDescription } from '../gpu.ts';
import { adapterDefaults } from './adapters.ts';
import { hasTokenScales, type KvDtype, type KvLayout, kvFormats, loadWords, rowBytes } from './layout.ts';
import { spanWords } from './plan.ts';

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

export interface DecodeTile {
  /** Query heads of a group that one workgroup takes. */
  readonly headTile: number;
  /** Invocations that read a key's row together: a divisor of the row's loads. */
  readonly keyThreads: number;
  /** Keys that an invocation has in flight. */
  readonly keysPerThread: number;
  /** Invocations that read a value's row together: a multiple of keyThreads and a divisor of the row's loads. */
  readonly valueThreads: number;
  /** Invocations of a workgroup, a multiple of valueThreads. */
  readonly invocations: number;
  /** u32 of one load: 4, or 2 where an invocation should have less of a row of 8-bit values. */
  readonly loadWords: number;
  /**
   * Invocations that share a row are neighbours in a subgroup (shaders/attention/decode-teams.wgsl). Then keyThreads and valueThreads are powers
   * of two, no more than a subgroup has, and keyThreads is a multiple of keysPerThread.
   */
  readonly subgroups: boolean;
  /** Multiplies 8-bit codes in f16 (shaders/attention/multiply-f16.wgsl). */
  readonly halves: boolean;
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

/** Bytes of workgroup memory of the decode kernel: queries, parts of scores or the crews' outputs, scores, rows, scales and the crews' states. */
export function decodeMemory(
  { headTile, keyThreads, keysPerThread, valueThreads, invocations, subgroups, halves }: Omit<DecodeTile, 'loadWords'>,
  headDim: number,
  tokenScales: boolean,
): number {
  const keyTile = (invocations / keyThreads) * keysPerThread;
  const crews = invocations / valueThreads;
  const queries = halves ? [(headTile * headDim) / 2, headTile, headTile] : [headTile * headDim, headTile];
  const tileHeads = keyTile * 4 * Math.ceil(headTile / 4);
  const words = subgroups
    ? [crews * headDim, crews * headTile, 2 * keyTile * headTile, 2 * crews * headTile]
    : [
        Math.max(tileHeads * (keyThreads + 1), crews * headDim),
        ...[2 * tileHeads, halves ? tileHeads : 2 * tileHeads],
        4 * keyTile,
        2 * ((tokenScales ? 4 * keyTile : 0) + 1),
        headTile,
        2,
        2 * headTile,
      ];
  return [...queries, ...words].reduce((bytes, count) => bytes + Math.ceil(count / 4) * 16, 0);
}

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

/** Most invocations that a workgroup should have. */
export function workgroupInvocations(adapter: AdapterDescription): number {
  return adapterDefaults(adapter).maxInvocations;
}

/** Invocations of a workgroup that merges partial states. */
export function mergeInvocations(maxInvocations: number): number {
  return maxInvocations < 128 ? 64 : 256;
}

/** Rows of values that a decode workgroup reads at once, at most. */
const mostCrews = 8;

/** What of a device decides how decode takes keys. */
export interface DecodeDevice {
  /** Bytes of a workgroup's memory. */
  readonly memory: number;
  /** Most invocations that a workgroup should have. */
  readonly maxInvocations: number;
  /** Invocations that a subgroup has at least; 0 where there are no subgroups. */
  readonly subgroupSize: number;
  /** 8-bit codes may be multiplied in f16. */
  readonly shaderF16: boolean;
}

/**
 * How the decode kernel takes keys: several keys in flight, and all heads of a group that fit (at most 8); undefined when nothing fits into
 * the device's workgroup memory.
 */
export function chooseDecodeTile(layout: KvLayout, groupSize: number, device: DecodeDevice): DecodeTile | undefined {
  const { most, mostKeys, ...row } = chooseRowThreads(layout, device);
  for (let crews = Math.min(mostCrews, Math.floor(most / row.valueThreads)); crews > 0; crews >>= 1) {
    for (let headTile = Math.min(groupSize, 8); headTile > 0; headTile--) {
      // An invocation looks up one key of a tile at most.
      for (let keysPerThread = Math.min(mostKeys, row.keyThreads); keysPerThread > 0; keysPerThread >>= 1) {
        const tile = { headTile, keysPerThread, invocations: crews * row.valueThreads, ...row };
        if (decodeMemory(tile, layout.headDim, hasTokenScales(layout)) <= device.memory) return tile;
      }
    }
  }
  return undefined;
}

interface SubgroupTile extends Pick<DecodeTile, 'keyThreads' | 'valueThreads' | 'invocations' | 'loadWords'> {
  /** Keys in flight. */
  readonly keys: number;
}

/**
 * By subgroups, the best of the tiles tried on an H100 (`npm run bench -- attention --filter "sweep of single tokens"` tries more): invocations that share
 * a key and a value, keys in flight, invocations of a workgroup, and u32 of a load. In Dawn, us for 64 x 4096: f16 355 (by 8 invocations 367), int8 231, e4m3
 * 239 and e5m2 221 (a key by 8 invocations: 241, 239, 231; 2 keys in flight: 246, 243, 231). In 8 bits an invocation has 128 registers, all that it may have if
 * the workgroups of 64 sequences are to run at once; where a compiler takes more (168, as NVIDIA's does when little is changed), it is 265 to 300 us.
 */
const codesTile: SubgroupTile = { keyThreads: 4, valueThreads: 16, keys: 4, invocations: 128, loadWords: 2 };
const subgroupTiles: Readonly<Record<KvDtype, SubgroupTile>> = {
  f32: { keyThreads: 16, valueThreads: 16, keys: 2, invocations: 128, loadWords: 4 },
  f16: { keyThreads: 16, valueThreads: 16, keys: 4, invocations: 128, loadWords: 4 },
  int8: codesTile,
  fp8_e4m3: codesTile,
  fp8_e5m2: codesTile,
};
/**
 * Of 8-bit codes that are multiplied in f16. On an H200 in Dawn, us for 64 x 4096 in int8, e4m3 and e5m2: 191, 180, 167 (in f32 219, 231, 201); with a key by 2
 * invocations 202, 202, 208 (168 registers), by 8 229, 235, 224; one key in flight 234, 245, 205, four 260, 272, 201.
 */
const halvesTile: SubgroupTile = { ...codesTile, keys: 2 };

/** Loads of a row that one invocation has, at most. */
const mostUnits = 4;

/** Which invocations share a row, by which loads, and most of the keys in flight and of the invocations. */
interface RowThreads extends Pick<DecodeTile, 'keyThreads' | 'valueThreads' | 'loadWords' | 'subgroups' | 'halves'> {
  readonly mostKeys: number;
  readonly most: number;
}

function chooseRowThreads(layout: KvLayout, { maxInvocations, subgroupSize, shaderF16 }: DecodeDevice): RowThreads {
  // Keys in flight hide a GPU's memory; elsewhere they make the code long, which lavapipe takes seconds to compile.
  const isGpu = maxInvocations >= 128;
  const areCodes = kvFormats[layout.dtype].bytes === 1;
  // Where there is no hardware for it, f16 is slow.
  const halves = shaderF16 && isGpu && areCodes;
  const best = halves ? halvesTile : subgroupTiles[layout.dtype];
  const words = Math.min(best.loadWords, loadWords(layout));
  const units = rowBytes(layout) / (4 * words);
  const widest = Math.min(units & -units, 2 ** Math.floor(Math.log2(maxInvocations)), subgroupSize);
  const keyThreads = Math.min(widest, Math.max(best.keyThreads, 2 ** Math.ceil(Math.log2(units / mostUnits))));
  if (keyThreads >= 4 && units <= mostUnits * keyThreads) {
    const valueThreads = Math.min(widest, Math.max(best.valueThreads, keyThreads));
    const most = Math.max(valueThreads, Math.min(maxInvocations, best.invocations));
    return { keyThreads, valueThreads, loadWords: words, subgroups: true, halves, mostKeys: isGpu ? best.keys : 2, most };
  }
  if (isGpu && areCodes) return chooseCodeThreads(layout, halves);
  const loads = rowBytes(layout) / (4 * loadWords(layout));
  let threads = Math.floor(Math.min(loads, maxInvocations, Math.max(8, loads / 2)));
  while (loads % threads !== 0) threads--;
  // Registers are what a GPU runs out of: large workgroups keep others from their core.
  const most = Math.max(threads, Math.min(maxInvocations, 64));
  const sizes = { keyThreads: threads, valueThreads: threads, loadWords: loadWords(layout) };
  return { ...sizes, subgroups: false, halves: false, mostKeys: isGpu ? 4 : 2, most };
}

/**
 * On a GPU without subgroups, 8 bits: loads of 8 bytes, a value by 16 invocations and a key by two, which leaves few parts of a score. On an H200 in Deno, us for
 * 64 x 4096 in int8, e4m3 and e5m2: 284, 298, 271 in workgroups of 128 (of 64: 469, 487, 433; a key by 8: 345, 320, 325); in f16 229, 228, 212 in workgroups
 * of 64 (of 128: 247, 249, 240; a key by 4: 356, 345, 280).
 */
function chooseCodeThreads(layout: KvLayout, halves: boolean): RowThreads {
  const units = rowBytes(layout) / 8;
  let valueThreads = Math.min(16, units);
  while (units % valueThreads !== 0) valueThreads--;
  let keyThreads = Math.min(valueThreads, Math.max(2, Math.ceil(units / 8)));
  while (valueThreads % keyThreads !== 0) keyThreads++;
  return { keyThreads, valueThreads, loadWords: 2, subgroups: false, halves, mostKeys: 2, most: halves ? 64 : 128 };
}

/** Most invocations of a workgroup that any device takes. */
const anyDeviceInvocations = 256;

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

/**
 * Tiles of the prefill kernel by matrices: subgroups, blocks of rows and column groups, keys, and whether keys and values take turns; the best first.
 * On an H100, us for 512 and 8,192 tokens in f16: 48.9 and 4,152 (132 TFLOP/s), 57.2 and 4,420, 56.7 and 4,469, 59.1 and 5,274, 60.8 and 5,389,
 * 66.7 and 5,720, 74.6 and 5,776, 60.1 and 5,463, 70.9 and 6,043, 81.1 and 6,818, 89.1 and 7,863. Two blocks of rows that share their columns with
 * nobody need more registers than there are: 8,348 to 17,480.
 */
const matrixTiles = [
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
export function matrixTileSpace(
  layout: KvLayout,
  groupSize: number,
  memory: number,
  mostInvocations: number,
): readonly MatrixPrefillTile[] {
  const { headDim, dtype } = layout;
  if (dtype === 'f32' || headDim % 16 !== 0 || headDim > 128) return [];
  return matrixTiles.flatMap(([subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage]) => {
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
 * heads decodes at the memory's speed. On an H100 with groups of 8, us for 64 x 4096 in f16, int8, e4m3 and e5m2: four subgroups and 16 keys 353, 235,
 * 229, 228, 32 keys 421, 227, 217, 206; two subgroups and 16 keys 380, 324, 311, 307, 32 keys 375, 280, 271, 245; by multiply-adds 546, 339, 336, 293.
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

/** The decode tiles to choose among when tuning, as `prefillTileSpace`: `chooseDecodeTile`'s first. */
export function decodeTileSpace(
  layout: KvLayout,
  groupSize: number,
  device: DecodeDevice,
  mostInvocations = anyDeviceInvocations,
): readonly DecodeTile[] {
  const { memory, subgroupSize } = device;
  const fits = (tile: DecodeTile) => decodeMemory(tile, layout.headDim, hasTokenScales(layout)) <= memory;
  const around = ({ headTile, keyThreads, keysPerThread, valueThreads, invocations, loadWords: words, subgroups, halves }: DecodeTile) => {
    const units = rowBytes(layout) / (4 * words);
    return neighbours({ headTile, keyThreads, keysPerThread, valueThreads, crews: invocations / valueThreads }).flatMap(
      ({ crews, ...tile }, i) => {
        const one = { ...tile, invocations: crews * tile.valueThreads, loadWords: words, subgroups, halves };
        if (i === 0) return fits(one) ? [one] : [];
        const isRow = units % tile.valueThreads === 0 && tile.valueThreads % tile.keyThreads === 0;
        const isWhole = isRow && tile.keysPerThread <= tile.keyThreads && tile.headTile <= Math.min(groupSize, 8);
        if (!isWhole || one.invocations > mostInvocations || (subgroups && tile.valueThreads > subgroupSize)) return [];
        return fits(one) ? [one] : [];
      },
    );
  };
  const first = chooseDecodeTile(layout, groupSize, device);
  if (!first) return [];
  // Round the default, and round what is chosen where there are no subgroups; and what is chosen in f32, as not every GPU has f16 fast.
  const whole = loadWords(layout);
  const choose = (without: Partial<DecodeDevice>) => chooseDecodeTile(layout, groupSize, { ...device, ...without });
  const longer = first.subgroups && first.loadWords < whole ? { ...first, loadWords: whole } : undefined;
  const plain = first.subgroups ? choose({ subgroupSize: 0 }) : undefined;
  const inF32 = first.halves ? choose({ shaderF16: false }) : undefined;
  const plainInF32 = first.halves && first.subgroups ? choose({ shaderF16: false, subgroupSize: 0 }) : undefined;
  const existing = (tiles: readonly (DecodeTile | undefined)[]) => tiles.filter((tile) => tile !== undefined);
  return [...existing([first, longer, plain]).flatMap(around), ...existing([inF32, plainInF32])];
}

/** The given values, then all in which one of them, then two, are halved or doubled, as far as they stay integers. */
function neighbours<T extends Readonly<Record<string, number>>>(centre: T): T[] {
  const steps = Object.keys(centre).flatMap((name) => [2, 0.5].map((factor) => ({ name, value: centre[name] * factor })));
  const moved = (...changes: typeof steps) => ({ ...centre, ...Object.fromEntries(changes.map(({ name, value }) => [name, value])) });
  const pairs = steps.flatMap((one, i) => steps.slice(i + 1).flatMap((other) => (other.name === one.name ? [] : [moved(one, other)])));
  return [centre, ...steps.map((step) => moved(step)), ...pairs].filter((values) => Object.values(values).every(Number.isInteger));
}
