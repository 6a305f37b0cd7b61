/** The bytes of a saved sequence: a header that says what the blocks are, then per layer the blocks in order. Pure. */
import { InvalidArgumentError } from '../errors.ts';
import { blockBytes, hasTokenScales, type KvLayout, kvFormats } from './layout.ts';

/** "PGKV" and the version of the format. */
const magic = [0x564b4750, 4] as const;

type SnapshotLayout = KvLayout & { readonly numLayers: number };

function describe(layout: SnapshotLayout): number[] {
  const { numLayers, blockSize, numKvHeads, headDim, dtype } = layout;
  return [...magic, numLayers, blockSize, numKvHeads, headDim, kvFormats[dtype].code, hasTokenScales(layout) ? 1 : 0];
}

export function writeSnapshotHeader(layout: SnapshotLayout, length: number): ArrayBuffer {
  return Uint32Array.from([...describe(layout), length]).buffer;
}

export function snapshotBytes(layout: SnapshotLayout, numBlocks: number): number {
  return writeSnapshotHeader(layout, 0).byteLength + layout.numLayers * numBlocks * blockBytes(layout);
}

/** @throws {InvalidArgumentError} for something else than a snapshot, one of another layout, or a part of one. */
export function readSnapshot(
  layout: SnapshotLayout,
  snapshot: ArrayBuffer,
): { readonly length: number; readonly data: Uint8Array<ArrayBuffer> } {
  const expected = describe(layout);
  const headerBytes = (expected.length + 1) * 4;
  const header = snapshot.byteLength >= headerBytes ? new Uint32Array(snapshot, 0, expected.length + 1) : undefined;
  if (!header || magic.some((word, i) => header[i] !== word))
    throw new InvalidArgumentError('snapshot', 'something else', 'what KvCache.save returned');
  const names = ['', '', 'numLayers', 'blockSize', 'numKvHeads', 'headDim', 'dtype', 'scales'];
  const different = expected.findIndex((word, i) => header[i] !== word);
  if (different >= 0)
    throw new InvalidArgumentError(`snapshot's ${names[different]}`, header[different], `${expected[different]}, as this cache's`);
  const length = header[expected.length];
  const bytes = snapshotBytes(layout, Math.ceil(length / layout.blockSize));
  if (snapshot.byteLength !== bytes)
    throw new InvalidArgumentError('snapshot', `${snapshot.byteLength} bytes`, `${bytes} bytes for ${length} tokens`);
  return { length, data: new Uint8Array(snapshot, headerBytes) };
}
