/** A workload of attention over random keys and values, to be timed and checked with any choice of kernels. */
import { PagewiseError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { PassTimer } from '../launch/pass-timer.ts';
import { PagedAttention } from './attention.ts';
import { KvCache } from './kv-cache.ts';
import { blockBytes, hasTokenScales, type KvDtype, kvFormats } from './layout.ts';
import type { LayerAttention } from './options.ts';
import type { AttentionShape, KernelChoice } from './tuned.ts';

/** What the GPU has to do: as many equal sequences as said, each with so many new tokens at the end of so many keys. */
export interface Workload {
  readonly sequences: number;
  readonly tokens: number;
  readonly keys: number;
}

/** On a GPU small workloads go round several layers, so that the keys of one are gone from the last-level cache when it has its next turn. */
const rotatedBytes = 96 * 2 ** 20;
const mostLayers = 16;

/** A sample takes some milliseconds, so that the steps of a GPU's clock (0.1 ms in browsers) do not count. */
const sampleTime = 8;
const mostRuns = 256;

/** Bits of random words that are kept, and bits that are set: finite values of the order of one in each dtype. */
const randomBits: Readonly<Record<KvDtype, readonly [kept: number, set: number]>> = {
  f32: [0x81ffffff, 0x3e000000],
  f16: [0x8fff8fff, 0x30003000],
  int8: [0xffffffff, 0],
  fp8_e4m3: [0xdfffdfff, 0x10401040],
  fp8_e5m2: [0xbfbfbfbf, 0],
};

/** A workload that is ready to run. */
export interface ReadyWorkload {
  /** Milliseconds of one attention. */
  time(timer: PassTimer): Promise<number>;
  /** Attends once. @returns f32 [tokens][numHeads][headDim] */
  compute(): Promise<Float32Array<ArrayBuffer>>;
  destroy(): void;
}

/** A workload's data on the GPU. Owns its buffers. */
export class OpenWorkload {
  readonly #gpu: Gpu;
  readonly #shape: AttentionShape;
  readonly #workload: Workload;
  readonly #kv: KvCache;
  readonly #buffers: GPUBuffer[] = [];
  readonly #query: GPUBuffer;
  readonly #output: GPUBuffer;
  /** Attentions of one sample; found at the first one. */
  #runs: number | undefined;

  /** @throws {LimitExceededError} {PagewiseError} where the device has no room for it. */
  static async open(gpu: Gpu, shape: AttentionShape, workload: Workload): Promise<OpenWorkload> {
    gpu.device.pushErrorScope('out-of-memory');
    let open: OpenWorkload | undefined;
    let full: GPUError | null = null;
    try {
      open = new OpenWorkload(gpu, shape, workload);
    } finally {
      full = await gpu.device.popErrorScope();
    }
    if (!full) return open;
    open.destroy();
    throw new PagewiseError('The device has no memory left for this workload. Tune with fewer sequences or keys.');
  }

  private constructor(gpu: Gpu, shape: AttentionShape, workload: Workload) {
    const { numHeads, headDim, blockSize } = shape;
    const { sequences, tokens, keys } = workload;
    const blocks = Math.ceil(keys / blockSize);
    const bytes = sequences * blocks * blockBytes(shape);
    const isCached = gpu.adapter.software || tokens > 1;
    this.#gpu = gpu;
    this.#shape = shape;
    this.#workload = workload;
    this.#kv = new KvCache(gpu, {
      ...shape,
      numLayers: isCached ? 1 : Math.min(mostLayers, Math.max(1, Math.ceil(rotatedBytes / bytes))),
      numBlocks: sequences * blocks + 1,
      maxSequences: sequences,
      maxBlocksPerSequence: blocks,
    });
    const size = sequences * tokens * numHeads * headDim * 4;
    this.#query = this.#buffer('tuning queries', size);
    this.#output = this.#buffer('tuning output', size);
    const random = randomWords();
    // Larger than keys, so that rows prefer some of them and a key that is left out shows.
    fill(
      gpu,
      this.#query,
      Float32Array.from({ length: Math.min(2 ** 20, size / 4) }, () => (random() / 2 ** 32 - 0.5) * 8),
    );
    const pattern = poolPattern(shape, random);
    for (const pool of this.#kv.pools.flat()) fill(gpu, pool, pattern);
    shuffle(this.#kv, random);
    for (let i = 0; i < sequences; i++) this.#kv.extend(this.#kv.open(), keys);
  }

  /** Compiles what a choice needs. @throws {KernelCompileError} */
  async prepare(cache: LaunchCache, choice: KernelChoice): Promise<ReadyWorkload> {
    const { sequences, tokens } = this.#workload;
    const options = { numHeads: this.#shape.numHeads, maxTokensPerStep: sequences * tokens, cascade: 'off' } as const;
    const attention = new PagedAttention(cache, this.#kv, options, choice);
    try {
      await attention.prepare();
      const isScaled = kvFormats[this.#shape.dtype].largest > 0 && !hasTokenScales(this.#shape);
      const inputs = {
        ...{ query: this.#query, key: this.#query, value: this.#query, output: this.#output },
        ...(isScaled && { keyScale: scaleUnit(this.#shape.dtype), valueScale: scaleUnit(this.#shape.dtype) }),
      };
      const layers = await Promise.all(this.#kv.pools.map((_, layer) => attention.prepareLayer(layer, inputs)));
      attention.plan([...this.#kv.sequences].map((sequence) => ({ sequence, queryLen: tokens })));
      attention.write();
      const encoder = this.#gpu.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      attention.updateTables(pass);
      pass.end();
      cache.submit([encoder.finish()]);
      return {
        time: (timer) => this.#time(cache, timer, layers),
        compute: () => this.#compute(cache, layers[0]),
        destroy: () => attention.destroy(),
      };
    } catch (error) {
      attention.destroy();
      throw error;
    }
  }

  destroy(): void {
    this.#kv.destroy();
    for (const buffer of this.#buffers) buffer.destroy();
  }

  #buffer(label: string, size: number, usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST): GPUBuffer {
    const buffer = this.#gpu.device.createBuffer({ label, size, usage });
    this.#buffers.push(buffer);
    return buffer;
  }

  async #time(cache: LaunchCache, timer: PassTimer, layers: readonly LayerAttention[]): Promise<number> {
    const submit = (commands: GPUCommandBuffer) => cache.submit([commands]);
    const sample = (runs: number) =>
      timer.time((pass) => {
        for (let i = 0; i < runs; i++) layers[i % layers.length].attend(pass);
      }, submit);
    const { features, adapter } = this.#gpu;
    // By the host's clock the wait for the GPU is in both samples, and in their difference no more.
    const time = async (runs: number) =>
      Math.max(1e-6, (features.timestampQuery ? await sample(runs) : (await sample(2 * runs)) - (await sample(runs))) / runs);
    if (this.#runs === undefined) {
      await sample(1);
      this.#runs = Math.min(mostRuns, Math.max(1, Math.ceil(sampleTime / Math.max(0.01, await time(1)))));
    }
    // A GPU that idled between samples is at its full clock again after some work.
    if (!adapter.software) await sample(this.#runs);
    return time(this.#runs);
  }

  async #compute(cache: LaunchCache, layer: LayerAttention): Promise<Float32Array<ArrayBuffer>> {
    const { size } = this.#output;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = this.#gpu.device.createBuffer({ label: 'tuning readback', size, usage });
    try {
      const encoder = this.#gpu.device.createCommandEncoder();
      encoder.clearBuffer(this.#output); // what another choice left there
      const pass = encoder.beginComputePass();
      layer.attend(pass);
      pass.end();
      encoder.copyBufferToBuffer(this.#output, 0, staging, 0, size);
      cache.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      return new Float32Array(staging.getMappedRange().slice(0));
    } finally {
      staging.destroy();
    }
  }
}

/** Times a code of `randomBits`: of the order of one. */
function scaleUnit(dtype: KvDtype): number {
  return dtype === 'int8' ? 1 / 128 : 1;
}

/** Random whole blocks, some megabytes, as they are in a pool: values, and behind them a block's scales. */
function poolPattern(shape: AttentionShape, random: () => number): Uint32Array<ArrayBuffer> {
  const blockWords = blockBytes(shape) / 4;
  const scaleWords = hasTokenScales(shape) ? 2 * shape.blockSize * shape.numKvHeads : 0;
  const [kept, set] = randomBits[shape.dtype];
  const words = new Uint32Array(blockWords * Math.max(1, Math.floor(2 ** 20 / blockWords)));
  const scales = new Float32Array(words.buffer);
  for (let i = 0; i < words.length; i++) {
    if (i % blockWords < blockWords - scaleWords) words[i] = (random() & kept) | set;
    else scales[i] = scaleUnit(shape.dtype) * (0.5 + random() / 2 ** 32);
  }
  return words;
}

/** Writes a pattern as often as it takes to fill a buffer. */
function fill({ device }: Gpu, buffer: GPUBuffer, pattern: Uint32Array<ArrayBuffer> | Float32Array<ArrayBuffer>): void {
  for (let at = 0; at < buffer.size; at += pattern.byteLength) {
    device.queue.writeBuffer(buffer, at, pattern, 0, Math.min(pattern.length, (buffer.size - at) / 4));
  }
}

/** Puts the free list out of order, so that neighbouring blocks of a sequence are not neighbours in memory. */
function shuffle({ blocks }: KvCache, random: () => number): void {
  const all = blocks.allocate(blocks.free);
  for (let i = all.length - 1; i > 0; i--) {
    const other = random() % (i + 1);
    [all[i], all[other]] = [all[other], all[i]];
  }
  blocks.release(all);
}

/** Random u32, the same in each run (xorshift, Marsaglia 2003). */
function randomWords(): () => number {
  let state = 0x9e3779b9;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}
