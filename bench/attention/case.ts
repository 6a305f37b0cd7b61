import {
  type Gpu,
  KvCache,
  type KvDtype,
  LaunchCache,
  type LayerAttention,
  PagedAttention,
  type PagedAttentionOptions,
  type Sequence,
} from 'pagewise';
import { blockBytes } from '../../src/attention/layout.ts';
import type { DecodeTile } from '../../src/attention/tiles/decode.ts';
import type { MatrixDecodeTile, MatrixPrefillTile } from '../../src/attention/tiles/matrix.ts';
import { chooseKernels } from '../../src/attention/tuned.ts';
import type { PassTimer } from '../timestamps.ts';
import { fillNormals, HashedPool, hashedNormal } from './hash.ts';

/** Heads of the models that one would page for: Llama 3's. */
export interface Shape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly blockSize: number;
}

/** One batch, in one storage format. */
export interface AttentionCase {
  readonly name: string;
  /** (queryLen, seqLen) of each sequence. */
  readonly lengths: readonly (readonly [queryLen: number, seqLen: number])[];
  readonly dtype: KvDtype;
  readonly options?: Partial<PagedAttentionOptions>;
  /** The prefill kernel: by multiply-adds, or by matrices in a tile; default: what would be chosen. */
  readonly prefill?: 'plain' | MatrixPrefillTile;
  /** The decode kernel: by multiply-adds, or in a tile; default: what would be chosen. */
  readonly decode?: 'plain' | DecodeTile | MatrixDecodeTile;
}

const querySeed = 0x9000_0000;

/** By storage: what the project promises of its results. */
const tolerances: Readonly<Record<KvDtype, readonly [atol: number, rtol: number]>> = {
  f32: [1e-5, 1e-4],
  f16: [2e-3, 1e-2],
  int8: [2e-3, 1e-2],
  fp8_e4m3: [2e-3, 1e-2],
  fp8_e5m2: [2e-3, 1e-2],
};

/** A case set up on the device: random queries, and layers enough that together they exceed the last-level cache. */
export class OpenCase {
  readonly #gpu: Gpu;
  readonly #case: AttentionCase;
  readonly #shape: Shape;
  readonly #kv: KvCache;
  readonly #cache: LaunchCache;
  readonly #attention: PagedAttention;
  readonly #sequences: readonly Sequence[];
  readonly #query: GPUBuffer;
  readonly #output: GPUBuffer;
  #pool!: HashedPool;
  #notCompiled: unknown;
  #layers: readonly LayerAttention[] = [];

  static async open(gpu: Gpu, shape: Shape, one: AttentionCase, cacheBytes: number): Promise<OpenCase> {
    const open = new OpenCase(gpu, shape, one, cacheBytes);
    try {
      await open.#prepare();
      return open;
    } catch (error) {
      open.destroy();
      throw error;
    }
  }

  private constructor(gpu: Gpu, shape: Shape, one: AttentionCase, cacheBytes: number) {
    const { lengths, dtype, options } = one;
    const { numHeads, numKvHeads, headDim, blockSize } = shape;
    this.#gpu = gpu;
    this.#shape = shape;
    this.#case = one;
    const blocks = lengths.map(([, seqLen]) => Math.ceil(seqLen / blockSize));
    const numBlocks = blocks.reduce((a, b) => a + b, 1);
    const layout = { blockSize, numKvHeads, headDim, dtype };
    const numLayers = Math.min(64, Math.max(1, Math.ceil(cacheBytes / (numBlocks * blockBytes(layout)))));
    this.#kv = new KvCache(gpu, {
      ...layout,
      numLayers,
      numBlocks,
      maxSequences: lengths.length,
      maxBlocksPerSequence: Math.max(...blocks),
    });
    scatterBlocks(this.#kv);
    this.#cache = new LaunchCache(gpu, {
      onEvent: (event) => {
        if (event.type === 'fallback') this.#notCompiled = event.reason;
      },
    });
    const numTokens = lengths.reduce((sum, [queryLen]) => sum + queryLen, 0);
    const chosen = chooseKernels(gpu, { ...layout, numHeads }, options);
    const prefill = one.prefill === 'plain' ? chosen.plainPrefill : (one.prefill ?? chosen.prefill);
    const decode = one.decode === 'plain' ? chosen.plainDecode : (one.decode ?? chosen.decode);
    const choice = { ...chosen, prefill, decode, large: one.decode === undefined ? chosen.large : undefined };
    this.#attention = new PagedAttention(this.#cache, this.#kv, { numHeads, maxTokensPerStep: numTokens, ...options }, choice);
    const size = numTokens * numHeads * headDim * 4;
    const buffer = () => gpu.device.createBuffer({ label: 'bench', size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
    this.#query = buffer();
    this.#output = buffer();
    this.#sequences = lengths.map(([, seqLen]) => {
      const sequence = this.#kv.open();
      this.#kv.extend(sequence, seqLen);
      return sequence;
    });
  }

  async #prepare(): Promise<void> {
    await fillNormals(this.#gpu, this.#query, querySeed);
    this.#pool = await HashedPool.fill(this.#gpu, this.#kv);
    await this.#attention.prepare();
    // Nothing is appended: the bench reads what is in the pool.
    const inputs = { query: this.#query, key: this.#query, value: this.#query, output: this.#output };
    this.#layers = await Promise.all(this.#kv.pools.map((_, layer) => this.#attention.prepareLayer(layer, inputs)));
    if (this.#notCompiled) throw this.#notCompiled;
    this.#attention.plan(this.#case.lengths.map(([queryLen], i) => ({ sequence: this.#sequences[i], queryLen })));
    this.#attention.write();
    const encoder = this.#gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.#attention.updateTables(pass);
    this.#layers[0].attend(pass);
    pass.end();
    this.#cache.submit([encoder.finish()]);
  }

  /** Attends `count` times, in one pass, going round the layers. @returns milliseconds for each */
  async time(timer: PassTimer, count: number): Promise<number> {
    const record = (pass: GPUComputePassEncoder) => {
      for (let i = 0; i < count; i++) this.#layers[i % this.#layers.length].attend(pass);
    };
    return (await timer.time(record, (commands) => this.#cache.submit([commands]))) / count;
  }

  /** Bytes of keys and values that an attention must read, scales included. */
  get keyValueBytes(): number {
    const { blockSize } = this.#shape;
    const tokens = this.#case.lengths.reduce((sum, [, seqLen]) => sum + seqLen, 0);
    return (tokens * blockBytes(this.#kv.options)) / blockSize;
  }

  /** Operations of the two products over all visible pairs of a query and a key. */
  get operations(): number {
    const { numHeads, headDim } = this.#shape;
    const pairs = this.#case.lengths.reduce((sum, [queryLen, seqLen]) => sum + queryLen * (seqLen - (queryLen - 1) / 2), 0);
    return 4 * headDim * numHeads * pairs;
  }

  /** Holds what the last timed launch of the first layer wrote against attention in float64, in a sample of rows. @throws {Error} with the worst value */
  async check(): Promise<void> {
    const { numHeads, headDim } = this.#shape;
    const { lengths, dtype } = this.#case;
    const [atol, rtol] = tolerances[dtype];
    await this.time({ time: recordOnly(this.#gpu), destroy: () => {} }, 1);
    const staging = this.#gpu.device.createBuffer({ size: headDim * 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    let firstToken = 0;
    for (const [index, [queryLen]] of lengths.entries()) {
      const sampled = index === 0 || index === lengths.length - 1 || index === lengths.length >> 1;
      for (const t of sampled ? new Set([0, (queryLen * 5) >> 3, queryLen - 1]) : []) {
        const head = (7 * t + 11 * index) % numHeads;
        const at = ((firstToken + t) * numHeads + head) * headDim;
        const encoder = this.#gpu.device.createCommandEncoder();
        encoder.copyBufferToBuffer(this.#output, at * 4, staging, 0, headDim * 4);
        this.#gpu.device.queue.submit([encoder.finish()]);
        await staging.mapAsync(GPUMapMode.READ);
        const actual = new Float32Array(staging.getMappedRange().slice(0));
        staging.unmap();
        const expected = this.#reference(index, t, head, at);
        actual.forEach((value, d) => {
          if (Math.abs(value - expected[d]) <= atol + rtol * Math.abs(expected[d])) return;
          throw new Error(
            `${this.#case.name} (${dtype}) is wrong: sequence ${index}, token ${t}, head ${head}, value ${d} is ${value}, not ${expected[d]}.`,
          );
        });
      }
      firstToken += queryLen;
    }
    staging.destroy();
  }

  /** Attention of one row in float64. */
  #reference(index: number, token: number, head: number, queryAt: number): Float64Array {
    const { numHeads, numKvHeads, headDim, blockSize } = this.#shape;
    const [queryLen, seqLen] = this.#case.lengths[index];
    const { blocks } = this.#sequences[index];
    const kvHead = Math.floor((head * numKvHeads) / numHeads);
    const query = Float64Array.from({ length: headDim }, (_, d) => hashedNormal(querySeed + queryAt + d));
    const slots = Array.from(
      { length: seqLen - queryLen + token + 1 },
      (_, key) => blocks[Math.floor(key / blockSize)] * blockSize + (key % blockSize),
    );
    const scores = slots.map(
      (slot) => this.#pool.row(0, slot, kvHead, 0).reduce((sum, value, d) => sum + value * query[d], 0) / Math.sqrt(headDim),
    );
    const maximum = scores.reduce((a, b) => Math.max(a, b));
    const weights = scores.map((score) => Math.exp(score - maximum));
    const sum = weights.reduce((a, b) => a + b);
    const output = new Float64Array(headDim);
    slots.forEach((slot, key) => {
      const values = this.#pool.row(0, slot, kvHead, 1);
      for (let d = 0; d < headDim; d++) output[d] += (weights[key] / sum) * values[d];
    });
    return output;
  }

  destroy(): void {
    this.#attention.destroy();
    this.#cache.destroy();
    this.#kv.destroy();
    this.#query.destroy();
    this.#output.destroy();
  }
}

/** Puts the free list out of order, so that neighbouring blocks of a sequence are not neighbours in memory. */
export function scatterBlocks({ blocks }: KvCache): void {
  const all = blocks.allocate(blocks.free);
  const step = [7919, 104_729, 1_299_709].find((prime) => all.length % prime !== 0) ?? 1;
  for (let i = 0; i < all.length; i++) blocks.release([all[(i * step) % all.length]]);
}

function recordOnly({ device }: Gpu): PassTimer['time'] {
  return async (record, submit) => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    record(pass);
    pass.end();
    submit(encoder.finish());
    return 0;
  };
}
