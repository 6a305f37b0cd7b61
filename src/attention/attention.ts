import { CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import { adapterDefaults, mergeInvocations } from './adapters.ts';
import { decodeBy, prefillBy } from './attend.ts';
import { attendArgumentNames } from './attend-kernels.ts';
import { findCascades } from './cascade.ts';
import { checkCascades, checkEntry, checkScalars } from './checks.ts';
import { partialWords } from './declarations.ts';
import { type KernelParts, mergeKernel, type PoolKernels, poolKernelsFor, updateKernel } from './kernels.ts';
import type { KvCache } from './kv-cache.ts';
import { blockBytes, checkPositive, hasTokenScales, kvFormats, loadWords } from './layout.ts';
import { pointIntoModification, prepareModifications } from './modifications.ts';
import type { BatchEntry, LayerAttention, LayerOptions, PagedAttentionOptions } from './options.ts';
import {
  type Cascade,
  chooseLargeSegmentKeys,
  chooseSegmentKeys,
  type LargeSplit,
  maxPartials,
  maxPlanWords,
  type PlanCounts,
  type PlannedSequence,
  PlanWriter,
  packBatch,
  singleTokens,
} from './plan.ts';
import { isMatrixTile } from './tiles/matrix.ts';
import { chooseKernels, type KernelChoice, nearestSplit, type TunedSplit, workgroupsPerItem } from './tuned.ts';

/** Longest draft whose rows are split. A row's sum depends on where it is cut, and that on the batch. */
const maxSplitQuery = ({ deterministic = false }: PagedAttentionOptions): number => (deterministic ? 0 : 16);

/** More blocks than any buffer holds: pools of one buffer share their pipelines whatever their size. */
const allBlocks = 0x7fffffff;

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
  /**
   * Where the log-sum-exp of each row is after a step: f32 [maxTokensPerStep][numHeads], -3e38 for a row that saw no key; of the layer that
   * attended last. Undefined unless asked for. To copy from, or to bind to a kernel of your own.
   */
  readonly logSumExp: { readonly buffer: GPUBuffer; readonly offset: number; readonly size: number } | undefined;
  /** Where in `partials`, in words; 0: nowhere. */
  readonly #logSumExpAt: number;
  readonly #cache: LaunchCache;
  readonly #kv: KvCache;
  readonly #options: PagedAttentionOptions;
  readonly #decode: ReturnType<typeof decodeBy>;
  readonly #large: (LargeSplit & { readonly by: ReturnType<typeof decodeBy>; readonly workgroupsPerItem: number }) | undefined;
  readonly #prefill: ReturnType<typeof prefillBy>;
  readonly #parts: KernelParts;
  readonly #mergeInvocations: number;
  readonly #only: KernelChoice['only'];
  /** At least one. */
  readonly #splits: readonly TunedSplit[];
  readonly #workgroupsPerItem: number;
  readonly #maxPartials: number;
  readonly #partials: GPUBuffer;
  readonly #noRotary: GPUBuffer;
  #update: LaunchSite<typeof updateKernel.arguments> | undefined;
  readonly #layerData: GPUBuffer[] = [];
  #numCopies = 0;
  #counts: PlanCounts = { numTokens: 0, numDecodeItems: 0, numPrefillItems: 0, numMergeRows: 0, numPartials: 0 };
  /** Single tokens of the last plan go to the kernel for large batches. */
  #isLarge = false;
  #numTableUpdates = 0;
  /** Of the last plan written: entries of the block table that `updateTables` has still to record. */
  #unrecorded: readonly number[] = [];

  /**
   * @param choice the kernel variants to run, unchecked: for measuring them. Default: what options, a tuning and the adapter say.
   * @throws {InvalidArgumentError} when numHeads is not a multiple of the cache's KV heads.
   * @throws {LimitExceededError} when no kernel variant fits into the device's workgroup memory.
   */
  constructor(cache: LaunchCache, kv: KvCache, options: PagedAttentionOptions, choice?: KernelChoice) {
    const { numKvHeads, headDim, maxSequences, maxBlocksPerSequence, blockSize } = kv.options;
    const groupSize = options.numHeads / numKvHeads;
    if (!Number.isInteger(groupSize) || groupSize < 1)
      throw new InvalidArgumentError('numHeads', options.numHeads, `a positive multiple of numKvHeads (${numKvHeads})`);
    checkPositive('maxTokensPerStep', options.maxTokensPerStep);
    checkPositive('minSegmentKeys', options.minSegmentKeys ?? 1);
    checkPositive('targetWorkgroups', options.targetWorkgroups ?? 1);
    const invocations = options.maxInvocations ?? 1;
    if (!Number.isInteger(invocations) || invocations < 1 || invocations > 256)
      throw new InvalidArgumentError('maxInvocations', invocations, 'an integer from 1 to 256');
    const shape = { ...kv.options, numHeads: options.numHeads };
    const kernels = choice ?? chooseKernels(cache.gpu, shape, options);
    this.#cache = cache;
    this.#kv = kv;
    this.#options = options;
    this.#decode = decodeBy(cache, kernels);
    this.#large = kernels.large && {
      ...kernels.large.split,
      by: decodeBy(cache, { ...kernels, decode: kernels.large.tile }),
      workgroupsPerItem: workgroupsPerItem(shape, kernels.large.tile),
    };
    this.#prefill = prefillBy(cache, kernels);
    this.#parts = kernels.parts ?? {};
    this.#only = kernels.only;
    this.#workgroupsPerItem = workgroupsPerItem(shape, kernels.decode);
    this.#mergeInvocations = mergeInvocations(options.maxInvocations ?? adapterDefaults(cache.gpu.adapter).maxInvocations);

    const granted = Math.min(cache.gpu.limits.maxStorageBufferBindingSize, cache.gpu.limits.maxBufferSize);
    const large = this.#large ? [this.#large] : [];
    const limitsOf = (splits: readonly TunedSplit[]) => ({
      maxTokensPerStep: options.maxTokensPerStep,
      maxSequences,
      maxBlocksPerSequence,
      blockSize,
      minSegmentKeys: Math.min(...[...splits, ...large].map(({ minSegmentKeys }) => minSegmentKeys)),
      leastWorkgroups: Math.max(...splits.map(({ leastWorkgroups = 0 }) => leastWorkgroups)),
      targetWorkgroups: Math.max(
        kernels.split.targetWorkgroups,
        ...large.map((one) => Math.ceil(one.targetWorkgroups / one.workgroupsPerItem)),
      ),
      maxSplitQuery: maxSplitQuery(options),
    });
    // In whole multiples of the alignment that a binding's offset needs, 256 bytes.
    const stateWordsOf = (partials: number) => Math.ceil((partials * options.numHeads * partialWords(headDim)) / 64) * 64;
    const lseWords = options.logSumExp ? options.maxTokensPerStep * options.numHeads : 0;
    const fits = 4 * (stateWordsOf(maxPartials(limitsOf(kernels.splits))) + lseWords) <= granted;
    this.#splits = fits ? kernels.splits : [kernels.split];
    if (!fits && kernels.splits[0] !== kernels.split)
      options.onTuningProblem?.('the tuned splits need too large a buffer; they are ignored');
    const limits = limitsOf(this.#splits);
    const { device } = cache.gpu;
    this.#maxPartials = maxPartials(limits);
    const stateWords = stateWordsOf(this.#maxPartials);
    this.#logSumExpAt = options.logSumExp ? stateWords : 0;
    const size = 4 * (stateWords + lseWords);
    if (size > granted) {
      const remedy = 'Raise minSegmentKeys, or lower maxSequences or targetWorkgroups.';
      throw new LimitExceededError('The buffer of partial states', 'maxStorageBufferBindingSize', size, granted, remedy);
    }
    this.#partials = device.createBuffer({ label: 'partial states', size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
    this.logSumExp = options.logSumExp ? { buffer: this.#partials, offset: 4 * stateWords, size: size - 4 * stateWords } : undefined;
    this.#noRotary = device.createBuffer({ label: 'no rotary', size: 16, usage: GPUBufferUsage.STORAGE });
    const words = maxPlanWords(limits) + (options.extraPlanWords ?? 0);
    this.writer = new PlanWriter(words);
    this.planBuffer = device.createBuffer({ label: 'plan', size: words * 4, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
  }

  /** Makes the constructor's launches ready; call it once, before the first `updateTables`. */
  async prepare(): Promise<void> {
    this.#update = await this.#cache.prepare(updateKernel, { plan: this.planBuffer, blockTable: this.#kv.blockTable, numTableUpdates: 0 });
  }

  /**
   * Compiles and binds one layer. Layers share their pipelines; prepare them concurrently.
   * @throws {InvalidArgumentError} for scalars, slopes, sinks or modifications that make no sense.
   * @throws {AttentionModificationError} for a modification that does not compile, with the line in the caller's text.
   */
  async prepareLayer(layer: number, options: LayerOptions): Promise<LayerAttention> {
    const { modifications = {} } = options;
    const prepared = prepareModifications(modifications, attendArgumentNames);
    const pools = this.#kv.pools[layer];
    if (!pools) throw new InvalidArgumentError('layer', layer, `an integer from 0 to ${this.#kv.pools.length - 1}`);
    const kernels = poolKernelsFor(pools.length, prepared, this.#parts);
    try {
      return await this.#prepareLayer(kernels, pools, options);
    } catch (error) {
      throw pointIntoModification(error, modifications);
    }
  }

  async #prepareLayer(kernels: PoolKernels, pools: readonly GPUBuffer[], options: LayerOptions): Promise<LayerAttention> {
    const { numKvHeads, headDim, blockSize, dtype } = this.#kv.options;
    const { numHeads } = this.#options;
    const plan = this.planBuffer;
    const rotary = options.rotary?.table ?? this.#noRotary;
    const layerValues = { rotaryHalf: options.rotary?.half ?? 0, keyScale: options.keyScale ?? 1, valueScale: options.valueScale ?? 1 };
    const layout = {
      blockSize,
      numKvHeads,
      headDim,
      kvDtype: kvFormats[dtype].code,
      tokenScales: String(hasTokenScales(this.#kv.options)),
      loadWords: loadWords(this.#kv.options),
      blocksPerBuffer: pools.length > 1 ? this.#kv.blocksPerBuffer : allBlocks,
    };
    const poolArguments = Object.fromEntries(pools.map((buffer, i) => [`pool${i}`, buffer])) as { pool0: GPUBuffer };
    const scalars = checkScalars(options, options.modifications?.scalars ?? {}, true);
    const { layerData, data } = this.#makeLayerData(options);
    const keyValueStride = options.rowStride ?? numKvHeads * headDim;
    const appendArgs: ArgumentsOf<PoolKernels['append']['arguments']> = {
      ...layout,
      key: options.key,
      value: options.value,
      plan,
      rotary,
      ...poolArguments,
      rowStride: keyValueStride,
      keyOffset: options.keyOffset ?? 0,
      valueOffset: options.valueOffset ?? 0,
      ...layerValues,
      numTokens: 0,
    };
    const copyArgs: ArgumentsOf<PoolKernels['copy']['arguments']> = {
      ...layout,
      plan,
      ...poolArguments,
      blockWords: blockBytes(this.#kv.options) / 4,
      numCopies: 0,
    };
    const attendArgs = {
      ...layout,
      numHeads,
      groupSize: numHeads / numKvHeads,
      query: options.query,
      blockTable: this.#kv.blockTable,
      plan,
      rotary,
      layerData,
      ...poolArguments,
      output: options.output,
      partials: this.#partials,
      scale: 1 / Math.sqrt(headDim),
      softcap: 0,
      window: 0,
      keepFirst: 0,
      queryStride: options.queryStride ?? numHeads * headDim,
      queryOffset: options.queryOffset ?? 0,
      ...layerValues,
      tableStride: this.#kv.options.maxBlocksPerSequence,
      alibi: options.alibi ? (options.alibi.kind === 'sqrt' ? 2 : 1) : 0,
      sinks: options.sinks ? 1 : 0,
      logSumExp: this.#logSumExpAt,
      ...scalars,
      numItems: 0,
    };
    const mergeArgs: ArgumentsOf<typeof mergeKernel.arguments> = {
      headDim,
      numHeads,
      invocations: this.#mergeInvocations,
      plan,
      partials: this.#partials,
      output: options.output,
      logSumExp: this.#logSumExpAt,
      numRows: 0,
    };
    const only = this.#only;
    const [append, copy, decode, large, prefill, merge] = await Promise.all([
      only ? undefined : this.#cache.prepare(kernels.append, appendArgs),
      only ? undefined : this.#cache.prepare(kernels.copy, copyArgs),
      only === 'prefill' ? undefined : this.#decode.prepare(kernels, attendArgs),
      only ? undefined : this.#large?.by.prepare(kernels, attendArgs),
      only === 'decode' ? undefined : this.#prefill.prepare(kernels, attendArgs),
      this.#cache.prepare(mergeKernel, mergeArgs),
    ]);
    return {
      append: (pass) => {
        copyArgs.numCopies = this.#numCopies;
        appendArgs.numTokens = this.#counts.numTokens;
        copy?.record(pass, copyArgs);
        append?.record(pass, appendArgs);
      },
      attend: (pass) => {
        mergeArgs.numRows = this.#counts.numMergeRows;
        const { numDecodeItems } = this.#counts;
        decode?.record(pass, this.#isLarge ? 0 : numDecodeItems);
        large?.record(pass, this.#isLarge ? numDecodeItems : 0);
        prefill?.record(pass, this.#counts.numPrefillItems);
        merge.record(pass, mergeArgs);
      },
      set: (values) => {
        const checked = checkScalars(values, options.modifications?.scalars ?? {}, false);
        for (const launch of [decode, large, prefill]) launch?.set(checked);
      },
      writeData: (values, first = 0) => {
        if (!Number.isInteger(first) || first < 0 || first + values.length > data.length)
          throw new InvalidArgumentError(
            'data',
            `${values.length} values from ${first} on`,
            `within the ${data.length} values of the layer`,
          );
        const from = 4 * (data.first + first);
        if (values.length > 0) this.#cache.gpu.device.queue.writeBuffer(layerData, from, Float32Array.from(values));
      },
    };
  }

  /** The buffer that shaders/attention/inputs.wgsl calls `layerData`, and where in it the data begin. */
  #makeLayerData(options: LayerOptions): { layerData: GPUBuffer; data: { first: number; length: number } } {
    const { alibi, sinks, data = [] } = options;
    const { numHeads } = this.#options;
    const { dtype, scales } = this.#kv.options;
    for (const [name, scale] of [
      ['keyScale', options.keyScale],
      ['valueScale', options.valueScale],
    ] as const) {
      if (scale === undefined) continue;
      if (!(scale > 0 && Number.isFinite(scale))) throw new InvalidArgumentError(name, scale, 'a positive number');
      if (scales !== 'tensor')
        throw new InvalidArgumentError(name, scale, `left out: this cache's keys and values (${dtype}) have no scale of the caller's`);
    }
    const first = 2 * numHeads;
    const values = new Float32Array(first + data.length);
    const perHead = (argument: string, given: ArrayLike<number> | undefined, at: number) => {
      if (!given) return;
      if (given.length !== numHeads || !Array.from(given).every(Number.isFinite))
        throw new InvalidArgumentError(argument, `[${Array.from(given)}]`, `${numHeads} finite numbers, one for each head`);
      values.set(given, at);
    };
    perHead('alibi.slopes', alibi?.slopes, 0);
    perHead('sinks', sinks, numHeads);
    values.set(data, first);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
    const layerData = this.#cache.gpu.device.createBuffer({ label: 'layer data', size: values.byteLength, usage });
    this.#cache.gpu.device.queue.writeBuffer(layerData, 0, values);
    this.#layerData.push(layerData);
    return { layerData, data: { first, length: data.length } };
  }

  /**
   * Packs a batch whose slots are already reserved (`KvCache.extend`). Add sections of your own through `writer`, then call `write`.
   * @param cascades runs of neighbours whose first keys are in the same blocks, to be read once for all; default: as the option `cascade` says.
   * @throws {CapacityExceededError} for more tokens than `maxTokensPerStep`, or biases that do not fit; nothing is sent then.
   * @throws {InvalidArgumentError} for a query longer than its sequence, or positions, ranges, biases or cascades that do not fit it.
   */
  plan(batch: readonly BatchEntry[], cascades?: readonly Cascade[]): void {
    const { maxTokensPerStep, deterministic = false, filterByQueryLen = true, cascade = 'auto' } = this.#options;
    let numTokens = 0;
    for (const entry of batch) {
      checkEntry(entry, this.#kv.options);
      numTokens += entry.queryLen;
    }
    if (numTokens > maxTokensPerStep)
      throw new CapacityExceededError('tokens in one step', numTokens, maxTokensPerStep, 'maxTokensPerStep');
    const planned: PlannedSequence[] = batch.map(({ sequence, ...entry }) => ({
      ...entry,
      tableRow: sequence.tableRow,
      blocks: sequence.blocks,
      seqLen: sequence.length,
    }));
    const { blockSize } = this.#kv.options;
    if (cascades) checkCascades(cascades, planned, blockSize);
    this.writer.begin();
    this.#counts = packBatch(this.writer, planned, {
      blockSize,
      prefillTokens: this.#prefill.tile.tokens,
      segmentKeys: this.#segmentKeys(planned),
      maxPartials: this.#maxPartials,
      maxSplitQuery: maxSplitQuery(this.#options),
      filterByQueryLen,
      cascades: cascades ?? (cascade === 'off' || deterministic ? [] : findCascades(planned, blockSize)),
    });
  }

  /** Chooses the kernel of single tokens. @returns keys of one of its work items, as the nearest split says */
  #segmentKeys(planned: readonly PlannedSequence[]): number {
    const { rows, keys } = singleTokens(planned);
    const split = nearestSplit(this.#splits, rows, keys / Math.max(1, rows));
    const segmentKeys = chooseSegmentKeys(planned, this.#workgroupsPerItem, split);
    const large = this.#large && isMatrixTile(this.#large.by.tile) ? this.#large : undefined;
    const largeKeys = large && chooseLargeSegmentKeys(planned, large.workgroupsPerItem, segmentKeys, large);
    this.#isLarge = largeKeys !== undefined;
    return largeKeys ?? segmentKeys;
  }

  /**
   * Sends the plan, with the block table's changes since the last one that `updateTables` recorded, to the GPU: one write. It takes effect before
   * the next submit. Record each plan: copies of forked blocks are in one plan alone.
   * @throws {CapacityExceededError} when sections of the caller's fill the plan; nothing is sent then, and no change is forgotten.
   */
  write(): void {
    this.#kv.returnTableUpdates(this.#unrecorded);
    this.#unrecorded = [];
    this.#numTableUpdates = this.#kv.numTableUpdates;
    this.#numCopies = this.#kv.numBlockCopies;
    // Both have room before either is taken.
    const copies = this.writer.section('BLOCK_COPIES', 2 * this.#numCopies).u32;
    const updates = this.writer.section('TABLE_UPDATES', 2 * this.#numTableUpdates).u32;
    copies.set(this.#kv.takeBlockCopies().flat());
    this.#unrecorded = this.#kv.takeTableUpdates();
    updates.set(this.#unrecorded);
    this.writer.count('NUM_COPIES', this.#numCopies);
    this.writer.count('NUM_TABLE_UPDATES', this.#numTableUpdates);
    const { words } = this.writer;
    this.#cache.gpu.device.queue.writeBuffer(this.planBuffer, 0, words, 0, words.length);
  }

  /** Brings the block table on the GPU up to date: one launch, in steps that added blocks. Record it before the first layer. */
  updateTables(pass: GPUComputePassEncoder): void {
    this.#unrecorded = [];
    this.#update?.record(pass, { plan: this.planBuffer, blockTable: this.#kv.blockTable, numTableUpdates: this.#numTableUpdates });
  }

  destroy(): void {
    this.planBuffer.destroy();
    this.#partials.destroy();
    this.#noRotary.destroy();
    for (const buffer of this.#layerData) buffer.destroy();
  }
}
