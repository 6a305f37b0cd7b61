/** onnxruntime-web's grouped-query attention, from its native WebGPU execution provider, on our device and our buffers. */
import { env, InferenceSession, Tensor } from 'onnxruntime-web/jspi';
import type { Gpu } from 'pagewise';
import { fromHalves, toHalves } from './halves.ts';
import { layerNames, onnxModel, shapesOf } from './onnx-model.ts';
import { type OnnxruntimeLlama, type OnnxruntimeLlamaOptions, openOnnxruntimeLlama } from './onnxruntime-llama.ts';
import type { CompareCase, Subject } from './subject.ts';
import { makeContiguousCaches, readBytes, type Tensors } from './tensors.ts';

export { llamaModel } from './llama-graph.ts';

// One thread: it only records launches.
env.wasm.numThreads = 1;
env.logLevel = 'error';

/** onnxruntime-web's. */
export const version = env.versions.web;

/** A whole model, by the same build on our device. */
export function openLlama({ device }: Gpu, options: Omit<OnnxruntimeLlamaOptions, 'runtime' | 'device'>): Promise<OnnxruntimeLlama> {
  return openOnnxruntimeLlama({ ...options, runtime: { InferenceSession, Tensor }, device });
}

export async function openOnnxruntime(gpu: Gpu, one: CompareCase, tensors: Tensors): Promise<Subject> {
  const { device } = gpu;
  const { kv, layers } = one;
  const shapes = shapesOf(one);
  const options = { executionProviders: [{ name: 'webgpu', device }], graphOptimizationLevel: 'disabled' } as const;
  const session = await InferenceSession.create(onnxModel(one), options);
  const caches = await makeContiguousCaches(gpu, one, tensors);
  // Its activations are of the type of its cache.
  const { query, newKey, newValue } = tensors;
  const inputs =
    kv === 'f32' ? [query, newKey, newValue] : await Promise.all([query, newKey, newValue].map((input) => toHalves(device, input)));
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const output = device.createBuffer({ label: 'onnxruntime output', size: inputs[0].size, usage });
  const tensorOf = (buffer: GPUBuffer, dims: readonly number[]) =>
    Tensor.fromGpuBuffer(buffer, { dataType: kv === 'f16' ? 'float16' : 'float32', dims });
  const feeds: Record<string, Tensor> = {
    query: tensorOf(inputs[0], shapes.query),
    key: tensorOf(inputs[1], shapes.newKeyValue),
    value: tensorOf(inputs[2], shapes.newKeyValue),
  };
  const fetches: Record<string, Tensor> = {};
  for (let layer = 0; layer < layers; layer++) {
    const names = layerNames(layer);
    const key = tensorOf(caches.keys[layer % caches.keys.length], shapes.cache);
    const value = tensorOf(caches.values[layer % caches.values.length], shapes.cache);
    Object.assign(feeds, { [names.pastKey]: key, [names.pastValue]: value });
    Object.assign(fetches, {
      [names.output]: tensorOf(output, shapes.query),
      ...{ [names.presentKey]: key, [names.presentValue]: value },
    });
  }
  return {
    name: 'onnxruntime',
    notes: [
      `onnxruntime: onnxruntime-web ${version} (jspi), GroupQueryAttention of the WebGPU execution provider on the same device; past and present share their buffers; a step is one session.run, a node for each layer.`,
    ],
    async enqueue(count) {
      for (let step = 0; step < count; step++) await session.run(feeds, fetches);
    },
    async output() {
      const floats = kv === 'f32' ? output : await fromHalves(device, output);
      const read = new Float32Array(await readBytes(device, floats));
      if (floats !== output) floats.destroy();
      return read;
    },
    async destroy() {
      await session.release();
      caches.destroy();
      if (kv !== 'f32') for (const input of inputs) input.destroy();
      output.destroy();
    },
  };
}
