import type { Cascade, PlannedSequence } from './plan.ts';

/** Keys that need not be read again from which on sharing a prefix pays: it costs a launch's tail and a partial state for each row. */
const worthwhile = 4096;

/**
 * Runs of neighbours whose first blocks are the same (cascade attention; Ye et al. 2024, "Cascade inference"). The rule: a run is as long as the
 * first block is the same; its prefix is what all share, in whole blocks before every new token; it is taken where it saves at least 4,096 keys.
 */
export function findCascades(batch: readonly PlannedSequence[], blockSize: number): Cascade[] {
  const cascades: Cascade[] = [];
  for (let first = 0; first < batch.length; ) {
    let count = 1;
    let shared = blocksBefore(batch[first], blockSize);
    while (shared > 0 && first + count < batch.length && batch[first + count].blocks[0] === batch[first].blocks[0]) {
      shared = Math.min(shared, sharedBlocks(batch[first], batch[first + count], blockSize));
      count++;
    }
    const prefixLen = shared * blockSize;
    if (prefixLen * (count - 1) >= worthwhile) cascades.push({ first, count, prefixLen });
    first += count;
  }
  return cascades;
}

/** Whole blocks before a sequence's new tokens. */
function blocksBefore({ seqLen, queryLen }: PlannedSequence, blockSize: number): number {
  return Math.floor((seqLen - queryLen) / blockSize);
}

/** Blocks at the start of both, and before the new tokens of both. */
function sharedBlocks(a: PlannedSequence, b: PlannedSequence, blockSize: number): number {
  const most = Math.min(blocksBefore(a, blockSize), blocksBefore(b, blockSize));
  let shared = 0;
  while (shared < most && a.blocks[shared] === b.blocks[shared]) shared++;
  return shared;
}
