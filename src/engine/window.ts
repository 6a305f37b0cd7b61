/** Which blocks of a sequence a sliding window looks into. Pure. */

/** What later tokens see of the keys before them. */
export interface KeyWindow {
  /** Keys that a token sees, itself among them. Default: all. */
  readonly window?: number;
  /** First keys that stay visible beside the window; default 0. */
  readonly keepFirst?: number;
}

/** The first block, behind the kept ones, that a token at `position` looks into. */
export function firstBlockSeen({ window = Number.POSITIVE_INFINITY }: KeyWindow, position: number, blockSize: number): number {
  return Math.floor(Math.max(0, position - window + 1) / blockSize);
}

/** Blocks that all first keys which stay visible lie in. */
export function blocksKept({ keepFirst = 0 }: KeyWindow, blockSize: number): number {
  return Math.ceil(keepFirst / blockSize);
}

/** Most blocks that a sequence of any length needs at once to compute `count` tokens in a step; Infinity without a window. */
export function blocksAtOnce(keys: KeyWindow, count: number, blockSize: number): number {
  const { window = Number.POSITIVE_INFINITY } = keys;
  // window - 1 + count slots side by side, wherever in a block they begin.
  return blocksKept(keys, blockSize) + Math.ceil((window + count - 2) / blockSize) + 1;
}

/** Most tokens that a sequence of any length can compute in a step with so many blocks: the inverse of `blocksAtOnce`; below 1 where none. */
export function tokensAtOnce(keys: KeyWindow, blocks: number, blockSize: number): number {
  const { window = Number.POSITIVE_INFINITY } = keys;
  return (blocks - blocksKept(keys, blockSize) - 1) * blockSize - window + 2;
}

/** Tokens of the longest sequence that so many blocks serve: Infinity where they hold the window. */
export function longestSequence(keys: KeyWindow, blocks: number, blockSize: number): number {
  return tokensAtOnce(keys, blocks, blockSize) >= 1 ? Number.POSITIVE_INFINITY : blocks * blockSize;
}
