/** Tiles of the decode kernels by multiply-adds, shaders/attention/decode.wgsl and decode-teams.wgsl. Pure. */

import { sameJson } from '../../same-json.ts';
import { hasTokenScales, type KvDtype, type KvLayout, kvFormats, loadWords, rowBytes } from '../layout.ts';
import { anyDeviceInvocations, neighbours } from './space.ts';

/** What decides which kernel a tile runs with. */
export interface DecodeWays {
  /**
   * Invocations that share a row are neighbours in a subgroup (shaders/attention/decode-teams.wgsl). Then keyThreads and valueThreads are powers
   * of two, no more than a subgroup has, and keyThreads is a multiple of keysPerThread.
   */
  readonly subgroups: boolean;
  /** Multiplies 8-bit codes in f16 (shaders/attention/values-f16.wgsl, keys-f16.wgsl). */
  readonly halves: boolean;
  /** Multiplies keys in int8 as they are stored, as dot products of bytes (shaders/attention/keys-i8.wgsl). */
  readonly byteKeys: boolean;
}

export interface DecodeTile extends DecodeWays {
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
}

/** What a tile gives its kernel as selectors. */
export function tileSizes({ subgroups: _, halves: __, byteKeys: ___, ...sizes }: DecodeTile): Omit<DecodeTile, keyof DecodeWays> {
  return sizes;
}

/** Bytes of workgroup memory of the decode kernel: queries, parts of scores or the crews' outputs, scores, rows, scales and the crews' states. */
export function decodeMemory(
  { headTile, keyThreads, keysPerThread, valueThreads, invocations, subgroups, halves, byteKeys }: Omit<DecodeTile, 'loadWords'>,
  headDim: number,
  tokenScales: boolean,
): number {
  const keyTile = (invocations / keyThreads) * keysPerThread;
  const crews = invocations / valueThreads;
  const queries = halves || byteKeys ? [(headTile * headDim) / 2, headTile, headTile] : [headTile * headDim, headTile];
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
  /** WGSL has dot products of bytes. */
  readonly byteProducts: boolean;
  /** The compiler counts the rounds of loops, as naga does: that takes registers. */
  readonly countsRounds?: boolean;
}

/** Others compute on the CPU. */
const isGpu = ({ maxInvocations }: DecodeDevice) => maxInvocations >= 128;

/**
 * How the decode kernel takes keys: several keys in flight, and all heads of a group, or a half or third of them, as fit; undefined when nothing
 * fits into the device's workgroup memory.
 */
export function chooseDecodeTile(layout: KvLayout, groupSize: number, device: DecodeDevice): DecodeTile | undefined {
  const { mostCrews, mostHeads, mostKeys, ...row } = chooseRowThreads(layout, groupSize, device);
  const parts = Math.ceil(groupSize / mostHeads);
  for (let crews = mostCrews; crews > 0; crews >>= 1) {
    for (let headTile = Math.ceil(groupSize / parts); headTile > 0; headTile--) {
      // An invocation looks up one key of a tile at most.
      for (let keysPerThread = Math.min(mostKeys, row.keyThreads); keysPerThread > 0; keysPerThread >>= 1) {
        const tile = { headTile, keysPerThread, invocations: crews * row.valueThreads, ...row };
        if (decodeMemory(tile, layout.headDim, hasTokenScales(layout)) <= device.memory) return tile;
      }
    }
  }
  return undefined;
}

/** How the kernel by subgroups takes rows, of whatever length. */
interface SubgroupTile extends Pick<DecodeTile, 'loadWords'> {
  /** Loads of a key that an invocation has, unless fewer than `leastKeyThreads` would share the key. */
  readonly keyUnits: number;
  readonly leastKeyThreads: number;
  /** Loads of keys that an invocation has in flight, of four keys at most. */
  readonly keyLoads: number;
}

/**
 * By subgroups, the best of the tiles tried on H200s and an H100: `npm run bench -- attention --filter "sweep of single tokens"` tries them again, and
 * docs/experiments.md has the figures. Registers decide: an invocation may have 128 if the workgroups of 64 sequences are to run at once. In 8 bits it has
 * all of them, and where a compiler takes more (168, as NVIDIA's does when little is changed), decode is a third slower.
 */
const wholeTile: SubgroupTile = { keyUnits: 2, leastKeyThreads: 8, keyLoads: 8, loadWords: 4 };
/** Of f16 in groups of few heads. */
const halfTile: SubgroupTile = { ...wholeTile, keyUnits: 1 };
const codesTile: SubgroupTile = { ...wholeTile, keyUnits: 4, leastKeyThreads: 4, keyLoads: 16, loadWords: 2 };
/** Where these codes are multiplied in f16: with twice as many loads in flight, as in f32, rows of 128 values take more registers than there are. */
const codeHalvesTile: SubgroupTile = { ...codesTile, keyLoads: 8 };
/** Where keys are multiplied as bytes, or registers are fewer: two invocations read one of 64 values, and half as many are in flight. */
const pairsTile: SubgroupTile = { ...codeHalvesTile, leastKeyThreads: 2 };

/** At most: loads of a row that one invocation has, invocations that share a row, and invocations of a workgroup. */
const mostUnits = 4;
const mostTogether = 16;
const mostOfWorkgroup = 128;

/** Which invocations share a row, by which loads, and most of the keys in flight, and of a workgroup's heads and rows of values at once. */
interface RowThreads extends DecodeWays, Pick<DecodeTile, 'keyThreads' | 'valueThreads' | 'loadWords'> {
  readonly mostKeys: number;
  readonly mostHeads: number;
  readonly mostCrews: number;
}

/** Heads of a group whose outputs leave registers for what is in flight. */
const fewHeads = 4;

type Products = Omit<DecodeWays, 'subgroups'>;
const inFloats: Products = { halves: false, byteKeys: false };

/**
 * The tile by subgroups. Of f16 in large groups invocations have two loads of a key: 13 to 16 % faster on an H200, but ragged batches are 10 % slower, as in
 * small groups, which win 2 % by it.
 */
function chooseSubgroupTile(dtype: KvDtype, groupSize: number, { halves, byteKeys }: Products, countsRounds: boolean): SubgroupTile {
  if (byteKeys || (halves && countsRounds)) return pairsTile;
  if (halves) return codeHalvesTile;
  if (kvFormats[dtype].bytes === 1) return codesTile;
  return dtype === 'f16' && groupSize <= fewHeads ? halfTile : wholeTile;
}

const powerOf2AtLeast = (n: number) => 2 ** Math.ceil(Math.log2(n));

/** Crews of `threads` that a workgroup of so many invocations has, at least one and `most` at most. */
const crewsIn = (invocations: number, threads: number, most: number) => Math.max(1, Math.min(most, Math.floor(invocations / threads)));

function chooseRowThreads(layout: KvLayout, groupSize: number, device: DecodeDevice): RowThreads {
  const { maxInvocations, shaderF16, byteProducts, countsRounds = false } = device;
  // No GPU has subgroups so small: wgpu says 4 of all on Metal, and rows shared by four want more registers than barriers cost.
  const subgroupSize = isGpu(device) && device.subgroupSize < 8 ? 0 : device.subgroupSize;
  const areCodes = kvFormats[layout.dtype].bytes === 1;
  // Where there is no hardware for them, both are slow.
  const products = {
    halves: shaderF16 && isGpu(device) && areCodes,
    byteKeys: byteProducts && isGpu(device) && layout.dtype === 'int8',
  };
  // Beside values in f32 keys as bytes are slower in large groups (docs/experiments.md).
  const bySubgroups = products.halves || groupSize <= fewHeads ? products : inFloats;
  const tile = chooseSubgroupTile(layout.dtype, groupSize, bySubgroups, countsRounds);
  const words = Math.min(tile.loadWords, loadWords(layout));
  const units = rowBytes(layout) / (4 * words);
  const widest = Math.min(units & -units, mostTogether, 2 ** Math.floor(Math.log2(maxInvocations)), subgroupSize);
  const keyThreads = Math.min(widest, Math.max(tile.leastKeyThreads, powerOf2AtLeast(units / tile.keyUnits)));
  if (widest >= 4 && units <= mostUnits * keyThreads) {
    // Keys in flight hide a GPU's memory; elsewhere they make the code long, which lavapipe takes seconds to compile.
    const mostKeys = isGpu(device) ? Math.min(4, powerOf2AtLeast((tile.keyLoads * keyThreads) / units)) : 2;
    const most = isGpu(device) && groupSize <= fewHeads && layout.headDim <= 128 ? 16 : 8;
    const mostCrews = crewsIn(Math.min(maxInvocations, mostOfWorkgroup), widest, most);
    return { keyThreads, valueThreads: widest, loadWords: words, subgroups: true, ...bySubgroups, mostKeys, mostHeads: 8, mostCrews };
  }
  if (isGpu(device)) return areCodes ? chooseCodeThreads(layout, products) : chooseWholeThreads(layout);
  const loads = rowBytes(layout) / (4 * loadWords(layout));
  const threads = divisorUpTo(Math.min(maxInvocations, Math.max(8, loads / 2)), loads);
  const sizes = { keyThreads: threads, valueThreads: threads, loadWords: loadWords(layout), subgroups: false, ...inFloats };
  return { ...sizes, mostKeys: 2, mostHeads: 8, mostCrews: crewsIn(Math.min(maxInvocations, 64), threads, 8) };
}

/** The largest divisor of `n` that is not larger than `most`. */
function divisorUpTo(most: number, n: number): number {
  let divisor = Math.floor(Math.min(most, n));
  while (n % divisor !== 0) divisor--;
  return divisor;
}

/**
 * On a GPU without subgroups, f16 and f32: eight values of a row for each invocation, and two loads of a key. Registers are what a GPU runs out of: large
 * workgroups keep others from their core, and so do more than six heads. Measured on an H200 in Deno (docs/experiments.md#decode-without-subgroups).
 */
function chooseWholeThreads(layout: KvLayout): RowThreads {
  const loads = rowBytes(layout) / (4 * loadWords(layout));
  const valueThreads = divisorUpTo(Math.min(16, layout.headDim / 8), loads);
  const keyThreads = divisorUpTo(Math.max(2, loads / 2), valueThreads);
  const isShort = layout.dtype === 'f16' && layout.headDim <= 80;
  const sizes = { keyThreads, valueThreads, loadWords: loadWords(layout), subgroups: false, ...inFloats };
  return { ...sizes, mostKeys: isShort ? 2 : 4, mostHeads: 6, mostCrews: crewsIn(isShort ? 128 : 64, valueThreads, 16) };
}

/**
 * On a GPU without subgroups, 8 bits: loads of 8 bytes, a value by 16 invocations and a key by two, which leaves few parts of a score, and four heads. In f32
 * workgroups of 128 are 1.6 times as fast as of 64, in f16 or with keys as bytes those of 64 1.1 times as fast. Measured there, too.
 */
function chooseCodeThreads(layout: KvLayout, products: Products): RowThreads {
  const units = rowBytes(layout) / 8;
  const valueThreads = divisorUpTo(16, units);
  let keyThreads = Math.min(valueThreads, Math.max(2, Math.ceil(units / 8)));
  while (valueThreads % keyThreads !== 0) keyThreads++;
  const sizes = { keyThreads, valueThreads, loadWords: 2, subgroups: false, ...products };
  return { ...sizes, mostKeys: 2, mostHeads: 4, mostCrews: crewsIn(products.halves || products.byteKeys ? 64 : 128, valueThreads, 8) };
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
  const around = ({ headTile, keyThreads, keysPerThread, valueThreads, invocations, ...fixed }: DecodeTile) => {
    const units = rowBytes(layout) / (4 * fixed.loadWords);
    return neighbours({ headTile, keyThreads, keysPerThread, valueThreads, crews: invocations / valueThreads }).flatMap(
      ({ crews, ...tile }, i) => {
        const one = { ...tile, invocations: crews * tile.valueThreads, ...fixed };
        if (i === 0) return fits(one) ? [one] : [];
        const isRow = units % tile.valueThreads === 0 && tile.valueThreads % tile.keyThreads === 0;
        const isWhole = isRow && tile.keysPerThread <= tile.keyThreads && tile.headTile <= Math.min(groupSize, 8);
        if (!isWhole || one.invocations > mostInvocations || (fixed.subgroups && tile.valueThreads > subgroupSize)) return [];
        return fits(one) ? [one] : [];
      },
    );
  };
  const choose = (without: Partial<DecodeDevice> = {}) => {
    const tile = chooseDecodeTile(layout, groupSize, { ...device, ...without });
    return tile ? [tile] : [];
  };
  const [first] = choose();
  if (!first) return [];
  // Round the default, and round what is chosen where there are no subgroups; and what is chosen without f16 and products of bytes, which are not fast on every GPU.
  const whole = loadWords(layout);
  const longer = first.subgroups && first.loadWords < whole ? [{ ...first, loadWords: whole }] : [];
  const byTiles = [first, ...longer, ...choose({ subgroupSize: 0 })].flatMap(around);
  const inF32 = [{ shaderF16: false }, { shaderF16: false, byteProducts: false }].flatMap((products) => [
    ...choose(products),
    ...choose({ ...products, subgroupSize: 0 }),
  ]);
  return [...byTiles, ...inF32].filter((tile, i, all) => all.findIndex((one) => sameJson(one, tile)) === i);
}
