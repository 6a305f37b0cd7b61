import { describe, expect, it } from 'vitest';
import { blocksAtOnce, blocksKept, firstBlockSeen, type KeyWindow, longestSequence, tokensAtOnce } from '../../src/engine/window.ts';

const blockSize = 8;

/** Blocks that `count` tokens behind `length` others write to or look into, one by one. */
function blocksNeeded({ window = Number.POSITIVE_INFINITY, keepFirst = 0 }: KeyWindow, length: number, count: number): number {
  const seen = new Set<number>();
  for (let token = length; token < length + count; token++) {
    for (let key = 0; key <= token; key++) if (token - key < window || key < keepFirst) seen.add(Math.floor(key / blockSize));
  }
  return seen.size;
}

describe('blocks of a window', () => {
  const windows: readonly KeyWindow[] = [{ window: 1 }, { window: 7 }, { window: 8 }, { window: 17 }, { window: 20, keepFirst: 9 }];

  it.each(windows)('%j: the most that tokens look into, at any place', (keys) => {
    for (const count of [1, 2, 7, 8, 9, 30]) {
      const most = Math.max(...Array.from({ length: 64 }, (_, i) => blocksNeeded(keys, 100 + i, count)));
      expect(blocksAtOnce(keys, count, blockSize), `${count} tokens`).toBe(most);
    }
  });

  it.each(windows)('%j: the most tokens for so many blocks', (keys) => {
    for (let blocks = 1; blocks < 12; blocks++) {
      const count = tokensAtOnce(keys, blocks, blockSize);
      expect(blocksAtOnce(keys, Math.max(1, count + 1), blockSize)).toBeGreaterThan(blocks);
      if (count > 0) expect(blocksAtOnce(keys, count, blockSize)).toBeLessThanOrEqual(blocks);
    }
  });

  it('begin where the first key lies that is seen', () => {
    expect([0, 15, 16, 23, 24, 40].map((position) => firstBlockSeen({ window: 17 }, position, blockSize))).toEqual([0, 0, 0, 0, 1, 3]);
    expect(firstBlockSeen({}, 1000, blockSize)).toBe(0);
    expect([0, 1, 8, 9].map((keepFirst) => blocksKept({ keepFirst }, blockSize))).toEqual([0, 1, 1, 2]);
  });

  it('serve sequences of any length, or those that lie in them wholly', () => {
    expect([longestSequence({ window: 17 }, 3, blockSize), longestSequence({ window: 17 }, 2, blockSize)]).toEqual([
      Number.POSITIVE_INFINITY,
      16,
    ]);
    expect(longestSequence({}, 100, blockSize)).toBe(800);
  });

  it('are all of them without a window', () => {
    expect([blocksAtOnce({}, 1, blockSize), tokensAtOnce({}, 100, blockSize)]).toEqual([
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
    ]);
  });
});
