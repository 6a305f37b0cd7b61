/** A Llama model decoded by onnxruntime-web, as transformers.js does it. */
import type * as Onnxruntime from 'onnxruntime-web';
import type { ModelConfig } from 'pagewise/engine';
import { cacheNames, type LlamaType } from './llama-graph.ts';

/** A generation, in milliseconds. */
export interface Decoded {
  readonly ids: readonly number[];
  /** From the request to the first token on the host. */
  readonly firstToken: number;
  /** From the first token to the last, for each after the first. */
  readonly perToken: number;
}

/** The token to go on with, from the logits f32 [vocabulary] of a step, which are on the host. */
export type ChooseToken = (logits: Float32Array, step: number) => number;

export interface OnnxruntimeLlama {
  /** Decodes from an empty cache, `count` tokens, whatever they are. */
  decode(promptIds: readonly number[], count: number, choose: ChooseToken): Promise<Decoded>;
  destroy(): Promise<void>;
}

export interface OnnxruntimeLlamaOptions {
  /** One of onnxruntime-web's builds. */
  readonly runtime: Pick<typeof Onnxruntime, 'InferenceSession' | 'Tensor'>;
  /** Runs the model and keeps the caches; without it all is done on the host's processor. */
  readonly device?: GPUDevice;
  /** Of `llamaModel`. */
  readonly file: Uint8Array;
  readonly config: ModelConfig;
  readonly type: LlamaType;
  /**
   * Without it each step makes new caches, a token longer, and the old ones are dropped after it, as transformers.js does. With it the caches have
   * room for so many tokens, past and present are the same buffers of the device, and nothing is copied.
   */
  readonly capacity?: number;
}

/** Sets up a session and, where they are of a fixed length, its caches. */
export async function openOnnxruntimeLlama(options: OnnxruntimeLlamaOptions): Promise<OnnxruntimeLlama> {
  const { runtime, device, file, config, capacity } = options;
  const { Tensor } = runtime;
  const names = Array.from({ length: config.numLayers }, (_, layer) => cacheNames(layer)).flat();
  const session = await runtime.InferenceSession.create(file, {
    ...{ executionProviders: [device ? { name: 'webgpu', device } : 'wasm'], logSeverityLevel: 3 },
    ...(device ? { preferredOutputLocation: Object.fromEntries(names.map(([, present]) => [present, 'gpu-buffer'] as const)) } : {}),
  });
  const fixed = device && capacity !== undefined ? fixedCaches(options, device, capacity, names.length) : undefined;
  const fetches = fixed && { logits: null, ...Object.fromEntries(fixed.tensors.map((tensor, i) => [names[i][1], tensor])) };
  const tokens = (values: readonly number[]) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
  return {
    async decode(promptIds, count, choose) {
      const started = performance.now();
      const ids: number[] = [];
      let firstToken = 0;
      let input = promptIds;
      let caches = fixed?.tensors ?? names.map(() => emptyCache(options));
      for (let step = 0; step < count; step++) {
        const past = Object.fromEntries(names.map(([name], i) => [name, caches[i]]));
        const feeds = { input_ids: tokens(input), attention_mask: tokens(Array(promptIds.length + step).fill(1)), ...past };
        const outputs = fetches ? await session.run(feeds, fetches) : await session.run(feeds);
        if (!fixed) {
          for (const cache of caches) cache.dispose();
          caches = names.map(([, present]) => outputs[present]);
        }
        ids.push(choose(outputs.logits.data as Float32Array, step));
        if (step === 0) firstToken = performance.now() - started;
        input = ids.slice(-1);
      }
      const rest = performance.now() - started - firstToken;
      if (!fixed) for (const cache of caches) cache.dispose();
      return { ids, firstToken, perToken: rest / (count - 1) };
    },
    async destroy() {
      await session.release();
      fixed?.destroy();
    },
  };
}

function emptyCache({ runtime: { Tensor }, config: { numKvHeads, headDim }, type }: OnnxruntimeLlamaOptions): Onnxruntime.Tensor {
  const dims = [1, numKvHeads, 0, headDim];
  return type === 'f32' ? new Tensor('float32', new Float32Array(0), dims) : new Tensor('float16', new Uint16Array(0), dims);
}

function fixedCaches({ runtime, config, type }: OnnxruntimeLlamaOptions, device: GPUDevice, capacity: number, count: number) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const dims = [1, config.numKvHeads, capacity, config.headDim];
  const size = config.numKvHeads * capacity * config.headDim * (type === 'f32' ? 4 : 2);
  const buffers = Array.from({ length: count }, () => device.createBuffer({ label: 'onnxruntime cache', size, usage }));
  const dataType = type === 'f32' ? 'float32' : 'float16';
  const tensors: readonly Onnxruntime.Tensor[] = buffers.map((buffer) => runtime.Tensor.fromGpuBuffer(buffer, { dataType, dims }));
  return {
    tensors,
    destroy: () => {
      for (const buffer of buffers) buffer.destroy();
    },
  };
}
