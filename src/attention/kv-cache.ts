import { CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { BlockPool } from './blocks.ts';
import { blockBytes, checkLayout, checkPositive, type KvLayout } from './layout.ts';

export interface KvCacheOptions extends KvLayout {
  readonly numLayers: number;
  /** Blocks per layer, the reserved block 0 included. */
  readonly numBlocks: number;
  /** Sequences that can be open at once. */
  readonly maxSequences: number;
  /** Longest sequence, in blocks: the length of a block-table row. */
  readonly maxBlocksPerSequence: number;
}

/** An open sequence. Owned by its `KvCache`; read it, and change it through the cache. */
export interface Sequence {
  /** Row of the block table. */
  readonly tableRow: number;
  /** Physical blocks by logical number. */
  readonly blocks: readonly number[];
  /** Tokens whose slots are reserved. */
  readonly length: number;
}

interface OpenSequence {
  tableRow: number;
  blocks: number[];
  length: number;
}

/** Bytes of GPU memory that a cache will take: the pools of all layers and the block table. */
export function kvCacheBytes(options: KvCacheOptions): number {
  return options.numLayers * options.numBlocks * blockBytes(options) + options.maxSequences * options.maxBlocksPerSequence * 4;
}

/**
 * A paged KV cache: one pool buffer per layer, a block table that lives on the GPU, and the sequences that own blocks.
 * Owns its buffers; `destroy()` frees them.
 */
export class KvCache {
  readonly options: KvCacheOptions;
  readonly blocks: BlockPool;
  /** Per layer: [blocks][key, value][blockSize][numKvHeads][headDim] in the storage dtype. */
  readonly pools: readonly GPUBuffer[];
  /** u32 [maxSequences][maxBlocksPerSequence]. */
  readonly blockTable: GPUBuffer;
  readonly #open = new Set<OpenSequence>();
  readonly #freeRows: number[];
  /** Value by index: a scatter on the GPU must not meet one index twice. */
  readonly #tableUpdates = new Map<number, number>();

  /** @throws {InvalidArgumentError} for a bad layout or count. @throws {LimitExceededError} when a layer's pool cannot be bound. */
  constructor(gpu: Gpu, options: KvCacheOptions) {
    checkLayout(options);
    for (const name of ['numLayers', 'maxSequences', 'maxBlocksPerSequence'] as const) checkPositive(name, options[name]);
    const poolBytes = options.numBlocks * blockBytes(options);
    for (const limit of ['maxStorageBufferBindingSize', 'maxBufferSize'] as const) {
      const fitting = Math.floor(gpu.limits[limit] / blockBytes(options));
      const remedy = `Use at most ${fitting} blocks of this size, or a smaller KV dtype.`;
      if (poolBytes > gpu.limits[limit])
        throw new LimitExceededError('The KV cache of one layer', limit, poolBytes, gpu.limits[limit], remedy);
    }
    this.options = options;
    this.blocks = new BlockPool(options.numBlocks);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.pools = Array.from({ length: options.numLayers }, (_, layer) =>
      gpu.device.createBuffer({ label: `kv pool ${layer}`, size: poolBytes, usage }),
    );
    const tableBytes = options.maxSequences * options.maxBlocksPerSequence * 4;
    this.blockTable = gpu.device.createBuffer({ label: 'block table', size: tableBytes, usage });
    this.#freeRows = Array.from({ length: options.maxSequences }, (_, i) => options.maxSequences - 1 - i);
  }

  /** Open sequences. */
  get sequences(): ReadonlySet<Sequence> {
    return this.#open;
  }

  /** Opens an empty sequence. @throws {CapacityExceededError} when `maxSequences` are open. */
  open(): Sequence {
    const tableRow = this.#freeRows.pop();
    if (tableRow === undefined) {
      throw new CapacityExceededError('sequences', this.options.maxSequences + 1, this.options.maxSequences, 'maxSequences');
    }
    const sequence: OpenSequence = { tableRow, blocks: [], length: 0 };
    this.#open.add(sequence);
    return sequence;
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
    const added = this.blocks.allocate(Math.max(0, needed - open.blocks.length));
    for (const block of added) {
      this.#tableUpdates.set(open.tableRow * maxBlocksPerSequence + open.blocks.length, block);
      open.blocks.push(block);
    }
    open.length += count;
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

  destroy(): void {
    for (const pool of this.pools) pool.destroy();
    this.blockTable.destroy();
  }

  #get(sequence: Sequence): OpenSequence {
    if (!this.#open.has(sequence as OpenSequence))
      throw new InvalidArgumentError('sequence', 'closed or foreign', 'an open sequence of this KV cache');
    return sequence as OpenSequence;
  }
}
