/** For the examples: one layer of attention over a paged cache, as a program of its own would set it up. */
import {
  type BatchEntry,
  type Cascade,
  type Gpu,
  KvCache,
  type KvCacheOptions,
  LaunchCache,
  type LayerAttention,
  type LayerScalars,
  PagedAttention,
  type PagedAttentionOptions,
} from 'pagewise';

export interface Rows {
  readonly query: Float32Array<ArrayBuffer>;
  readonly key: Float32Array<ArrayBuffer>;
  readonly value: Float32Array<ArrayBuffer>;
}

export interface SessionOptions {
  readonly numHeads?: number;
  readonly headDim?: number;
  readonly kv?: Partial<KvCacheOptions>;
  readonly attention?: Partial<PagedAttentionOptions>;
  readonly layer?: LayerScalars;
}

/** One layer with as many KV heads as query heads. */
export class Session {
  readonly kv: KvCache;
  readonly attention: PagedAttention;
  readonly numHeads: number;
  readonly headDim: number;
  readonly #gpu: Gpu;
  readonly #cache: LaunchCache;
  readonly #buffers: Readonly<Record<'query' | 'key' | 'value' | 'output', GPUBuffer>>;
  #layer!: LayerAttention;

  static async open(gpu: Gpu, options: SessionOptions = {}): Promise<Session> {
    const session = new Session(gpu, options);
    const { attention } = session;
    const [layer] = await Promise.all([attention.prepareLayer(0, { ...session.#buffers, ...options.layer }), attention.prepare()]);
    session.#layer = layer;
    return session;
  }

  private constructor(gpu: Gpu, { numHeads = 2, headDim = 16, kv = {}, attention = {} }: SessionOptions) {
    this.#gpu = gpu;
    this.numHeads = numHeads;
    this.headDim = headDim;
    const sizes = { numLayers: 1, numBlocks: 65, maxSequences: 8, maxBlocksPerSequence: 32 };
    this.kv = new KvCache(gpu, { numKvHeads: numHeads, headDim, blockSize: 8, dtype: 'f32', ...sizes, ...kv });
    this.#cache = new LaunchCache(gpu);
    const maxTokensPerStep = 256;
    this.attention = new PagedAttention(this.#cache, this.kv, { numHeads, maxTokensPerStep, ...attention });
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = () => gpu.device.createBuffer({ size: maxTokensPerStep * numHeads * headDim * 4, usage });
    this.#buffers = { query: buffer(), key: buffer(), value: buffer(), output: buffer() };
  }

  /** The same rows for the same tokens, whatever they come with. */
  rowsOf(tokens: readonly number[]): Rows {
    const row = (kind: number) =>
      Float32Array.from({ length: tokens.length * this.numHeads * this.headDim }, (_, i) => {
        const width = this.numHeads * this.headDim;
        return Math.sin((tokens[Math.floor(i / width)] + 1) * (i % width) * 12.9898 + kind * 78.233) * 2;
      });
    return { query: row(1), key: row(2), value: row(3) };
  }

  /** Appends the new tokens of a batch, whose slots are reserved, and attends; returns the outputs. */
  async step(batch: readonly BatchEntry[], rows: Rows, cascades?: readonly Cascade[]): Promise<Float32Array> {
    const { device } = this.#gpu;
    for (const name of ['query', 'key', 'value'] as const) device.queue.writeBuffer(this.#buffers[name], 0, rows[name]);
    this.attention.plan(batch, cascades);
    this.attention.write();
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.attention.updateTables(pass);
    this.#layer.append(pass);
    this.#layer.attend(pass);
    pass.end();
    this.#cache.submit([encoder.finish()]);
    return this.read(this.#buffers.output, 0, rows.query.byteLength);
  }

  async read(buffer: GPUBuffer, offset: number, size: number): Promise<Float32Array> {
    const staging = this.#gpu.device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const encoder = this.#gpu.device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, offset, staging, 0, size);
    this.#gpu.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const floats = new Float32Array(staging.getMappedRange().slice(0));
    staging.destroy();
    return floats;
  }
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i])));
}
