import { CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { BlockPool, nullBlock } from './blocks.ts';
import { blockBytes, blocksPerBuffer, checkLayout, checkPositive, type KvLayout, maxPoolBuffers } from './layout.ts';
import { readSnapshot, snapshotBytes, writeSnapshotHeader } from './snapshot.ts';

export interface KvCacheOptions extends KvLayout {
  readonly numLayers: number;
  /** Blocks per layer, the reserved block 0 included. */
  readonly numBlocks: number;
  /** Sequences that can be open at once. */
  readonly maxSequences: number;
  /** Longest sequence, in blocks: the length of a block-table row. */
  readonly maxBlocksPerSequence: number;
  /** Most blocks of one buffer; default: what the device lets bind. A layer's pool takes as many buffers as it needs. */
  readonly maxBlocksPerBuffer?: number;
}

/** Storage buffers that the attention kernels bind beside the pool. */
const otherBuffers = 7;

/** An open sequence. Owned by its `KvCache`; read it, and change it through the cache. */
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
  /** Per layer, in one buffer or several: blocks as `KvLayout` says. */
  readonly pools: readonly (readonly GPUBuffer[])[];
  /** Blocks of each of a layer's buffers, the last one apart, which may have fewer. */
  readonly blocksPerBuffer: number;
  /** u32 [maxSequences][maxBlocksPerSequence]. */
  readonly blockTable: GPUBuffer;
  readonly #open = new Set<OpenSequence>();
  readonly #freeRows: number[];
  /** Value by index: a scatter on the GPU must not meet one index twice. */
  readonly #tableUpdates = new Map<number, number>();
  readonly #copies: BlockCopy[] = [];
  readonly #gpu: Gpu;

  /** @throws {InvalidArgumentError} for a bad layout or count. @throws {LimitExceededError} when a layer's pool needs more buffers than can be bound. */
  constructor(gpu: Gpu, options: KvCacheOptions) {
    checkLayout(options);
    for (const name of ['numLayers', 'maxSequences', 'maxBlocksPerSequence'] as const) checkPositive(name, options[name]);
    const { numBlocks } = options;
    const { maxStorageBufferBindingSize, maxBufferSize, maxStorageBuffersPerShaderStage } = gpu.limits;
    const fitting = blocksPerBuffer(options, Math.min(maxStorageBufferBindingSize, maxBufferSize));
    this.blocksPerBuffer = Math.min(numBlocks, fitting, options.maxBlocksPerBuffer ?? numBlocks);
    checkPositive('maxBlocksPerBuffer', this.blocksPerBuffer);
    const buffers = Math.ceil(numBlocks / this.blocksPerBuffer);
    const granted = Math.min(maxPoolBuffers, maxStorageBuffersPerShaderStage - otherBuffers);
    if (buffers > granted) {
      const remedy = `Use at most ${granted * this.blocksPerBuffer} blocks of this size, or a smaller KV dtype.`;
      throw new LimitExceededError(
        'The KV cache of one layer',
        'maxStorageBuffersPerShaderStage',
        buffers + otherBuffers,
        granted + otherBuffers,
        remedy,
      );
    }
    this.#gpu = gpu;
    this.options = options;
    this.blocks = new BlockPool(numBlocks);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.pools = Array.from({ length: options.numLayers }, (_, layer) =>
      Array.from({ length: buffers }, (_, buffer) => {
        const blocks = Math.min(this.blocksPerBuffer, numBlocks - buffer * this.blocksPerBuffer);
        return gpu.device.createBuffer({ label: `kv pool ${layer}`, size: blocks * blockBytes(options), usage });
      }),
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
    // The block that the next token goes into may be shared with a fork: then this sequence gets a copy of its own.
    const last = Math.floor(open.length / blockSize);
    const shared = count > 0 && last < open.blocks.length && this.blocks.owners(open.blocks[last]) > 1;
    const added = this.blocks.allocate(Math.max(0, needed - open.blocks.length) + (shared ? 1 : 0));
    if (shared) {
      const own = added.pop() as number;
      this.#dropCopyTo(own);
      this.#copies.push([open.blocks[last], own]); // the copy takes over this sequence's hold on the source
      this.#setBlock(open, last, own);
    }
    for (const block of added) this.#setBlock(open, open.blocks.length, block);
    open.length += count;
  }

  /**
   * Opens a sequence with the same tokens, which shares all blocks with the first one. Whichever is extended first within a shared block
   * gets a copy of it (copy-on-write), made on the GPU before the next append.
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

  takeBlockCopies(): readonly BlockCopy[] {
    const copies = this.#copies.splice(0);
    for (const [source] of copies) this.blocks.release([source]);
    return copies;
  }

  /**
   * Reads the keys and values of a sequence back, as they are stored, after all that was submitted before. For `restore`, here or in another
   * cache of the same layout and layers. @throws {InvalidArgumentError} for a sequence that gave blocks up, or with copies still to be made.
   */
  async save(sequence: Sequence): Promise<ArrayBuffer> {
    const { blocks, length } = this.#get(sequence);
    if (blocks.includes(nullBlock))
      throw new InvalidArgumentError('sequence', 'without all its blocks', 'a sequence that gave no block up');
    if (this.#copies.some(([, destination]) => blocks.includes(destination)))
      throw new InvalidArgumentError('sequence', 'forked and not yet appended to', 'a sequence whose last step was submitted');
    const { device } = this.#gpu;
    const bytes = blockBytes(this.options);
    const header = writeSnapshotHeader(this.options, length);
    const size = snapshotBytes(this.options, blocks.length) - header.byteLength;
    const staging = device.createBuffer({
      label: 'kv snapshot',
      size: Math.max(size, 4),
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    try {
      const encoder = device.createCommandEncoder();
      let at = 0;
      for (const buffers of this.pools) {
        for (const block of blocks) {
          const { buffer, offset } = this.#place(buffers, block);
          encoder.copyBufferToBuffer(buffer, offset, staging, at, bytes);
          at += bytes;
        }
      }
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      const snapshot = new Uint8Array(header.byteLength + size);
      snapshot.set(new Uint8Array(header));
      snapshot.set(new Uint8Array(staging.getMappedRange(0, Math.max(size, 4))).subarray(0, size), header.byteLength);
      return snapshot.buffer;
    } finally {
      staging.destroy();
    }
  }

  /**
   * Opens a sequence with what `save` returned.
   * @throws {InvalidArgumentError} for something else, or of another layout. @throws {BlocksExhaustedError} {CapacityExceededError}
   */
  restore(snapshot: ArrayBuffer): Sequence {
    const { length, data } = readSnapshot(this.options, snapshot);
    const sequence = this.open();
    try {
      this.extend(sequence, length);
    } catch (error) {
      this.close(sequence);
      throw error;
    }
    const bytes = blockBytes(this.options);
    let at = 0;
    for (const buffers of this.pools) {
      for (const block of sequence.blocks) {
        const { buffer, offset } = this.#place(buffers, block);
        this.#gpu.device.queue.writeBuffer(buffer, offset, data, at, bytes);
        at += bytes;
      }
    }
    return sequence;
  }

  /** A block that was freed and given out again before its copy was made must not be the destination of two. */
  #dropCopyTo(block: number): void {
    const stale = this.#copies.findIndex(([, destination]) => destination === block);
    if (stale >= 0) this.blocks.release([this.#copies.splice(stale, 1)[0][0]]);
  }

  #place(buffers: readonly GPUBuffer[], block: number): { buffer: GPUBuffer; offset: number } {
    const buffer = buffers[Math.floor(block / this.blocksPerBuffer)];
    return { buffer, offset: (block % this.blocksPerBuffer) * blockBytes(this.options) };
  }

  #setBlock(open: OpenSequence, index: number, block: number): void {
    this.#tableUpdates.set(open.tableRow * this.options.maxBlocksPerSequence + index, block);
    open.blocks[index] = block;
  }

  destroy(): void {
    for (const pool of this.pools.flat()) pool.destroy();
    this.blockTable.destroy();
  }

  #get(sequence: Sequence): OpenSequence {
    if (!this.#open.has(sequence as OpenSequence))
      throw new InvalidArgumentError('sequence', 'closed or foreign', 'an open sequence of this KV cache');
    return sequence as OpenSequence;
  }
}
