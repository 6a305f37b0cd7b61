import { InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import { type BlockCopy, BlockTables, type Sequence } from './block-tables.ts';
import { type BlockPool, nullBlock } from './blocks.ts';
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

export type { BlockCopy, Sequence } from './block-tables.ts';

/** Storage buffers that the attention kernels bind beside the pool. */
const otherBuffers = 7;

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
  /** Which blocks each sequence has: the part of the cache that needs no GPU. */
  readonly tables: BlockTables;
  /** Per layer, in one buffer or several: blocks as `KvLayout` says. */
  readonly pools: readonly (readonly GPUBuffer[])[];
  /** Blocks of each of a layer's buffers, the last one apart, which may have fewer. */
  readonly blocksPerBuffer: number;
  /** u32 [maxSequences][maxBlocksPerSequence]. */
  readonly blockTable: GPUBuffer;
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
    this.tables = new BlockTables(options);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.pools = Array.from({ length: options.numLayers }, (_, layer) =>
      Array.from({ length: buffers }, (_, buffer) => {
        const blocks = Math.min(this.blocksPerBuffer, numBlocks - buffer * this.blocksPerBuffer);
        return gpu.device.createBuffer({ label: `kv pool ${layer}`, size: blocks * blockBytes(options), usage });
      }),
    );
    const tableBytes = options.maxSequences * options.maxBlocksPerSequence * 4;
    this.blockTable = gpu.device.createBuffer({ label: 'block table', size: tableBytes, usage });
  }

  /** The free list. */
  get blocks(): BlockPool {
    return this.tables.blocks;
  }

  /** Open sequences. */
  get sequences(): ReadonlySet<Sequence> {
    return this.tables.sequences;
  }

  /** Opens an empty sequence. @throws {CapacityExceededError} when `maxSequences` are open. */
  open(): Sequence {
    return this.tables.open();
  }

  /**
   * Reserves slots for `count` more tokens. All or nothing.
   * @throws {BlocksExhaustedError} when the pool is empty. @throws {CapacityExceededError} when the block-table row is full.
   */
  extend(sequence: Sequence, count: number): void {
    this.tables.extend(sequence, count);
  }

  /**
   * Opens a sequence with the same tokens, which shares all blocks with the first one. Whichever is extended first within a shared block
   * gets a copy of it (copy-on-write), made on the GPU before the next append.
   * @throws {CapacityExceededError} when `maxSequences` are open.
   */
  fork(sequence: Sequence): Sequence {
    return this.tables.fork(sequence);
  }

  /**
   * Gives up the blocks that lie wholly before `firstKey`: a sliding window, with its kept first keys apart, never looks there again. The block
   * that the next token goes into stays.
   */
  release(sequence: Sequence, firstKey: number, keepFirst = 0): void {
    this.tables.release(sequence, firstKey, keepFirst);
  }

  /** Takes back the slots from `length` on: tokens that were computed past a stop. */
  truncate(sequence: Sequence, length: number): void {
    this.tables.truncate(sequence, length);
  }

  /** Closes a sequence and frees its blocks. */
  close(sequence: Sequence): void {
    this.tables.close(sequence);
  }

  /** Entries by which the block table changed since `takeTableUpdates` was last called. */
  get numTableUpdates(): number {
    return this.tables.numTableUpdates;
  }

  /** The (index, value) pairs of these entries, flat; each index comes once. */
  takeTableUpdates(): readonly number[] {
    return this.tables.takeTableUpdates();
  }

  /** Gives back what was taken and did not reach the GPU; entries that changed since stay as they are. */
  returnTableUpdates(updates: readonly number[]): void {
    this.tables.returnTableUpdates(updates);
  }

  /** Blocks to copy since `takeBlockCopies` was last called. */
  get numBlockCopies(): number {
    return this.tables.numBlockCopies;
  }

  takeBlockCopies(): readonly BlockCopy[] {
    return this.tables.takeBlockCopies();
  }

  /**
   * Reads the keys and values of a sequence back, as they are stored, after all that was submitted before. For `restore`, here or in another
   * cache of the same layout and layers. @throws {InvalidArgumentError} for a sequence that gave blocks up, or with copies still to be made.
   */
  async save(sequence: Sequence): Promise<ArrayBuffer> {
    this.tables.check(sequence);
    const { blocks, length } = sequence;
    if (blocks.includes(nullBlock))
      throw new InvalidArgumentError('sequence', 'without all its blocks', 'a sequence that gave no block up');
    if (this.tables.awaitsCopy(sequence))
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

  #place(buffers: readonly GPUBuffer[], block: number): { buffer: GPUBuffer; offset: number } {
    const buffer = buffers[Math.floor(block / this.blocksPerBuffer)];
    return { buffer, offset: (block % this.blocksPerBuffer) * blockBytes(this.options) };
  }

  destroy(): void {
    for (const pool of this.pools.flat()) pool.destroy();
    this.blockTable.destroy();
  }
}
