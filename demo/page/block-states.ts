/**
 * What the picture of the KV cache shows, as plain numbers.
 */
import type { BlockSnapshot } from 'pagewise/worker';

/** The state of the null block, which is never given out. */
export const nullState = -1;

/**
 * For each block the share of its slots that hold tokens: 0 = free, up to 1 = full; `nullState` for the null block.
 *
 * @param into reused where it has the right length, so that a frame allocates nothing.
 */
export function readBlockStates(
  { size, blockSize, sequences }: BlockSnapshot,
  into?: Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  const states = into?.length === size ? into.fill(0) : new Float32Array(size);
  states[0] = nullState;
  for (const { blocks, length } of sequences) {
    for (const [index, block] of blocks.entries()) {
      if (block !== 0) states[block] = Math.max(states[block] ?? 0, Math.min(1, (length - index * blockSize) / blockSize));
    }
  }
  return states;
}

/** Blocks that hold tokens. */
export function usedBlocks(states: Float32Array): number {
  return states.reduce((count, state) => count + (state > 0 ? 1 : 0), 0);
}

/** The picture in one sentence, for those who do not see it. `most` is the largest number that was in use so far. */
export function describeBlocks({ size, blockSize }: BlockSnapshot, states: Float32Array, most: number): string {
  const total = size - 1;
  const used = usedBlocks(states);
  const part = states.findIndex((state) => state > 0 && state < 1);
  const partly = states.reduce((count, state) => count + (state > 0 && state < 1 ? 1 : 0), 0);
  const peak = most > used ? ` (${most} at most so far)` : '';
  const blocks = `${used} of ${total} blocks in use${peak}, ${blockSize} tokens each`;
  if (partly === 0) return `${blocks}.`;
  if (partly > 1) return `${blocks}; ${partly} of them partly filled.`;
  return `${blocks}; block ${part} has ${Math.round((states[part] ?? 0) * blockSize)} of ${blockSize} slots filled.`;
}

/** Where cells lie. All lengths are in CSS pixels. */
export interface GridLayout {
  readonly columns: number;
  /** From one cell's left edge to the next one's. */
  readonly pitch: number;
  /** Edge of a cell. */
  readonly cell: number;
  readonly height: number;
}

const largestPitch = 26;
const smallestPitch = 4;

/** Fits `count` square cells into `width`, as large as possible while the grid stays about `wantedHeight` high. */
export function layOutGrid(count: number, width: number, wantedHeight: number): GridLayout {
  const fitting = Math.sqrt((width * wantedHeight) / Math.max(1, count));
  const roughPitch = Math.min(largestPitch, Math.max(smallestPitch, fitting));
  const columns = evenColumns(count, Math.max(1, Math.min(count, Math.floor(width / roughPitch))));
  const gap = roughPitch >= 12 ? 4 : roughPitch >= 7 ? 2 : 1;
  // Stretched, so that full rows reach both edges.
  const pitch = Math.min((width + gap) / columns, largestPitch * 1.4);
  return { columns, pitch, cell: pitch - gap, height: Math.ceil(count / columns) * pitch - gap };
}

/** `most` columns or a few less: those that fill the last row best. */
function evenColumns(count: number, most: number): number {
  let best = most;
  for (let columns = most; columns >= most * 0.75; columns--) if (lastRow(count, columns) > lastRow(count, best)) best = columns;
  return best;
}

/** The share of the last row that is filled. */
function lastRow(count: number, columns: number): number {
  return (count % columns || columns) / columns;
}
