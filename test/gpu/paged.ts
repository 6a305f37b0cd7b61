/** Runs attention over a poisoned, permuted paged cache, and the reference beside it, for the specs. */

import { adapterDefaults } from '../../src/attention/adapters.ts';
import {
  type Gpu,
  KvCache,
  type KvCacheOptions,
  LaunchCache,
  type LayerAttention,
  PagedAttention,
  type PagedAttentionOptions,
  type Sequence,
} from '../../src/index.ts';
import { emptyBuffer, expect, type Random, readFloats, type SpecContext, uploadBuffer } from '../harness/harness.ts';
import { referenceAttention, referenceRotary, roundToHalf } from './reference.ts';

/** A token's rows: [numHeads][headDim] and twice [numKvHeads][headDim]. */
export interface TokenRows {
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly value: Float32Array;
}

export interface PagedSetup extends Omit<KvCacheOptions, 'numLayers'> {
  readonly numHeads: number;
  readonly maxTokensPerStep: number;
  readonly options?: Partial<PagedAttentionOptions>;
  /** Default 1 / sqrt(headDim). */
  readonly scale?: number;
  /** Turns the first 2 * half dimensions. */
  readonly rotary?: { readonly theta: number; readonly half: number };
  /** Queries, keys and values of a token lie in one buffer, with gaps; otherwise in three, densely. */
  readonly packed?: boolean;
  /** Changes the random rows of a new token. */
  readonly adapt?: (rows: TokenRows, position: number) => void;
}

/** What unwritten outputs hold. */
export const poison = 12345;

export interface PagedRun {
  readonly actual: Float32Array;
  readonly expected: Float64Array;
}

/** A sequence of the cache, and the keys and values that it should hold. */
export interface TestSequence {
  readonly sequence: Sequence;
  readonly keys: Float32Array[];
  readonly values: Float32Array[];
}

/** Fills the free list in random order, so that block tables are permutations. */
export function shuffleBlocks(kv: KvCache, random: Random): void {
  const blocks = kv.blocks.allocate(kv.blocks.free);
  for (const index of random.permutation(blocks.length)) kv.blocks.release([blocks[index]]);
}

const caches = new WeakMap<GPUDevice, Map<string, LaunchCache>>();

/** A launch cache for all specs on the device that freeze the same values: pipelines outlive a spec, which is most of the specs' time. */
export function sharedCache(gpu: Gpu, frozen: readonly (string | number)[]): LaunchCache {
  const ofDevice = caches.get(gpu.device) ?? new Map<string, LaunchCache>();
  caches.set(gpu.device, ofDevice);
  const key = JSON.stringify(frozen);
  const cache = ofDevice.get(key) ?? new LaunchCache(gpu);
  ofDevice.set(key, cache);
  return cache;
}

/**
 * The most invocations to test with: a GPU's on one variant of the device, SwiftShader's own on the other. SwiftShader has a quarter of a GPU's:
 * each costs it a stack.
 */
export function invocationsFor({ gpu, variant }: Pick<SpecContext, 'gpu' | 'variant'>): number {
  if (variant !== 'granted') return 8;
  return adapterDefaults(gpu.adapter).maxInvocations === 8 ? 64 : 256;
}

/** One layer over a cache whose every slot holds NaN bits until something is appended. */
export class PagedSession {
  readonly kv: KvCache;
  readonly cache: LaunchCache;
  readonly attention: PagedAttention;
  readonly #t: SpecContext;
  readonly #setup: PagedSetup;
  readonly #random: Random;
  readonly #inputs: { readonly query: GPUBuffer; readonly key: GPUBuffer; readonly value: GPUBuffer };
  readonly #output: GPUBuffer;
  #layer!: LayerAttention;

  static async open(t: SpecContext, setup: PagedSetup, random: Random): Promise<PagedSession> {
    const session = new PagedSession(t, setup, random);
    await session.#prepare();
    return session;
  }

  private constructor(t: SpecContext, setup: PagedSetup, random: Random) {
    this.#t = t;
    this.#setup = setup;
    this.#random = random;
    this.kv = new KvCache(t.gpu, { ...setup, numLayers: 1 });
    t.defer(() => this.kv.destroy());
    for (const pool of this.kv.pools.flat()) t.gpu.device.queue.writeBuffer(pool, 0, new Uint8Array(pool.size).fill(0xff));
    shuffleBlocks(this.kv, random);
    const { numHeads, numKvHeads, maxTokensPerStep, headDim, blockSize, dtype, options } = setup;
    const maxInvocations = invocationsFor(t);
    this.cache = sharedCache(t.gpu, [`${numHeads}/${numKvHeads}`, headDim, blockSize, dtype, 1, maxInvocations]);
    this.attention = new PagedAttention(this.cache, this.kv, {
      numHeads,
      maxTokensPerStep,
      ...options,
      maxInvocations,
    });
    t.defer(() => this.attention.destroy());
    const { query, key } = this.#strides;
    const buffer = (stride: number) => uploadBuffer(t, new Float32Array(maxTokensPerStep * stride + 64).fill(Number.NaN));
    const first = buffer(query.stride);
    this.#inputs = setup.packed
      ? { query: first, key: first, value: first }
      : { query: first, key: buffer(key.stride), value: buffer(key.stride) };
    this.#output = emptyBuffer(t, maxTokensPerStep * numHeads * headDim * 4);
  }

  open(): TestSequence {
    return { sequence: this.kv.open(), keys: [], values: [] };
  }

  truncate({ sequence, keys, values }: TestSequence, length: number): void {
    this.kv.truncate(sequence, length);
    keys.length = values.length = length;
  }

  /** Reserves slots for `queryLen` new tokens of each sequence, appends them, and attends unless told not to. */
  async step(batch: readonly (readonly [TestSequence, queryLen: number])[], attend = true): Promise<PagedRun> {
    const { numHeads, numKvHeads, headDim, scale = headDim ** -0.5 } = this.#setup;
    const { queue } = this.#t.gpu.device;
    const numTokens = batch.reduce((sum, [, queryLen]) => sum + queryLen, 0);
    const rows = batch.flatMap(([{ sequence }, queryLen]) =>
      Array.from({ length: queryLen }, (_, i) => this.#newToken(sequence.length + i)),
    );
    const uploads = new Map<GPUBuffer, Float32Array<ArrayBuffer>>();
    for (const name of ['query', 'key', 'value'] as const) {
      const { stride, offset } = this.#strides[name];
      const data = uploads.get(this.#inputs[name]) ?? new Float32Array(numTokens * stride).fill(Number.NaN);
      uploads.set(this.#inputs[name], data);
      rows.forEach((row, token) => {
        data.set(row[name], token * stride + offset);
      });
    }
    // Deno 2.9 panics on a write of no bytes.
    for (const [buffer, data] of uploads) if (data.length > 0) queue.writeBuffer(buffer, 0, data);
    queue.writeBuffer(this.#output, 0, new Float32Array(this.#output.size / 4).fill(poison));

    let next = 0;
    const expected = batch.map(([{ sequence, keys, values }, queryLen]) => {
      const first = sequence.length;
      this.kv.extend(sequence, queryLen);
      const fresh = rows.slice(next, next + queryLen);
      next += queryLen;
      keys.push(...fresh.map((row, i) => this.#stored(this.#turned(row.key, first + i, numKvHeads))));
      values.push(...fresh.map((row) => this.#stored(row.value)));
      if (!attend) return [];
      const queries = fresh.map((row, i) => this.#turned(row.query, first + i, numHeads));
      return [...referenceAttention({ numHeads, numKvHeads, headDim, scale, query: join(queries), key: join(keys), value: join(values) })];
    });
    this.attention.plan(batch.map(([{ sequence }, queryLen]) => ({ sequence, queryLen })));
    this.attention.write();
    const encoder = this.#t.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.attention.updateTables(pass);
    this.#layer.append(pass);
    if (attend) this.#layer.attend(pass);
    pass.end();
    this.cache.submit([encoder.finish()]);
    if (!attend) return { actual: new Float32Array(0), expected: new Float64Array(0) };

    const output = await readFloats(this.#t.gpu, this.#output);
    const written = numTokens * numHeads * headDim;
    expect(
      output.subarray(written).every((value) => value === poison),
      'output was written behind the last token',
    );
    return { actual: output.subarray(0, written), expected: Float64Array.from(expected.flat()) };
  }

  /** Where a token's rows begin, in values. */
  get #strides() {
    const { numHeads, numKvHeads, headDim, packed } = this.#setup;
    const querySize = numHeads * headDim;
    const keySize = numKvHeads * headDim;
    if (!packed)
      return { query: { stride: querySize, offset: 0 }, key: { stride: keySize, offset: 0 }, value: { stride: keySize, offset: 0 } };
    const stride = querySize + 2 * keySize + 11;
    return {
      query: { stride, offset: 2 },
      key: { stride, offset: querySize + 5 },
      value: { stride, offset: querySize + keySize + 9 },
    };
  }

  async #prepare(): Promise<void> {
    const { rotary, maxBlocksPerSequence, blockSize, scale } = this.#setup;
    const { query, key, value } = this.#strides;
    const positions = maxBlocksPerSequence * blockSize;
    const angles = (position: number, { theta, half }: { theta: number; half: number }) =>
      Array.from({ length: half }, (_, i) => position * theta ** (-i / half)).flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
    const table = rotary && Float32Array.from(Array.from({ length: positions }, (_, p) => angles(p, rotary)).flat());
    const [layer] = await Promise.all([
      this.attention.prepareLayer(0, {
        ...this.#inputs,
        queryStride: query.stride,
        queryOffset: query.offset,
        rowStride: key.stride,
        keyOffset: key.offset,
        valueOffset: value.offset,
        output: this.#output,
        scale,
        rotary: rotary && table && { table: uploadBuffer(this.#t, table), half: rotary.half },
      }),
      this.attention.prepare(),
    ]);
    this.#layer = layer;
  }

  #newToken(position: number): TokenRows {
    const { numHeads, numKvHeads, headDim, adapt } = this.#setup;
    const rows = {
      query: this.#random.normals(numHeads * headDim),
      key: this.#stored(this.#random.normals(numKvHeads * headDim)),
      value: this.#stored(this.#random.normals(numKvHeads * headDim)),
    };
    adapt?.(rows, position);
    return rows;
  }

  #stored(row: Float32Array): Float32Array {
    return this.#setup.dtype === 'f16' ? row.map(roundToHalf) : row.slice();
  }

  #turned(row: Float32Array, position: number, heads: number): Float32Array {
    const { headDim, rotary } = this.#setup;
    return rotary ? referenceRotary(row, [position], heads, headDim, rotary.theta, rotary.half) : row;
  }
}

export interface PagedCase extends Omit<PagedSetup, 'numBlocks' | 'maxSequences' | 'maxBlocksPerSequence' | 'maxTokensPerStep'> {
  /** (queryLen, seqLen) of each sequence. */
  readonly lengths: readonly (readonly [number, number])[];
}

/** Appends the context in a step of its own, then runs the batch; `expected` is the reference's output. */
export async function runPaged(t: SpecContext, testCase: PagedCase, random: Random): Promise<PagedRun> {
  const { lengths, blockSize } = testCase;
  const blocksOf = (seqLen: number) => Math.ceil(seqLen / blockSize);
  const contextTokens = lengths.reduce((sum, [queryLen, seqLen]) => sum + seqLen - queryLen, 0);
  const queryTokens = lengths.reduce((sum, [queryLen]) => sum + queryLen, 0);
  const setup = {
    ...testCase,
    numBlocks: lengths.reduce((sum, [, seqLen]) => sum + blocksOf(seqLen), 3),
    maxSequences: lengths.length,
    maxBlocksPerSequence: Math.max(...lengths.map(([, seqLen]) => blocksOf(seqLen))),
    maxTokensPerStep: Math.max(contextTokens, queryTokens, 1),
  };
  const session = await PagedSession.open(t, setup, random);
  const sequences = lengths.map(() => session.open());
  const batch = (lengthOf: (queryLen: number, seqLen: number) => number) =>
    sequences.map((sequence, i) => [sequence, lengthOf(...lengths[i])] as const);
  if (contextTokens > 0)
    await session.step(
      batch((queryLen, seqLen) => seqLen - queryLen),
      false,
    );
  return session.step(batch((queryLen) => queryLen));
}

function join(rows: readonly Float32Array[]): Float32Array {
  const joined = new Float32Array(rows.reduce((sum, row) => sum + row.length, 0));
  rows.reduce((at, row) => {
    joined.set(row, at);
    return at + row.length;
  }, 0);
  return joined;
}
