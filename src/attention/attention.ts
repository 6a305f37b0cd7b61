import { CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentsOf, BufferArgument } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import { appendKernel, decodeKernel, mergeKernel, partialWords, prefillKernel, updateKernel } from './kernels.ts';
import type { KvCache, Sequence } from './kv-cache.ts';
import { checkPositive, kvDtypeCodes } from './layout.ts';
import { chooseSegmentKeys, maxPartials, maxPlanWords, type PlanCounts, type PlannedSequence, PlanWriter, packBatch } from './plan.ts';
import { chooseDecodeHeadTile, choosePrefillTile, decodeKeyTile, type PrefillTile } from './tuning.ts';

export interface PagedAttentionOptions {
  /** Query heads; a multiple of the cache's KV heads. */
  readonly numHeads: number;
  /** Most new tokens of one step, over all sequences. */
  readonly maxTokensPerStep: number;
  /** Keys from which on a decode row is split among workgroups; default 256. */
  readonly minSegmentKeys?: number;
  /** Workgroups that a decode launch aims at when it splits; default 512. */
  readonly targetWorkgroups?: number;
  /** Keys that a decode workgroup takes at a time, and its invocations: a power of two from 4 to 64; default: what suits the adapter. */
  readonly decodeKeyTile?: number;
  /** Words that the caller adds to the plan (see `PagedAttention.plan`); default 0. */
  readonly extraPlanWords?: number;
}

/** One sequence of a batch, with how many of its last tokens are new in this step. */
export interface BatchEntry {
  readonly sequence: Sequence;
  readonly queryLen: number;
}

/** Buffers and scalars of one layer's attention. All activations are f32; strides and offsets count f32 values. */
export interface LayerOptions {
  /** [maxTokensPerStep, numHeads, headDim], rows `queryStride` apart (default: dense), from `queryOffset` on. */
  readonly query: BufferArgument;
  readonly queryStride?: number;
  readonly queryOffset?: number;
  /** [maxTokensPerStep, numKvHeads, headDim], rows `rowStride` apart (default: dense). May be the buffer of `query`: a packed QKV. */
  readonly key: BufferArgument;
  readonly value: BufferArgument;
  readonly rowStride?: number;
  readonly keyOffset?: number;
  readonly valueOffset?: number;
  /** [maxTokensPerStep, numHeads, headDim], dense. */
  readonly output: BufferArgument;
  /** Default 1 / sqrt(headDim). */
  readonly scale?: number;
  /** Turns queries and keys to their positions on the way. Table f32 [positions][half][cos, sin]. */
  readonly rotary?: { readonly table: GPUBuffer; readonly half: number };
}

/** One layer's launches, to record after `plan`. */
export interface LayerAttention {
  /** Scatters the step's new keys and values into their slots: one launch. */
  append(pass: GPUComputePassEncoder): void;
  /** Attends: a launch for single-token rows, one for longer ones, one to merge split rows; each only where the step has such. */
  attend(pass: GPUComputePassEncoder): void;
}

/**
 * Attention over a paged KV cache: plan once per step, run once per layer.
 *
 * `plan(batch)` packs all that a step needs into one buffer; then, in one pass, `updateTables(pass)` and for each layer `append` and
 * `attend`. All checks are made in `plan`; recording makes no object and looks up no string. Owns its plan and workspace buffers.
 */
export class PagedAttention {
  /** The step's metadata; bind it to kernels of your own to read positions and counts. */
  readonly planBuffer: GPUBuffer;
  readonly writer: PlanWriter;
  readonly #cache: LaunchCache;
  readonly #kv: KvCache;
  readonly #options: PagedAttentionOptions;
  readonly #prefillTile: PrefillTile;
  readonly #decodeKeyTile: number;
  readonly #decodeHeadTile: number;
  readonly #targetWorkgroups: number;
  readonly #minSegmentKeys: number;
  readonly #partials: GPUBuffer;
  readonly #noRotary: GPUBuffer;
  #update: LaunchSite<typeof updateKernel.arguments> | undefined;
  #counts: PlanCounts = { numTokens: 0, numDecodeItems: 0, numPrefillItems: 0, numMergeRows: 0, numPartials: 0 };
  #numTableUpdates = 0;

  /**
   * @throws {InvalidArgumentError} when numHeads is not a multiple of the cache's KV heads.
   * @throws {LimitExceededError} when no kernel variant fits into the device's workgroup memory.
   */
  constructor(cache: LaunchCache, kv: KvCache, options: PagedAttentionOptions) {
    const { numKvHeads, headDim, maxSequences, maxBlocksPerSequence, blockSize } = kv.options;
    const groupSize = options.numHeads / numKvHeads;
    if (!Number.isInteger(groupSize) || groupSize < 1)
      throw new InvalidArgumentError('numHeads', options.numHeads, `a positive multiple of numKvHeads (${numKvHeads})`);
    checkPositive('maxTokensPerStep', options.maxTokensPerStep);
    checkPositive('minSegmentKeys', options.minSegmentKeys ?? 1);
    checkPositive('targetWorkgroups', options.targetWorkgroups ?? 1);
    const keyTile = options.decodeKeyTile ?? decodeKeyTile(cache.gpu.adapter);
    if (![4, 8, 16, 32, 64].includes(keyTile)) throw new InvalidArgumentError('decodeKeyTile', keyTile, 'a power of two from 4 to 64');
    const memory = cache.gpu.limits.maxComputeWorkgroupStorageSize;
    const prefillTile = choosePrefillTile(headDim, groupSize, memory);
    const decodeHeadTile = chooseDecodeHeadTile(headDim, groupSize, memory, keyTile);
    if (!prefillTile || !decodeHeadTile) {
      throw new LimitExceededError(
        `Attention with headDim ${headDim}`,
        'maxComputeWorkgroupStorageSize',
        headDim * 64,
        memory,
        'Open the device with larger limits.',
      );
    }
    this.#cache = cache;
    this.#kv = kv;
    this.#options = options;
    this.#prefillTile = prefillTile;
    this.#decodeKeyTile = keyTile;
    this.#decodeHeadTile = decodeHeadTile;
    this.#targetWorkgroups = options.targetWorkgroups ?? 512;
    this.#minSegmentKeys = options.minSegmentKeys ?? 256;

    const limits = {
      maxTokensPerStep: options.maxTokensPerStep,
      maxSequences,
      maxBlocksPerSequence,
      blockSize,
      minSegmentKeys: this.#minSegmentKeys,
      targetWorkgroups: this.#targetWorkgroups,
    };
    const { device } = cache.gpu;
    this.#partials = device.createBuffer({
      label: 'partial states',
      size: maxPartials(limits) * options.numHeads * partialWords(headDim) * 4,
      usage: GPUBufferUsage.STORAGE,
    });
    this.#noRotary = device.createBuffer({ label: 'no rotary', size: 16, usage: GPUBufferUsage.STORAGE });
    const words = maxPlanWords(limits) + (options.extraPlanWords ?? 0);
    this.writer = new PlanWriter(words);
    this.planBuffer = device.createBuffer({ label: 'plan', size: words * 4, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
  }

  /** Makes the constructor's launches ready; call it once, before the first `updateTables`. */
  async prepare(): Promise<void> {
    this.#update = await this.#cache.prepare(updateKernel, { plan: this.planBuffer, blockTable: this.#kv.blockTable, numTableUpdates: 0 });
  }

  /** Compiles and binds one layer. Layers share their pipelines; prepare them concurrently. */
  async prepareLayer(layer: number, options: LayerOptions): Promise<LayerAttention> {
    const { numKvHeads, headDim, blockSize, dtype, maxBlocksPerSequence } = this.#kv.options;
    const { numHeads } = this.#options;
    const groupSize = numHeads / numKvHeads;
    const pool = this.#kv.pools[layer];
    const plan = this.planBuffer;
    const rotary = options.rotary?.table ?? this.#noRotary;
    const rotaryHalf = options.rotary?.half ?? 0;
    const layout = { blockSize, numKvHeads, headDim, kvDtype: kvDtypeCodes[dtype] };
    const keyValueStride = options.rowStride ?? numKvHeads * headDim;
    const appendArgs: ArgumentsOf<typeof appendKernel.arguments> = {
      ...layout,
      key: options.key,
      value: options.value,
      plan,
      rotary,
      pool,
      rowStride: keyValueStride,
      keyOffset: options.keyOffset ?? 0,
      valueOffset: options.valueOffset ?? 0,
      rotaryHalf,
      numTokens: 0,
    };
    const attendArgs = {
      ...layout,
      numHeads,
      groupSize,
      query: options.query,
      pool,
      blockTable: this.#kv.blockTable,
      plan,
      rotary,
      output: options.output,
      scale: options.scale ?? 1 / Math.sqrt(headDim),
      queryStride: options.queryStride ?? numHeads * headDim,
      queryOffset: options.queryOffset ?? 0,
      rotaryHalf,
      tableStride: maxBlocksPerSequence,
      numItems: 0,
    };
    const decodeArgs: ArgumentsOf<typeof decodeKernel.arguments> = {
      ...attendArgs,
      headTile: this.#decodeHeadTile,
      keyTile: this.#decodeKeyTile,
      partials: this.#partials,
    };
    const { rowTile, keyTile, headTile } = this.#prefillTile;
    const prefillArgs: ArgumentsOf<typeof prefillKernel.arguments> = { ...attendArgs, headTile, rowTile, keyTile };
    const mergeArgs: ArgumentsOf<typeof mergeKernel.arguments> = {
      headDim,
      numHeads,
      partials: this.#partials,
      plan,
      output: options.output,
      numRows: 0,
    };
    const [append, decode, prefill, merge] = await Promise.all([
      this.#cache.prepare(appendKernel, appendArgs),
      this.#cache.prepare(decodeKernel, decodeArgs),
      this.#cache.prepare(prefillKernel, prefillArgs),
      this.#cache.prepare(mergeKernel, mergeArgs),
    ]);
    return {
      append: (pass) => {
        appendArgs.numTokens = this.#counts.numTokens;
        append.record(pass, appendArgs);
      },
      attend: (pass) => {
        decodeArgs.numItems = this.#counts.numDecodeItems;
        prefillArgs.numItems = this.#counts.numPrefillItems;
        mergeArgs.numRows = this.#counts.numMergeRows;
        decode.record(pass, decodeArgs);
        prefill.record(pass, prefillArgs);
        merge.record(pass, mergeArgs);
      },
    };
  }

  /**
   * Packs a batch whose slots are already reserved (`KvCache.extend`). Add sections of your own through `writer`, then call `write`.
   * @throws {CapacityExceededError} for more tokens than `maxTokensPerStep`; nothing changed then.
   * @throws {InvalidArgumentError} for a query longer than its sequence.
   */
  plan(batch: readonly BatchEntry[]): void {
    const { maxTokensPerStep } = this.#options;
    let numTokens = 0;
    for (const { sequence, queryLen } of batch) {
      if (!Number.isInteger(queryLen) || queryLen < 0 || queryLen > sequence.length)
        throw new InvalidArgumentError('queryLen', queryLen, `an integer from 0 to the sequence's ${sequence.length}`);
      numTokens += queryLen;
    }
    if (numTokens > maxTokensPerStep)
      throw new CapacityExceededError('tokens in one step', numTokens, maxTokensPerStep, 'maxTokensPerStep');
    const planned: PlannedSequence[] = batch.map(({ sequence, queryLen }) => ({
      tableRow: sequence.tableRow,
      blocks: sequence.blocks,
      seqLen: sequence.length,
      queryLen,
    }));
    const { numKvHeads, blockSize } = this.#kv.options;
    const workgroupsPerItem = numKvHeads * Math.ceil(this.#options.numHeads / numKvHeads / this.#decodeHeadTile);
    const segmentKeys = chooseSegmentKeys(planned, workgroupsPerItem, this.#targetWorkgroups, this.#minSegmentKeys);
    this.writer.begin();
    this.#counts = packBatch(this.writer, planned, { blockSize, prefillTokens: this.#prefillTile.tokens, segmentKeys });
  }

  /**
   * Sends the plan, with the block table's changes since the last one, to the GPU: one write. It takes effect before the next submit.
   * @throws {CapacityExceededError} when sections of the caller's fill the plan; nothing is sent then, and no change is forgotten.
   */
  write(): void {
    this.#numTableUpdates = this.#kv.numTableUpdates;
    const updates = this.writer.section('TABLE_UPDATES', 2 * this.#numTableUpdates).u32;
    updates.set(this.#kv.takeTableUpdates());
    this.writer.count('NUM_TABLE_UPDATES', this.#numTableUpdates);
    const { words } = this.writer;
    this.#cache.gpu.device.queue.writeBuffer(this.planBuffer, 0, words, 0, words.length);
  }

  /** Brings the block table on the GPU up to date: one launch, in steps that added blocks. Record it before the first layer. */
  updateTables(pass: GPUComputePassEncoder): void {
    this.#update?.record(pass, { plan: this.planBuffer, blockTable: this.#kv.blockTable, numTableUpdates: this.#numTableUpdates });
  }

  destroy(): void {
    this.planBuffer.destroy();
    this.#partials.destroy();
    this.#noRotary.destroy();
  }
}
