/** Tile sizes of the attention kernels, as far as the device decides them. Pure. */
import type { AdapterDescription } from '../gpu.ts';
import { spanWords } from './plan.ts';

export interface PrefillTile {
  /** Rows (token, head) of a workgroup. */
  readonly rowTile: number;
  /** Keys staged at a time; divides 64. */
  readonly keyTile: number;
  /** Query heads of a group that one workgroup takes. */
  readonly headTile: number;
  /** Query tokens of one workgroup. */
  readonly tokens: number;
}

/** Largest first. */
const prefillTiles = [
  [32, 32],
  [16, 32],
  [16, 16],
  [8, 16],
  [8, 8],
  [8, 4],
  [4, 4],
] as const;

/** Bytes of workgroup memory of the prefill kernel: queries, a tile of keys or values, weights, maxima, spans, scales, and which keys are read. */
export function prefillMemory(headDim: number, rowTile: number, keyTile: number): number {
  return 4 * ((rowTile + keyTile) * headDim + rowTile * keyTile + rowTile + rowTile * spanWords + 3 * keyTile);
}

/** Bytes of workgroup memory of the decode kernel: queries, two tiles of weights, rows and scales, maxima, and what lanes hand over. */
export function decodeMemory(headDim: number, headTile: number, keyTile: number): number {
  const outputs = (headTile * headDim) / 8;
  const lanes = Math.max(1, Math.floor(keyTile / outputs));
  const joined = lanes > 1 ? lanes * outputs : 0;
  return 4 * (outputs * 8 + 2 * headTile * keyTile + 4 * keyTile + headTile + (joined + 1) * 12);
}

/**
 * The largest prefill tile that fits into `memory` bytes of workgroup storage; undefined when none does.
 * @param groupSize query heads per KV head
 */
export function choosePrefillTile(headDim: number, groupSize: number, memory: number): PrefillTile | undefined {
  for (const [rowTile, keyTile] of prefillTiles) {
    if (prefillMemory(headDim, rowTile, keyTile) > memory) continue;
    const headTile = Math.min(groupSize, rowTile);
    return { rowTile, keyTile, headTile, tokens: Math.floor(rowTile / headTile) };
  }
  return undefined;
}

/**
 * Invocations of a decode workgroup, and keys of its tile. SwiftShader gives each SIMD group of a workgroup with barriers a stack of its own,
 * about 8 us for every four invocations, which costs more than a short tile does. Lavapipe does not, and ends any loop after 65,536 rounds
 * of an invocation without an error: there a short tile would make long rows wrong.
 */
export function decodeKeyTile({ vendor, architecture, device, description }: Omit<AdapterDescription, 'software'>): number {
  return /swiftshader/i.test(`${vendor} ${architecture} ${device} ${description}`) ? 8 : 64;
}

/** How many query heads of a group one decode workgroup takes, by the same rule; undefined when not even one fits. */
export function chooseDecodeHeadTile(headDim: number, groupSize: number, memory: number, keyTile: number): number | undefined {
  for (let headTile = Math.min(groupSize, 8); headTile > 0; headTile--) {
    if (decodeMemory(headDim, headTile, keyTile) <= memory) return headTile;
  }
  return undefined;
}
