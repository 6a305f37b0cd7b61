/** Steps of fixed shapes, recorded and not submitted, and what they ask of the GPU. */
import { parseModelConfig } from '../../src/engine/config.ts';
import { readJson } from '../../src/engine/files.ts';
import type { ModelFiles } from '../../src/engine/index.ts';
import { LlamaModel } from '../../src/engine/model.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import type { SamplingParameters } from '../../src/engine/sampling.ts';
import { loadWeights } from '../../src/engine/weights.ts';
import {
  type AdapterDescription,
  type Gpu,
  KvCache,
  type KvDtype,
  LaunchCache,
  type LaunchCacheOptions,
  PagedAttention,
  type PagedAttentionOptions,
} from '../../src/index.ts';
import { type Work, WorkWatch } from './work.ts';

/** (queryLen, seqLen) of each sequence of a step; its context is in the cache already. */
export type Lengths = readonly (readonly [queryLen: number, seqLen: number])[];

export const all = (count: number, queryLen: number, seqLen: number): Lengths => Array.from({ length: count }, () => [queryLen, seqLen]);

export interface ShippedStep {
  readonly name: string;
  readonly lengths: Lengths;
  /** What the first sequence asks of sampling; the others are greedy. */
  readonly sample?: Partial<SamplingParameters>;
  readonly work: Work;
}

/** Steps of the shipped model, KV in f32, on a device with WebGPU's default limits. */
export const shippedSteps: readonly ShippedStep[] = [
  {
    name: 'decode, batch 1',
    lengths: all(1, 1, 100),
    work: {
      writes: 1,
      bytesWritten: 184,
      kernels: {
        embed: { grids: { '1 1 1': 1 }, bound: 2_816_096 },
        matvec: { grids: { '1 384 1': 6, '1 160 1': 12, '1 768 1': 6, '1 1024 1': 1 }, bound: 30_447_424 },
        append: { grids: { '1 1 1': 6 }, bound: 31_740_192 },
        decode: { grids: { '2 1 1': 6 }, bound: 34_413_408 },
        sample: { grids: { '1 1 1': 1 }, bound: 161_984 },
      },
    },
  },
  {
    name: 'decode, batch 1, a new block, keys in eight parts',
    lengths: all(1, 1, 497),
    work: {
      writes: 1,
      bytesWritten: 372,
      kernels: {
        'update block table': { grids: { '1 1 1': 1 }, bound: 32_784 },
        embed: { grids: { '1 1 1': 1 }, bound: 2_816_096 },
        matvec: { grids: { '1 384 1': 6, '1 160 1': 12, '1 768 1': 6, '1 1024 1': 1 }, bound: 30_447_424 },
        append: { grids: { '1 1 1': 6 }, bound: 31_740_192 },
        decode: { grids: { '2 8 1': 6 }, bound: 34_413_408 },
        merge: { grids: { '1 8 1': 6 }, bound: 5_204_160 },
        sample: { grids: { '1 1 1': 1 }, bound: 161_984 },
      },
    },
  },
  {
    name: 'decode, batch 8',
    lengths: all(8, 1, 100),
    work: {
      writes: 1,
      bytesWritten: 884,
      kernels: {
        embed: { grids: { '1 8 1': 1 }, bound: 2_816_096 },
        matvec: { grids: { '1 384 1': 6, '1 160 1': 12, '1 768 1': 6, '1 512 1': 1 }, bound: 30_447_424 },
        append: { grids: { '2 1 1': 6 }, bound: 31_740_192 },
        decode: { grids: { '2 8 1': 6 }, bound: 34_413_408 },
        sample: { grids: { '8 1 1': 1 }, bound: 161_984 },
      },
    },
  },
  {
    name: 'decode, batch 8, one row with a penalty, a bias and a log-probability',
    lengths: all(8, 1, 100),
    sample: { frequencyPenalty: 1, logitBias: [[5, 1]], logprobs: 0 },
    work: {
      writes: 2,
      bytesWritten: 940,
      kernels: {
        embed: { grids: { '1 8 1': 1 }, bound: 2_816_096 },
        matvec: { grids: { '1 384 1': 6, '1 160 1': 12, '1 768 1': 6, '1 512 1': 1 }, bound: 30_447_424 },
        append: { grids: { '2 1 1': 6 }, bound: 31_740_192 },
        decode: { grids: { '2 8 1': 6 }, bound: 34_413_408 },
        'sample, adjusted': { grids: { '8 1 1': 1 }, bound: 305_560 },
      },
    },
  },
  {
    name: 'prefill of 128',
    lengths: all(1, 128, 128),
    work: {
      writes: 1,
      bytesWritten: 5_564,
      kernels: {
        'update block table': { grids: { '1 1 1': 1 }, bound: 32_784 },
        embed: { grids: { '1 128 1': 1 }, bound: 2_816_096 },
        matvec: { grids: { '16 48 1': 6, '16 20 1': 12, '16 96 1': 6, '1 1024 1': 1 }, bound: 30_447_424 },
        append: { grids: { '32 1 1': 6 }, bound: 31_740_192 },
        prefill: { grids: { '32 2 1': 6 }, bound: 34_413_408 },
        sample: { grids: { '1 1 1': 1 }, bound: 161_984 },
      },
    },
  },
];

type OpenPass = () => GPUComputePassEncoder;

/** An adapter that nobody knows: it takes what GPUs do by default. */
const anyHardware: AdapterDescription = { vendor: '', architecture: '', device: '', description: '', software: false };

export interface ShippedWorkOptions {
  /** Kernels by matrices where the device has them; default false: the same work on every device. */
  readonly subgroupMatrices?: boolean;
  readonly onEvent?: LaunchCacheOptions['onEvent'];
}

/** Steps of the shipped model, with the kernels of graphics processors whatever the adapter is. Nothing is submitted. */
export class ShippedWork {
  readonly #watch: WorkWatch;
  readonly #kv: KvCache;
  readonly #model: LlamaModel;
  readonly #destroy: () => void;

  static async open(gpu: Gpu, files: ModelFiles, { subgroupMatrices = false, onEvent }: ShippedWorkOptions = {}): Promise<ShippedWork> {
    const hardware: Gpu = Object.create(gpu, { adapter: { value: anyHardware } });
    const watch = new WorkWatch(hardware);
    const config = parseModelConfig(await readJson(files, 'config.json'));
    const tensors = await openSafetensors(files);
    const weights = await loadWeights(hardware, tensors, config, () => {});
    tensors.close();
    const { numLayers, numKvHeads, headDim } = config;
    const kv = new KvCache(hardware, {
      ...{ numLayers, numKvHeads, headDim, blockSize: 16, dtype: 'f32' },
      ...{ numBlocks: 257, maxSequences: 8, maxBlocksPerSequence: 64 },
    });
    const cache = new LaunchCache(hardware, { onEvent });
    const model = await LlamaModel.create(cache, kv, config, weights, { maxTokensPerStep: 128, maxLogitRows: 8, subgroupMatrices });
    return new ShippedWork(watch, kv, model, () => {
      for (const owned of [model, cache, kv, weights]) owned.destroy();
    });
  }

  private constructor(watch: WorkWatch, kv: KvCache, model: LlamaModel, destroy: () => void) {
    this.#watch = watch;
    this.#kv = kv;
    this.#model = model;
    this.#destroy = destroy;
  }

  step({ lengths, sample: first = {} }: Pick<ShippedStep, 'lengths' | 'sample'>, openPass: OpenPass): Work {
    const sample = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [0] };
    const sequences = lengths.map(() => this.#kv.open());
    lengths.forEach(([queryLen, seqLen], i) => void this.#kv.extend(sequences[i], seqLen - queryLen));
    this.#model.plan([]); // the context's blocks
    this.#model.record(openPass());
    this.#watch.take();
    lengths.forEach(([queryLen], i) => void this.#kv.extend(sequences[i], queryLen));
    this.#model.plan(
      lengths.map(([queryLen], i) => ({
        ...{ sequence: sequences[i], queryLen, sample: i === 0 ? { ...sample, ...first } : sample, first: queryLen > 1 },
        tokens: queryLen > 1 ? Array<number>(queryLen).fill(5) : undefined,
      })),
    );
    this.#model.record(this.#watch.watch(openPass()));
    for (const sequence of sequences) this.#kv.close(sequence);
    return this.#watch.take();
  }

  destroy(): void {
    this.#destroy();
  }
}

export interface AttentionWorkOptions extends Partial<PagedAttentionOptions> {
  /** Keys that the sequences have in common. */
  readonly shared?: number;
}

/** One layer of attention, 32 query heads, if not told otherwise, over 8 KV heads of 128, in blocks of 16. */
export async function attentionWork(
  gpu: Gpu,
  lengths: Lengths,
  dtype: KvDtype,
  openPass: OpenPass,
  options: AttentionWorkOptions = {},
): Promise<Work> {
  const { shared = 0, numHeads = 32, ...more } = options;
  const watch = new WorkWatch(gpu);
  const numTokens = lengths.reduce((sum, [queryLen]) => sum + queryLen, 0);
  const blocks = lengths.map(([, seqLen]) => Math.ceil(seqLen / 16));
  const kv = new KvCache(gpu, {
    ...{ numLayers: 1, numKvHeads: 8, headDim: 128, blockSize: 16, dtype, maxSequences: lengths.length + 1 },
    ...{ numBlocks: blocks.reduce((sum, count) => sum + count, 1), maxBlocksPerSequence: Math.max(...blocks) },
  });
  // A GPU's workgroups, whatever the adapter is.
  const attentionOptions = { numHeads, maxTokensPerStep: numTokens, maxInvocations: 256, ...more };
  const attention = new PagedAttention(new LaunchCache(gpu), kv, attentionOptions);
  const rows = (heads: number) => gpu.device.createBuffer({ size: numTokens * heads * 128 * 4, usage: GPUBufferUsage.STORAGE });
  const [layer] = await Promise.all([
    attention.prepareLayer(0, { query: rows(numHeads), key: rows(8), value: rows(8), output: rows(numHeads) }),
    attention.prepare(),
  ]);
  const prefix = kv.open();
  kv.extend(prefix, shared);
  const sequences = lengths.map(([queryLen, seqLen]) => {
    const sequence = kv.fork(prefix);
    kv.extend(sequence, seqLen - queryLen - shared);
    return sequence;
  });
  attention.plan([]);
  attention.write(); // the context's blocks
  attention.updateTables(openPass());
  lengths.forEach(([queryLen], i) => void kv.extend(sequences[i], queryLen));
  watch.take();
  attention.plan(lengths.map(([queryLen], i) => ({ sequence: sequences[i], queryLen })));
  attention.write();
  const pass = watch.watch(openPass());
  attention.updateTables(pass);
  layer.append(pass);
  layer.attend(pass);
  return watch.take();
}
