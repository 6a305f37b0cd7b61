/** Which blocks each sequence of a paged KV cache has. Pure: knows numbers of blocks, not their memory. */
import { CapacityExceededError, InvalidArgumentError } from '../errors.ts';
import { BlockPool, nullBlock } from './blocks.ts';

export interface BlockTableOptions {
  /** Token slots of a block. */
  readonly blockSize: number;
  /** Blocks, the reserved block 0 included. */
  readonly numBlocks: number;
  /** Sequences that can be open at once. */
  readonly maxSequences: number;
  /** Longest sequence, in blocks: the length of a block-table row. */
  readonly maxBlocksPerSequence: number;
}

/** An open sequence. Owned by its `BlockTables`; read it, and change it through them (or through the `KvCache` that has them). */
export interface Sequence {
  /** Row of the block table. */
  readonly tableRow: number;
  /** Physical blocks by logical number; the null block where a block was given up. */
  readonly blocks: readonly number[];
  /** Tokens whose slots are reserved. */
  readonly length: number;
}

interface OpenSequence {
  tableRow: number;
  blocks: number[];
  length: number;
}

/** A block to copy before anything is appended. */
export type BlockCopy = readonly [source: number, destination: number];

/**
 * The open sequences and their block tables. Blocks that several sequences have are copied when one of them is about to write into one
 * (copy-on-write); what must be done on the GPU, table entries and copies, is collected for the next step to take.
 */
export class BlockTables {
  readonly options: BlockTableOptions;
  readonly blocks: BlockPool;
  readonly #open = new Set<OpenSequence>();
  readonly #freeRows: number[];
  /** Value by index: a scatter on the GPU must not meet one index twice. */
  readonly #tableUpdates = new Map<number, number>();
  readonly #copies: BlockCopy[] = [];

  constructor(options: BlockTableOptions) {
    this.options = options;
    this.blocks = new BlockPool(options.numBlocks);
    this.#freeRows = Array.from({ length: options.maxSequences }, (_, i) => options.maxSequences - 1 - i);
  }

  /** Open sequences. */
  get sequences(): ReadonlySet<Sequence> {
    return this.#open;
  }

  /** Sequences that can still be opened. */
  get freeRows(): number {
    return this.#freeRows.length;
  }

  /**
   * Opens a sequence: an empty one, or one that begins with full blocks that were found again (`BlockPool.take`), null blocks where it will not look.
   * @throws {CapacityExceededError} when `maxSequences` are open.
   */
  open(prefix: readonly number[] = []): Sequence {
    if (this.#freeRows.length === 0) {
      const { maxSequences } = this.options;
      throw new CapacityExceededError('sequences', maxSequences + 1, maxSequences, 'maxSequences');
    }
    this.blocks.take(prefix);
    const sequence: OpenSequence = { tableRow: this.#freeRows.pop() as number, blocks: [], length: prefix.length * this.options.blockSize };
    this.#open.add(sequence);
    for (const block of prefix) this.#setBlock(sequence, sequence.blocks.length, block);
    return sequence;
  }

  /** Free blocks that `extend` would take. */
  blocksNeeded(sequence: Sequence, count: number): number {
    const needed = Math.ceil((sequence.length + count) / this.options.blockSize) - sequence.blocks.length;
    return Math.max(0, needed) + (this.#mustCopy(sequence, count) ? 1 : 0);
  }

  /**
   * Reserves slots for `count` more tokens. All or nothing.
   * @throws {BlocksExhaustedError} when the pool is empty. @throws {CapacityExceededError} when the block-table row is full.
   */
  extend(sequence: Sequence, count: number): void {
    const open = this.#get(sequence);
    if (!Number.isInteger(count) || count < 0) throw new InvalidArgumentError('count', count, 'an integer from 0');
    const { blockSize, maxBlocksPerSequence } = this.options;
    const needed = Math.ceil((open.length + count) / blockSize);
    if (needed > maxBlocksPerSequence) {
      throw new CapacityExceededError('blocks of one sequence', needed, maxBlocksPerSequence, 'maxBlocksPerSequence');
    }
    const mustCopy = this.#mustCopy(open, count);
    const added = this.blocks.allocate(this.blocksNeeded(open, count));
    if (mustCopy) {
      const own = added.pop() as number;
      const last = Math.floor(open.length / blockSize);
      this.#dropCopyTo(own);
      this.#copies.push([open.blocks[last], own]); // the copy takes over this sequence's hold on the source
      this.#setBlock(open, last, own);
    }
    for (const block of added) this.#setBlock(open, open.blocks.length, block);
    open.length += count;
  }

  /**
   * Opens a sequence with the same tokens, which shares all blocks with the first one. Whichever is extended first within a shared block
   * gets a copy of it.
   * @throws {CapacityExceededError} when `maxSequences` are open.
   */
  fork(sequence: Sequence): Sequence {
    const { blocks, length } = this.#get(sequence);
    const fork = this.open() as OpenSequence;
    this.blocks.retain(blocks);
    for (const block of blocks) this.#setBlock(fork, fork.blocks.length, block);
    fork.length = length;
    return fork;
  }

  /**
   * Gives up the blocks that lie wholly before `firstKey`: a sliding window, with its kept first keys apart, never looks there again. The block
   * that the next token goes into stays.
   */
  release(sequence: Sequence, firstKey: number, keepFirst = 0): void {
    const open = this.#get(sequence);
    const { blockSize } = this.options;
    const end = Math.floor(Math.min(firstKey, open.length) / blockSize);
    for (let i = Math.ceil(keepFirst / blockSize); i < end; i++) {
      if (open.blocks[i] === nullBlock) continue;
      this.blocks.release([open.blocks[i]]);
      this.#setBlock(open, i, nullBlock);
    }
  }

  /** Takes back the slots from `length` on: tokens that were computed past a stop. */
  truncate(sequence: Sequence, length: number): void {
    const open = this.#get(sequence);
    if (!Number.isInteger(length) || length < 0 || length > open.length)
      throw new InvalidArgumentError('length', length, `an integer from 0 to ${open.length}`);
    open.length = length;
    this.blocks.release(open.blocks.splice(Math.ceil(length / this.options.blockSize)));
  }

  /** Closes a sequence and frees its blocks. */
  close(sequence: Sequence): void {
    this.truncate(sequence, 0);
    this.#open.delete(sequence as OpenSequence);
    this.#freeRows.push(sequence.tableRow);
  }

  /** Entries by which the block table changed since `takeTableUpdates` was last called. */
  get numTableUpdates(): number {
    return this.#tableUpdates.size;
  }

  /** The (index, value) pairs of these entries, flat; each index comes once. */
  takeTableUpdates(): readonly number[] {
    const updates = [...this.#tableUpdates].flat();
    this.#tableUpdates.clear();
    return updates;
  }

  /** Gives back what was taken and did not reach the GPU; entries that changed since stay as they are. */
  returnTableUpdates(updates: readonly number[]): void {
    for (let i = 0; i < updates.length; i += 2) if (!this.#tableUpdates.has(updates[i])) this.#tableUpdates.set(updates[i], updates[i + 1]);
  }

  /** Blocks to copy since `takeBlockCopies` was last called. */
  get numBlockCopies(): number {
    return this.#copies.length;
  }

  /** The copies to make, whose sources are held until they are taken. */
  takeBlockCopies(): readonly BlockCopy[] {
    const copies = this.#copies.splice(0);
    for (const [source] of copies) this.blocks.release([source]);
    return copies;
  }

  /** Sources of copies that nobody took yet: each is held once. */
  get copySources(): readonly number[] {
    return this.#copies.map(([source]) => source);
  }

  /** One of the sequence's blocks is still to be copied. */
  awaitsCopy({ blocks }: Sequence): boolean {
    return this.#copies.some(([, destination]) => blocks.includes(destination));
  }

  /** @throws {InvalidArgumentError} for a sequence that is closed or of other tables. */
  check(sequence: Sequence): void {
    this.#get(sequence);
  }

  /** The block that the next token goes into may be somebody else's too, or be findable as it is: then this sequence needs a copy of its own. */
  #mustCopy({ length, blocks }: Sequence, count: number): boolean {
    const last = Math.floor(length / this.options.blockSize);
    if (count === 0 || last >= blocks.length) return false;
    return this.blocks.owners(blocks[last]) > 1 || this.blocks.isCached(blocks[last]);
  }

  /** A block that was freed and given out again before its copy was made must not be the destination of two. */
  #dropCopyTo(block: number): void {
    const stale = this.#copies.findIndex(([, destination]) => destination === block);
    if (stale >= 0) this.blocks.release([this.#copies.splice(stale, 1)[0][0]]);
  }

  #setBlock(open: OpenSequence, index: number, block: number): void {
    this.#tableUpdates.set(open.tableRow * this.options.maxBlocksPerSequence + index, block);
    open.blocks[index] = block;
  }

  #get(sequence: Sequence): OpenSequence {
    if (!this.#open.has(sequence as OpenSequence))
      throw new InvalidArgumentError('sequence', 'closed or foreign', 'an open sequence of these block tables');
    return sequence as OpenSequence;
  }
}
