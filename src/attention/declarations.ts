/** What the declarations of several attention kernels have in common. Pure. */
import { frozen, type readBuffer, type writeBuffer } from '../launch/kernel.ts';
import { constants, float, formatOf } from './prelude.ts';

/** f32 values of a partial state: headDim outputs, m, l, and two to keep rows of 16 bytes. */
export const partialWords = (headDim: number) => headDim + 4;

/** The first pool buffer goes by the name that types know; the others are there at run time alone. */
export function poolArguments<const B extends typeof readBuffer | typeof writeBuffer>(count: number, buffer: B) {
  const more = Object.fromEntries(Array.from({ length: count - 1 }, (_, i) => [`pool${i + 1}`, buffer]));
  return { first: { pool0: buffer } as const, more: more as Record<never, B> };
}

/** What fixes a pool's layout. */
export const layout = {
  blockSize: frozen('u32'),
  numKvHeads: frozen('u32'),
  headDim: frozen('text'),
  kvDtype: frozen('text'),
  tokenScales: frozen('text'),
  loadWords: frozen('text'),
  blocksPerBuffer: frozen('text'),
} as const;
export interface LayoutSelectors {
  readonly headDim: number | string;
  readonly kvDtype: number | string;
  readonly tokenScales: number | string;
  readonly loadWords: number | string;
  readonly blocksPerBuffer: number | string;
}
export const layoutConstants = ({ headDim, kvDtype, tokenScales, loadWords, blocksPerBuffer }: LayoutSelectors) =>
  [
    constants({ headDim, kvDtype, tokenScales, loadWords, blocksPerBuffer }),
    `const largestCode = ${float(formatOf(Number(kvDtype)).largest)};`,
  ].join('\n');
