import type { Gpu } from 'pagewise';
import { filesFrom, type ModelConfig } from 'pagewise/engine';
import { parseModelConfig } from '../../src/engine/config.ts';
import { readJson } from '../../src/engine/files.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { type LayerWeights, loadWeights, type Matrix, type ModelWeights } from '../../src/engine/weights.ts';
import type { BenchHost } from '../report.ts';

/** A model on the GPU. */
export interface BenchModel {
  readonly name: string;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
}

export function shippedFiles(host: BenchHost) {
  return filesFrom('demo/model', (name) => host.readFile(`demo/model/${name}`).catch(() => undefined));
}

export async function shippedModel(gpu: Gpu, host: BenchHost): Promise<BenchModel> {
  const files = shippedFiles(host);
  const config = parseModelConfig(await readJson(files, 'config.json'));
  const tensors = await openSafetensors(files, () => {});
  try {
    return { name: 'shipped', config, weights: await loadWeights(gpu, tensors, config, () => {}) };
  } finally {
    tensors.close();
  }
}

/** Four layers of the widths of a model of a billion parameters. */
const billion = { hiddenSize: 2048, intermediateSize: 5632, numLayers: 4, numHeads: 16, numKvHeads: 8, headDim: 128 };

/** The shipped model with other sizes and random weights. Its text is nonsense and its work is not. */
export function syntheticModel(gpu: Gpu, shipped: ModelConfig, sizes: Partial<ModelConfig> = billion): BenchModel {
  const config: ModelConfig = { ...shipped, ...sizes };
  const { hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim, vocabSize } = config;
  const buffers: GPUBuffer[] = [];
  const buffer = (bytes: number): GPUBuffer => {
    const made = gpu.device.createBuffer({ label: 'bench', size: bytes, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
    buffers.push(made);
    return made;
  };
  const noise = halfNoise(1 << 20);
  const matrix = (rows: number, columns: number): Matrix => {
    const made = buffer(rows * columns * 2);
    for (let at = 0; at < made.size; at += noise.byteLength)
      gpu.device.queue.writeBuffer(made, at, noise.buffer, 0, Math.min(noise.byteLength, made.size - at));
    return { buffer: made, rows, columns, dtype: 'f16' };
  };
  const layers = Array.from(
    { length: numLayers },
    (): LayerWeights => ({
      qkv: matrix((numHeads + 2 * numKvHeads) * headDim, hiddenSize),
      output: matrix(hiddenSize, numHeads * headDim),
      gateUp: matrix(2 * intermediateSize, hiddenSize),
      down: matrix(hiddenSize, intermediateSize),
    }),
  );
  const embedding = matrix(vocabSize, hiddenSize);
  const gains = buffer((2 * numLayers + 1) * hiddenSize * 4);
  gpu.device.queue.writeBuffer(gains, 0, new Float32Array(gains.size / 4).fill(1));
  const weights: ModelWeights = {
    ...{ embedding, logits: embedding, layers, gains, biases: buffer(16) },
    layerBiases: layers.map(() => ({ qkv: 0, output: 0, gateUp: 0, down: 0 })),
    bytes: buffers.reduce((sum, { size }) => sum + size, 0),
    destroy: () => buffers.forEach((one) => void one.destroy()),
  };
  return { name: 'synthetic', config, weights };
}

/** Numbers within 1/32 of zero, in the bits of f16: a sign, an exponent of 2^-7 to 2^-6 and ten bits at random. */
export function halfNoise(count: number): Uint16Array<ArrayBuffer> {
  const values = new Uint16Array(count);
  let state = 1;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = ((state >>> 16) & 0x8000) | ((8 + ((state >>> 30) & 1)) << 10) | ((state >>> 13) & 0x3ff);
  }
  return values;
}
