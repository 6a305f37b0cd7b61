import { BlocksExhaustedError, InvalidArgumentError } from '../errors.ts';

/** The block that is never given out: a table entry that points at it holds nothing. */
export const nullBlock = 0;

/**
 * The free list of a paged KV cache. Pure: knows numbers of blocks, not their memory.
 *
 * A doubly linked list in two arrays, so that a block can be taken from its middle in constant time (a prefix hit does that). Blocks are
 * given out from the head; freed ones go to the tail, a sequence's last block first, so that the end of a chain is reused before its start.
 *
 * Where somebody keeps what blocks hold in order to find it again (`watchEvictions`), a freed block stays findable until it is given out,
 * and one that cannot be found, such as a partial one, goes to the head: it is used up before anything of worth is.
 */
export class BlockPool {
  /** All blocks, the null block included. */
  readonly size: number;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #owners: Int32Array;
  /** 1 = what the block holds can be found again. */
  readonly #cached: Uint8Array;
  #onEvict: ((block: number) => void) | undefined;
  #free: number;

  constructor(size: number) {
    if (!Number.isInteger(size) || size < 2)
      throw new InvalidArgumentError('blocks', size, 'an integer of at least 2 (block 0 is reserved)');
    this.size = size;
    // Index `size` is the list's sentinel: next of it is the head, previous of it the tail.
    this.#next = new Int32Array(size + 1);
    this.#previous = new Int32Array(size + 1);
    this.#owners = new Int32Array(size);
    this.#cached = new Uint8Array(size);
    this.#owners[nullBlock] = 1;
    for (let block = 1; block <= size; block++) {
      this.#next[block] = block === size ? 1 : block + 1;
      this.#previous[block] = block === 1 ? size : block - 1;
    }
    this.#free = size - 1;
  }

  /** Blocks that can be given out now. */
  get free(): number {
    return this.#free;
  }

  /** How many sequences hold a block; 0 = free. */
  owners(block: number): number {
    return this.#owners[block];
  }

  /** From now on blocks can be marked as findable, and `onEvict` hears of each that is given out anew. One watcher, for good. */
  watchEvictions(onEvict: (block: number) => void): void {
    if (this.#onEvict) throw new InvalidArgumentError('onEvict', 'a second watcher', 'the only one of its block pool');
    this.#onEvict = onEvict;
  }

  /** Marks a block whose content can be found again, or no longer. @throws {InvalidArgumentError} for the null block. */
  setCached(block: number, cached: boolean): void {
    if (!(block > nullBlock && block < this.size)) throw new InvalidArgumentError('block', block, `from 1 to ${this.size - 1}`);
    this.#cached[block] = cached ? 1 : 0;
  }

  isCached(block: number): boolean {
    return this.#cached[block] === 1;
  }

  /** The free list, from the head: the order in which blocks will be given out. */
  freeBlocks(): number[] {
    const blocks: number[] = [];
    for (let block = this.#next[this.size]; block !== this.size; block = this.#next[block]) blocks.push(block);
    return blocks;
  }

  /** Takes blocks from the head of the free list: all of them or none. @throws {BlocksExhaustedError} */
  allocate(count: number): number[] {
    if (count > this.#free) throw new BlocksExhaustedError(count, this.#free, this.size - 1);
    return Array.from({ length: count }, () => {
      const block = this.#next[this.size];
      this.#unlink(block);
      this.#owners[block] = 1;
      if (this.#cached[block] === 1) {
        this.#cached[block] = 0;
        this.#onEvict?.(block);
      }
      return block;
    });
  }

  /**
   * One more owner for blocks that were found again: free ones leave the free list, null blocks are passed over.
   * @throws {InvalidArgumentError} for a block that is not cached.
   */
  take(blocks: readonly number[]): void {
    const lost = blocks.find((block) => block !== nullBlock && this.#cached[block] !== 1);
    if (lost !== undefined) throw new InvalidArgumentError('block', lost, 'a block whose content is cached');
    for (const block of blocks) if (block !== nullBlock && this.#owners[block]++ === 0) this.#unlink(block);
  }

  /** One more owner for blocks that are in use; null blocks are passed over. @throws {InvalidArgumentError} for a block that nobody holds. */
  retain(blocks: readonly number[]): void {
    const free = blocks.find((block) => block !== nullBlock && this.#owners[block] === 0);
    if (free !== undefined) throw new InvalidArgumentError('block', free, 'a block that is in use');
    for (const block of blocks) if (block !== nullBlock) this.#owners[block]++;
  }

  /**
   * Gives up one owner's hold on a sequence's blocks (in table order; null blocks are passed over): all of them or none.
   * @throws {InvalidArgumentError} for a block that nobody holds.
   */
  release(blocks: readonly number[]): void {
    this.#checkHeld(blocks);
    for (let i = blocks.length - 1; i >= 0; i--) {
      const block = blocks[i];
      if (block === nullBlock || --this.#owners[block] > 0) continue;
      const isWorthless = this.#onEvict !== undefined && this.#cached[block] === 0;
      this.#link(block, isWorthless ? this.size : this.#previous[this.size]);
    }
  }

  /** Counts every hold down and up again, so that a block which is listed too often is found before anything changes. */
  #checkHeld(blocks: readonly number[]): void {
    const listed = blocks.filter((block) => block !== nullBlock);
    let counted = 0;
    let held = true;
    while (held && counted < listed.length) held = this.#owners[listed[counted++]]-- > 0;
    for (let i = 0; i < counted; i++) this.#owners[listed[i]]++;
    if (!held) throw new InvalidArgumentError('block', listed[counted - 1], 'a block that is in use');
  }

  #unlink(block: number): void {
    this.#next[this.#previous[block]] = this.#next[block];
    this.#previous[this.#next[block]] = this.#previous[block];
    this.#free--;
  }

  /** Puts a block behind another one in the free list; behind the sentinel is the head. */
  #link(block: number, previous: number): void {
    const next = this.#next[previous];
    this.#next[previous] = block;
    this.#previous[block] = previous;
    this.#next[block] = next;
    this.#previous[next] = block;
    this.#free++;
  }
}
