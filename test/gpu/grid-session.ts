/** Runs one case of the grid: appends its context, attends to its batch, and reads back all that may have been written. */
import { nullBlock } from '../../src/attention/blocks.ts';
import { blocksPerBuffer } from '../../src/attention/layout.ts';
import { chooseKernels } from '../../src/attention/tuned.ts';
import {
  CapacityExceededError,
  KvCache,
  type LaunchCache,
  type LayerAttention,
  PagedAttention,
  type PagedAttentionOptions,
  type Sequence,
} from '../../src/index.ts';
import { emptyBuffer, expect, expectThrows, type Random, type SpecContext, uploadBuffer } from '../harness/harness.ts';
import { type GridCase, headsOf, longestOf, segmentKeysOf, storages } from './grid.ts';
import { type CaseChange, type CaseInputs, modifications } from './grid-inputs.ts';
import { GridOperands, type TokenPlace } from './grid-operands.ts';
import { poison, sharedCache, shuffleBlocks } from './paged.ts';
import { recordCount, recordPoison } from './poison.ts';

/** What `output` and `logSumExp` hold of a batch. */
export interface Attended {
  /** [tokens][numHeads][headDim], and what lies behind it. */
  readonly output: Float32Array;
  /** [tokens][numHeads] */
  readonly logSumExp: Float32Array | undefined;
}

export interface CaseRun extends Attended {
  /** Blocks in use, by physical number. */
  readonly blocks: ReadonlyMap<number, Uint32Array<ArrayBuffer>>;
  /** By sequence. */
  readonly tables: readonly (readonly number[])[];
  /** Words of the whole pool that are not poison. */
  readonly written: number;
  /** In deterministic mode: one sequence of the batch, attended once more, alone. */
  readonly alone: (Attended & { readonly sequence: number }) | undefined;
}

/** Behind the results, to see that nothing is written there. */
export const margin = 64;

export class GridSession {
  readonly kv: KvCache;
  readonly cache: LaunchCache;
  readonly #t: SpecContext;
  readonly #case: GridCase;
  readonly #inputs: CaseInputs;
  readonly #releases: boolean;
  readonly #attention: PagedAttention;
  readonly #operands: GridOperands;
  readonly #output: GPUBuffer;
  readonly #sequences: Sequence[] = [];
  #layer!: LayerAttention;

  static async open(t: SpecContext, of: GridCase, inputs: CaseInputs, numbers: Random, change: CaseChange): Promise<GridSession> {
    const session = new GridSession(t, of, inputs, numbers, change);
    await session.#prepare();
    return session;
  }

  private constructor(t: SpecContext, of: GridCase, inputs: CaseInputs, numbers: Random, change: CaseChange) {
    this.#t = t;
    this.#case = of;
    this.#inputs = inputs;
    this.#releases = change.release ?? false;
    const { numHeads, numKvHeads } = headsOf(of);
    const { headDim, blockSize } = of;
    const blocksOf = (keys: number) => Math.ceil(keys / blockSize);
    const layout = { numKvHeads, headDim, blockSize, ...storages[of.storage] };
    const { maxStorageBufferBindingSize, maxBufferSize } = t.gpu.limits;
    const largest = blocksPerBuffer(layout, Math.min(maxStorageBufferBindingSize, maxBufferSize));
    const fitting = inputs.sequences.reduce((sum, { seqLen }) => sum + blocksOf(seqLen), 3);
    const ofOne = change.numBlocks === 'largest' ? largest : (change.numBlocks ?? fitting);
    // What the size of a buffer is part of is compiled: pools of several buffers have the same size in all cases of a layout.
    const ofMany = Math.ceil(5e6 / (numKvHeads * headDim * blockSize) / 3);
    this.kv = new KvCache(t.gpu, {
      ...{ numLayers: 1, ...layout },
      numBlocks: of.buffers > 1 ? of.buffers * ofMany : ofOne,
      maxSequences: inputs.sequences.length,
      maxBlocksPerSequence: blocksOf(longestOf(of)),
      ...(of.buffers > 1 && { maxBlocksPerBuffer: ofMany }),
    });
    t.defer(() => this.kv.destroy());
    expect(this.kv.pools[0].length === of.buffers, `the pool has ${this.kv.pools[0].length} buffers, expected ${of.buffers}`);
    shuffleBlocks(this.kv, numbers);
    // Not those of other files: their modifications would be counted here.
    this.cache = sharedCache(t.gpu, [
      'grid',
      of.heads,
      headDim,
      blockSize,
      of.storage,
      of.buffers,
      of.maxInvocations,
      change.kernels?.name ?? '',
    ]);

    this.#operands = new GridOperands(t, of, inputs);
    const segmentKeys = segmentKeysOf(of);
    const options: PagedAttentionOptions = {
      ...{ numHeads, maxTokensPerStep: this.#operands.maxTokens, maxInvocations: of.maxInvocations },
      ...(segmentKeys !== undefined && { minSegmentKeys: segmentKeys, targetWorkgroups: 2 ** 20 }),
      deterministic: of.deterministic,
      filterByQueryLen: of.route === 'by length',
      cascade: of.prefix === 'told' ? 'off' : 'auto',
      logSumExp: of.logSumExp,
      extraPlanWords: inputs.sequences.reduce((sum, { entry }) => sum + (entry.queryBias?.length ?? 0), 0),
    };
    const choice = chooseKernels(t.gpu, { ...layout, numHeads }, { ...options, ...change.kernels?.options });
    this.#attention = new PagedAttention(this.cache, this.kv, options, change.kernels?.of?.(choice) ?? choice);
    t.defer(() => this.#attention.destroy());
    this.#output = emptyBuffer(t, (this.#operands.queryTokens * numHeads * headDim + margin) * 4, undefined, t.gpu);
  }

  async #prepare(): Promise<void> {
    const { alibi, sinks, softcap, keepFirst, modified, storage } = this.#case;
    const { rotary, window, slopes, sinks: logits, scalars, data, keyScale, valueScale } = this.#inputs;
    const { query, key, value } = this.#operands.places;
    const turns = rotary && Float32Array.from({ length: 2 * rotary.cos.length }, (_, i) => (i % 2 === 0 ? rotary.cos : rotary.sin)[i >> 1]);
    const [layer] = await Promise.all([
      this.#attention.prepareLayer(0, {
        ...{ ...this.#operands.buffers, output: this.#output },
        ...{ queryStride: query.stride, queryOffset: query.offset },
        ...{ rowStride: key.stride, keyOffset: key.offset, valueOffset: value.offset },
        ...(rotary && turns && { rotary: { table: uploadBuffer(this.#t, turns, undefined, this.#t.gpu), half: rotary.half } }),
        ...(storage.endsWith('by tensor') && { keyScale, valueScale }),
        ...(alibi !== 'none' && { alibi: { slopes, kind: alibi } }),
        ...(sinks !== 'none' && { sinks: logits }),
        ...(softcap !== 'none' && { softcap }),
        ...(window !== undefined && { window, keepFirst }),
        ...(modified && { modifications, scalars, data }),
      }),
      this.#attention.prepare(),
    ]);
    this.#layer = layer;
  }

  /** The whole case. @param alone the sequence to attend to once more, alone. */
  async run(alone?: number): Promise<CaseRun> {
    const { gpu } = this.#t;
    const { device } = gpu;
    const poisoned = device.createCommandEncoder();
    for (const pool of this.kv.pools.flat()) recordPoison(gpu, poisoned, pool);
    device.queue.submit([poisoned.finish()]);
    device.queue.writeBuffer(this.#output, 0, new Float32Array(this.#output.size / 4).fill(poison));
    this.#appendContext();
    await expectThrows(CapacityExceededError, () => this.kv.open(), /sequences/); // as many are open as there is room for

    const others = emptyBuffer(this.#t, 4, undefined, gpu);
    const all = this.#inputs.sequences.map((_, i) => i);
    const indices = all.filter((i) => i === alone);
    const size = this.#resultBytes(all) + this.#resultBytes(indices) + this.#poolBytes + 4;
    const staging = emptyBuffer(this.#t, size, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST, gpu);
    const sizes: number[] = [];
    let at = 0;
    const keep = (encoder: GPUCommandEncoder, source: GPUBuffer, offset: number, bytes: number) => {
      encoder.copyBufferToBuffer(source, offset, staging, at, bytes);
      sizes.push(bytes);
      at += bytes;
    };
    const keepResults = (encoder: GPUCommandEncoder, of: readonly number[]) => {
      const { logSumExp } = this.#attention;
      const tokens = this.#tokensOf(of);
      keep(encoder, this.#output, 0, (tokens * this.#rowSize + margin) * 4);
      if (logSumExp) keep(encoder, logSumExp.buffer, logSumExp.offset, tokens * headsOf(this.#case).numHeads * 4);
    };

    const newTokens = (of: readonly number[]): TokenPlace[] =>
      of.flatMap((i) => {
        const { queries, seqLen, queryLen } = this.#inputs.sequences[i];
        return queries.map((_, token) => [i, seqLen - queryLen + token] as const);
      });
    this.#operands.upload(newTokens(all));
    this.#submit(
      all,
      (pass) => {
        this.#layer.append(pass);
        this.#layer.attend(pass);
      },
      (encoder) => {
        keepResults(encoder, all);
        for (const pool of this.kv.pools.flat()) recordCount(gpu, encoder, pool, others);
        keep(encoder, others, 0, 4);
        for (const block of this.#blocks) keep(encoder, this.#placeOf(block).buffer, this.#placeOf(block).offset, this.#blockBytes);
      },
    );
    if (alone !== undefined) {
      this.#operands.upload(newTokens(indices));
      this.#submit(
        indices,
        (pass) => this.#layer.attend(pass),
        (encoder) => keepResults(encoder, indices),
      );
    }
    await staging.mapAsync(GPUMapMode.READ);
    const bytes = staging.getMappedRange().slice(0);
    let next = 0;
    const take = (): Uint32Array<ArrayBuffer> => {
      const words = sizes.shift()! / 4;
      next += words * 4;
      return new Uint32Array(bytes, next - words * 4, words);
    };
    const floats = (words: Uint32Array<ArrayBuffer>) => new Float32Array(words.buffer, words.byteOffset, words.length);
    const takeResults = (): Attended => ({ output: floats(take()), logSumExp: this.#attention.logSumExp && floats(take()) });
    const attended = takeResults();
    const written = take()[0];
    const blocks = new Map([...this.#blocks].map((block) => [block, take()]));
    return {
      ...attended,
      blocks,
      tables: this.#sequences.map((sequence) => sequence.blocks),
      written,
      alone: alone === undefined ? undefined : { ...takeResults(), sequence: alone },
    };
  }

  /** Every key but the new tokens', in steps of as many as fit; a common prefix once. */
  #appendContext(): void {
    const { sequences, prefixLen } = this.#inputs;
    const append = (lengths: readonly number[]) => {
      const missing = lengths.map((length, i) => length - (this.#sequences[i]?.length ?? 0));
      while (missing.some((count) => count > 0)) {
        let room = this.#operands.maxTokens;
        const tokens: TokenPlace[] = [];
        const counts = missing.map((count, i) => {
          const taken = Math.min(count, room);
          room -= taken;
          missing[i] -= taken;
          const { length } = this.#sequences[i];
          for (let k = 0; k < taken; k++) tokens.push([i, length + k]);
          this.kv.extend(this.#sequences[i], taken);
          return taken;
        });
        this.#operands.upload(tokens);
        this.#attention.plan(counts.map((queryLen, i) => ({ sequence: this.#sequences[i], queryLen })));
        this.#record((pass) => this.#layer.append(pass));
      }
    };
    this.#sequences.push(this.kv.open());
    append([prefixLen]);
    for (let i = 1; i < sequences.length; i++) this.#sequences.push(prefixLen > 0 ? this.kv.fork(this.#sequences[0]) : this.kv.open());
    append(sequences.map(({ seqLen, queryLen }) => seqLen - queryLen));
    if (this.#releases) this.#release();
    sequences.forEach(({ queryLen }, i) => {
      this.kv.extend(this.#sequences[i], queryLen);
    });
  }

  #release(): void {
    const { sequences, window = 0 } = this.#inputs;
    const before = this.#blocks;
    sequences.forEach(({ seqLen, queryLen }, i) => {
      this.kv.release(this.#sequences[i], seqLen - queryLen + 1 - window, this.#case.keepFirst);
    });
    const kept = this.#blocks;
    const released = [...before].filter((block) => !kept.has(block));
    expect(released.length > 0, 'no block was given up');
    for (const block of released) {
      const { buffer, offset } = this.#placeOf(block);
      this.#t.gpu.device.queue.writeBuffer(buffer, offset, new Uint8Array(this.#blockBytes).fill(0xff));
    }
  }

  #submit(of: readonly number[], record: (pass: GPUComputePassEncoder) => void, finish: (encoder: GPUCommandEncoder) => void): void {
    const { sequences, prefixLen } = this.#inputs;
    const told = this.#case.prefix === 'told' ? [{ first: 0, count: of.length, prefixLen }] : undefined;
    this.#attention.plan(
      of.map((i) => ({ sequence: this.#sequences[i], queryLen: sequences[i].queryLen, ...sequences[i].entry })),
      told,
    );
    this.#checkPlan(of);
    this.#record(record, finish);
  }

  /** That the options reached the plan. */
  #checkPlan(of: readonly number[]): void {
    const { splits, route, prefix } = this.#case;
    const { sequences } = this.#inputs;
    const [decode, prefill, merged] = (['NUM_DECODE_ITEMS', 'NUM_PREFILL_ITEMS', 'NUM_MERGE_ROWS'] as const).map((field) =>
      this.#attention.writer.read(field),
    );
    const single = of.filter((i) => sequences[i].queryLen === 1);
    const longer = of.filter((i) => sequences[i].queryLen > 1);
    const segmentKeys = segmentKeysOf(this.#case) ?? Number.POSITIVE_INFINITY;
    const split = route === 'prefill' ? [] : single.filter((i) => sequences[i].seqLen - this.#inputs.prefixLen > segmentKeys);
    expect(decode > 0 === (single.length > 0 && route === 'by length'), `${decode} decode items for ${single.length} single tokens`);
    expect(prefill > 0 || (longer.length === 0 && (route === 'by length' || single.length === 0)), 'no prefill items');
    expect(merged >= split.length, `${merged} rows are merged, expected at least ${split.length}`);
    expect(splits !== 'none' || prefix !== 'own' || merged === 0, `${merged} rows are merged, expected none`);
  }

  #record(record: (pass: GPUComputePassEncoder) => void, finish?: (encoder: GPUCommandEncoder) => void): void {
    this.#attention.write();
    const encoder = this.#t.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.#attention.updateTables(pass);
    record(pass);
    pass.end();
    finish?.(encoder);
    this.cache.submit([encoder.finish()]);
  }

  #tokensOf(of: readonly number[]): number {
    return of.reduce((sum, i) => sum + this.#inputs.sequences[i].queryLen, 0);
  }

  get #rowSize(): number {
    return headsOf(this.#case).numHeads * this.#case.headDim;
  }

  #resultBytes(of: readonly number[]): number {
    return of.length === 0 ? 0 : (this.#tokensOf(of) * (this.#rowSize + headsOf(this.#case).numHeads) + margin) * 4;
  }

  /** In use; the null block stands for one that was given up. */
  get #blocks(): ReadonlySet<number> {
    return new Set(this.#sequences.flatMap((sequence) => sequence.blocks).filter((block) => block !== nullBlock));
  }

  get #blockBytes(): number {
    const { blocksPerBuffer, options, pools } = this.kv;
    return pools[0][0].size / Math.min(blocksPerBuffer, options.numBlocks);
  }

  get #poolBytes(): number {
    return this.#blocks.size * this.#blockBytes;
  }

  #placeOf(block: number): { readonly buffer: GPUBuffer; readonly offset: number } {
    const { pools, blocksPerBuffer } = this.kv;
    return { buffer: pools[0][Math.floor(block / blocksPerBuffer)], offset: (block % blocksPerBuffer) * this.#blockBytes };
  }
}
