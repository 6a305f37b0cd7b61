import { describe, expect, it } from 'vitest';
import { BlockPool, nullBlock } from '../../src/attention/blocks.ts';
import { BlocksExhaustedError, InvalidArgumentError } from '../../src/errors.ts';
import { random } from '../harness/random.ts';

/** The blocks that a pool would give out, in order; the pool is emptied by asking. */
function drain(pool: BlockPool): number[] {
  return pool.allocate(pool.free);
}

describe('BlockPool', () => {
  it('gives out every block but the null block, in ascending order at first', () => {
    const pool = new BlockPool(6);
    expect(pool.free).toBe(5);
    expect(pool.allocate(2)).toEqual([1, 2]);
    expect(pool.allocate(0)).toEqual([]);
    expect(pool.allocate(3)).toEqual([3, 4, 5]);
    expect(pool.free).toBe(0);
  });

  it("puts freed blocks behind those that were free, a sequence's last block first", () => {
    const pool = new BlockPool(8);
    const first = pool.allocate(3); // 1, 2, 3
    const second = pool.allocate(2); // 4, 5
    pool.release(second);
    pool.release(first);
    expect(drain(pool)).toEqual([6, 7, 5, 4, 3, 2, 1]);
  });

  it('passes over null blocks when it releases a table', () => {
    const pool = new BlockPool(5);
    const [a, b] = pool.allocate(2);
    pool.release([nullBlock, a, nullBlock, b]);
    expect(pool.owners(nullBlock)).toBe(1);
    expect(drain(pool)).toEqual([3, 4, b, a]);
  });

  it('gives all or nothing, and is unchanged when it gives nothing', () => {
    const pool = new BlockPool(5);
    pool.allocate(1);
    const error = thrownBy(() => pool.allocate(4));
    expect(error).toBeInstanceOf(BlocksExhaustedError);
    expect(error).toMatchObject({ needed: 4, free: 3, total: 4 });
    expect(pool.free).toBe(3);
    expect(drain(pool)).toEqual([2, 3, 4]);
  });

  it.each([
    ['twice', (pool: BlockPool, held: readonly number[]) => [pool.release(held), pool.release(held)]],
    ['twice at once', (pool: BlockPool, held: readonly number[]) => pool.release([...held, held[0]!])],
    ['that was never given out', (pool: BlockPool) => pool.release([4])],
    ['beyond the pool', (pool: BlockPool) => pool.release([6])],
    ['below the pool', (pool: BlockPool) => pool.release([-1])],
    ['of no whole number', (pool: BlockPool) => pool.release([1.5])],
  ])('refuses to release a block %s', (_, release) => {
    const pool = new BlockPool(6);
    const held = pool.allocate(2);
    expect(() => release(pool, held)).toThrow(InvalidArgumentError);
  });

  it('is unchanged by a release that it refuses', () => {
    const pool = new BlockPool(6);
    const [a, b] = pool.allocate(2);
    expect(() => pool.release([4, a!, b!])).toThrow(InvalidArgumentError);
    expect(() => pool.release([a!, b!, a!])).toThrow(InvalidArgumentError);
    expect(pool.free).toBe(3);
    expect([a, b].map((block) => pool.owners(block!))).toEqual([1, 1]);
    pool.release([a!, b!]);
    expect(drain(pool)).toEqual([3, 4, 5, 2, 1]);
  });

  describe('that somebody watches', () => {
    const watched = (size: number) => {
      const pool = new BlockPool(size);
      const evicted: number[] = [];
      pool.watchEvictions((block) => evicted.push(block));
      return { pool, evicted };
    };

    it('puts blocks of no worth in front, and others behind', () => {
      const { pool } = watched(7);
      pool.allocate(4);
      for (const block of [1, 2, 3]) pool.setCached(block, true);
      pool.release([1, 2, 3, 4]);
      expect(pool.freeBlocks()).toEqual([4, 5, 6, 3, 2, 1]);
    });

    it('says which cached blocks are given out anew, once', () => {
      const { pool, evicted } = watched(4);
      pool.allocate(2);
      pool.setCached(1, true);
      pool.release([1, 2]);
      expect(pool.allocate(2)).toEqual([2, 3]);
      expect(evicted).toEqual([]);
      pool.allocate(1);
      expect(evicted).toEqual([1]);
      expect(pool.isCached(1)).toBe(false);
      pool.release([1]);
      pool.allocate(1);
      expect(evicted).toEqual([1]);
    });

    it('takes found blocks off the free list, wherever they are in it', () => {
      const { pool, evicted } = watched(8);
      pool.allocate(5);
      for (const block of [1, 2, 3, 4]) pool.setCached(block, true);
      pool.release([1, 2, 3, 4, 5]);
      pool.take([2, 3]);
      expect(pool.freeBlocks()).toEqual([5, 6, 7, 4, 1]);
      pool.take([2]);
      expect([1, 2, 3].map((block) => pool.owners(block))).toEqual([0, 2, 1]);
      expect([pool.free, evicted]).toEqual([5, []]);
      expect(() => pool.take([5])).toThrow(/cached/);
      expect(() => pool.setCached(nullBlock, true)).toThrow(InvalidArgumentError);
      expect(() => pool.watchEvictions(() => {})).toThrow(/only one/);
    });
  });

  it.each([1, 0, -3, 2.5, Number.NaN])('refuses a size of %s', (size) => {
    expect(() => new BlockPool(size)).toThrow(InvalidArgumentError);
  });

  it.each([1, 2, 3, 4, 5])('agrees with a plain list through random work, seed %i', (seed) => {
    const numbers = random(seed);
    const size = 2 + numbers.integer(40);
    const pool = new BlockPool(size);
    let free = Array.from({ length: size - 1 }, (_, i) => i + 1);
    const held: number[][] = [];
    for (let step = 0; step < 400; step++) {
      if (numbers.uniform() < 0.5) {
        const count = numbers.integer(8);
        if (count > free.length) {
          expect(() => pool.allocate(count)).toThrow(BlocksExhaustedError);
        } else {
          const given = pool.allocate(count);
          expect(given).toEqual(free.slice(0, count));
          free = free.slice(count);
          held.push(given);
        }
      } else if (held.length > 0) {
        const [table] = held.splice(numbers.integer(held.length), 1);
        pool.release(table!);
        free.push(...table!.toReversed());
      }
      expect(pool.free).toBe(free.length);
      const owners = Array.from({ length: size }, (_, block) => pool.owners(block));
      expect(owners).toEqual(Array.from({ length: size }, (_, block) => (free.includes(block) ? 0 : 1)));
    }
    expect(drain(pool)).toEqual(free);
  });
});

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}
