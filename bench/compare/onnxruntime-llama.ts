/** A Llama model decoded by onnxruntime-web on our device, as transformers.js does it. */
import { InferenceSession, Tensor } from 'onnxruntime-web/jspi';
import type { Gpu } from 'pagewise';
import type { ModelConfig } from 'pagewise/engine';
import { cacheNames, type LlamaType } from './llama-graph.ts';
import type { Decoded } from './whole-model.ts';

/** The token to go on with, from the logits f32 [vocabulary] of the step; called when they are on the host. */
export type ChooseToken = (logits: Float32Array, step: number) => number;

export interface OnnxruntimeLlama {
  /** Decodes from an empty cache, `count` tokens, whatever they are. */
  decode(promptIds: readonly number[], count: number, choose: ChooseToken): Promise<Decoded>;
  destroy(): Promise<void>;
}

/**
 * @param file of `llamaModel`.
 * @param capacity undefined: each step makes new caches, a token longer, on the GPU, and the old ones are dropped after it, as transformers.js does.
 * Otherwise the caches have room for so many tokens, past and present are the same buffers, and nothing is copied.
 */
export async function openOnnxruntimeLlama(
  gpu: Gpu,
  file: Uint8Array,
  config: ModelConfig,
  type: LlamaType,
  capacity?: number,
): Promise<OnnxruntimeLlama> {
  const { device } = gpu;
  const names = Array.from({ length: config.numLayers }, (_, layer) => cacheNames(layer)).flat();
  const session = await InferenceSession.create(file, {
    executionProviders: [{ name: 'webgpu', device }],
    preferredOutputLocation: Object.fromEntries(names.map(([, present]) => [present, 'gpu-buffer'] as const)),
  });
  const fixed = capacity === undefined ? undefined : fixedCaches(device, config, type, capacity, names.length);

  async function decode(promptIds: readonly number[], count: number, choose: ChooseToken): Promise<Decoded> {
    const started = performance.now();
    const ids: number[] = [];
    let firstToken = 0;
    let input = promptIds;
    let caches = fixed?.tensors ?? names.map(() => emptyCache(config, type));
    for (let step = 0; step < count; step++) {
      const past = Object.fromEntries(names.map(([name], i) => [name, caches[i]]));
      const feeds = { input_ids: tokens(input), attention_mask: tokens(Array(promptIds.length + step).fill(1)), ...past };
      const present = fixed?.tensors.map((tensor, i) => [names[i][1], tensor] as const);
      const outputs = present ? await session.run(feeds, { logits: null, ...Object.fromEntries(present) }) : await session.run(feeds);
      if (!fixed) {
        for (const cache of caches) cache.dispose();
        caches = names.map(([, name]) => outputs[name]);
      }
      ids.push(choose(outputs.logits.data as Float32Array, step));
      if (step === 0) firstToken = performance.now() - started;
      input = ids.slice(-1);
    }
    const rest = performance.now() - started - firstToken;
    if (!fixed) for (const cache of caches) cache.dispose();
    return { ids, firstToken, perToken: rest / (count - 1) };
  }

  return {
    decode,
    async destroy() {
      await session.release();
      fixed?.destroy();
    },
  };
}

/** i64 [1, count] */
function tokens(values: readonly number[]): Tensor {
  return new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
}

function emptyCache({ numKvHeads, headDim }: ModelConfig, type: LlamaType): Tensor {
  const dims = [1, numKvHeads, 0, headDim];
  return type === 'f32' ? new Tensor('float32', new Float32Array(0), dims) : new Tensor('float16', new Uint16Array(0), dims);
}

function fixedCaches(device: GPUDevice, { numKvHeads, headDim }: ModelConfig, type: LlamaType, capacity: number, count: number) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const size = numKvHeads * capacity * headDim * (type === 'f32' ? 4 : 2);
  const buffers = Array.from({ length: count }, () => device.createBuffer({ label: 'onnxruntime cache', size, usage }));
  const dataType = type === 'f32' ? 'float32' : 'float16';
  const tensors = buffers.map((buffer) => Tensor.fromGpuBuffer(buffer, { dataType, dims: [1, numKvHeads, capacity, headDim] }));
  return {
    tensors: tensors as readonly Tensor[],
    destroy: () => {
      for (const buffer of buffers) buffer.destroy();
    },
  };
}
