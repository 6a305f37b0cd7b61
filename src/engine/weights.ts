import { LimitExceededError, ModelFileError } from '../errors.ts';
import type { Gpu } from '../gpu.ts';
import type { ModelConfig } from './config.ts';
import { expectShape, type TensorIndex, type WeightDtype, type WeightTensor } from './safetensors.ts';

/** A weight matrix on the GPU: [rows][columns], row-major, in the file's own format. */
export interface Matrix {
  readonly buffer: GPUBuffer;
  readonly rows: number;
  readonly columns: number;
  readonly dtype: WeightDtype;
}

/** Offsets, in values, into `ModelWeights.biases` of a layer's biases. */
export interface LayerBiases {
  readonly qkv: number;
  readonly output: number;
  readonly gateUp: number;
  readonly down: number;
}

export interface LayerWeights {
  /** Query, key and value rows, one after the other. */
  readonly qkv: Matrix;
  readonly output: Matrix;
  /** Gate and up rows in turn: 2i is gate row i, 2i + 1 is up row i. */
  readonly gateUp: Matrix;
  readonly down: Matrix;
}

/** A model's weights on the GPU, in as many bytes as their file has. Owned by whoever loaded them: `destroy()`. */
export interface ModelWeights {
  readonly embedding: Matrix;
  readonly logits: Matrix;
  readonly layers: readonly LayerWeights[];
  /** f32 [2 * numLayers + 1][hiddenSize]: per layer before attention and before the feed-forward, then the last. */
  readonly gains: GPUBuffer;
  /** f32; all biases, zero where the model has none of a kind. */
  readonly biases: GPUBuffer;
  readonly layerBiases: readonly LayerBiases[];
  readonly bytes: number;
  destroy(): void;
}

/** Bytes read and written at a time. */
const sliceBytes = 8 << 20;

/** Bytes handed to the queue before it is given time to take them. */
const inFlightBytes = 128 << 20;

/**
 * Reads a Llama-family model's weights onto the GPU, slice by slice; 16-bit weights stay in 16 bits.
 *
 * @param onBytes progress, in bytes of tensors.
 * @throws {ModelFileError} for a missing or misshapen tensor. @throws {LimitExceededError} when a matrix cannot be bound.
 */
export async function loadWeights(
  gpu: Gpu,
  tensors: TensorIndex,
  config: ModelConfig,
  onBytes: (loaded: number, total: number) => void,
  signal?: AbortSignal,
): Promise<ModelWeights> {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, numLayers, vocabSize } = config;
  const upload = new Upload(gpu, tensors, onBytes, signal);
  try {
    const embedding = await upload.matrix(['model.embed_tokens.weight'], [vocabSize], hiddenSize);
    const logits = config.tieWordEmbeddings ? embedding : await upload.matrix(['lm_head.weight'], [vocabSize], hiddenSize);
    const gains: string[] = [];
    const layers: LayerWeights[] = [];
    const querySize = numHeads * headDim;
    const keySize = numKvHeads * headDim;
    for (let layer = 0; layer < numLayers; layer++) {
      const prefix = `model.layers.${layer}.`;
      const attention = (name: string) => `${prefix}self_attn.${name}_proj.weight`;
      const feedForward = (name: string) => `${prefix}mlp.${name}_proj.weight`;
      layers.push({
        qkv: await upload.matrix([attention('q'), attention('k'), attention('v')], [querySize, keySize, keySize], hiddenSize),
        output: await upload.matrix([attention('o')], [hiddenSize], querySize),
        gateUp: await upload.matrix(
          [feedForward('gate'), feedForward('up')],
          [intermediateSize, intermediateSize],
          hiddenSize,
          'interleaved',
        ),
        down: await upload.matrix([feedForward('down')], [hiddenSize], intermediateSize),
      });
      gains.push(`${prefix}input_layernorm.weight`, `${prefix}post_attention_layernorm.weight`);
    }
    gains.push('model.norm.weight');
    const gainValues = await Promise.all(gains.map((name) => upload.vector(name, hiddenSize)));
    const { values, layerBiases } = await readBiases(upload, config);
    return {
      embedding,
      logits,
      layers,
      gains: upload.floats(
        'gains',
        gainValues.flatMap((v) => [...v]),
      ),
      biases: upload.floats('biases', values),
      layerBiases,
      bytes: upload.bytes,
      destroy: () => upload.destroy(),
    };
  } catch (error) {
    upload.destroy();
    throw error;
  }
}

async function readBiases(upload: Upload, config: ModelConfig) {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, numLayers, attentionBias, mlpBias } = config;
  const values: number[] = [0];
  const layerBiases: LayerBiases[] = [];
  const add = async (present: boolean, parts: readonly (readonly [name: string, size: number])[], interleaved = false) => {
    const offset = values.length;
    if (!present) return 0;
    const read = await Promise.all(parts.map(([name, size]) => upload.vector(name, size)));
    if (interleaved) for (let i = 0; i < read[0].length; i++) values.push(...read.map((part) => part[i]));
    else for (const part of read) values.push(...part);
    return offset;
  };
  for (let layer = 0; layer < numLayers; layer++) {
    const attention = (name: string) => `model.layers.${layer}.self_attn.${name}_proj.bias`;
    const feedForward = (name: string) => `model.layers.${layer}.mlp.${name}_proj.bias`;
    const keySize = numKvHeads * headDim;
    layerBiases.push({
      qkv: await add(attentionBias, [
        [attention('q'), numHeads * headDim],
        [attention('k'), keySize],
        [attention('v'), keySize],
      ]),
      output: await add(attentionBias, [[attention('o'), hiddenSize]]),
      gateUp: await add(
        mlpBias,
        [
          [feedForward('gate'), intermediateSize],
          [feedForward('up'), intermediateSize],
        ],
        true,
      ),
      down: await add(mlpBias, [[feedForward('down'), hiddenSize]]),
    });
  }
  return { values, layerBiases };
}

/** Tensors on their way to the GPU, and the buffers made for them. */
class Upload {
  bytes = 0;
  readonly #gpu: Gpu;
  readonly #tensors: TensorIndex;
  readonly #onBytes: (loaded: number, total: number) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #buffers: GPUBuffer[] = [];
  readonly #total: number;
  #loaded = 0;
  #inFlight = 0;

  constructor(gpu: Gpu, tensors: TensorIndex, onBytes: (loaded: number, total: number) => void, signal: AbortSignal | undefined) {
    this.#gpu = gpu;
    this.#tensors = tensors;
    this.#onBytes = onBytes;
    this.#signal = signal;
    this.#total = tensors.bytes;
  }

  /** One matrix from tensors with the same columns: their rows one after the other, or in turn. */
  async matrix(
    names: readonly string[],
    rows: readonly number[],
    columns: number,
    order: 'stacked' | 'interleaved' = 'stacked',
  ): Promise<Matrix> {
    const parts = names.map((name) => this.#tensors.tensor(name));
    parts.forEach((part, i) => {
      expectShape(part, [rows[i], columns]);
      if (part.dtype === parts[0].dtype) return;
      throw new ModelFileError(part.file, `tensors ${names[0]} (${parts[0].dtype}) and ${part.name} (${part.dtype}) must have one dtype.`);
    });
    const { dtype } = parts[0];
    const rowBytes = columns * (dtype === 'f32' ? 4 : 2);
    const totalRows = rows.reduce((a, b) => a + b, 0);
    const buffer = this.#buffer(names.join(' + '), totalRows * rowBytes);
    if (order === 'interleaved') {
      await this.#interleave(parts, buffer, rows[0], rowBytes);
    } else {
      let offset = 0;
      for (const part of parts) {
        await this.#copy(part, buffer, offset);
        offset += part.byteLength;
      }
    }
    return { buffer, rows: totalRows, columns, dtype };
  }

  /** A small tensor, as f32 on the host. */
  async vector(name: string, size: number): Promise<Float32Array> {
    const tensor = this.#tensors.tensor(name);
    expectShape(tensor, [size]);
    this.#advance(tensor.byteLength);
    return toFloats(await tensor.read(), tensor.dtype);
  }

  /** A buffer of f32 values. */
  floats(label: string, values: readonly number[]): GPUBuffer {
    const data = new Float32Array(Math.ceil(values.length / 4) * 4);
    data.set(values);
    const buffer = this.#buffer(label, data.byteLength);
    this.#gpu.device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }

  destroy(): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }

  #buffer(label: string, size: number): GPUBuffer {
    for (const limit of ['maxStorageBufferBindingSize', 'maxBufferSize'] as const) {
      const granted = this.#gpu.limits[limit];
      if (size > granted)
        throw new LimitExceededError(`Tensor ${label}`, limit, size, granted, 'Use a smaller model, or an adapter with larger bindings.');
    }
    const buffer = this.#gpu.device.createBuffer({ label, size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
    this.#buffers.push(buffer);
    this.bytes += size;
    return buffer;
  }

  async #copy(tensor: WeightTensor, buffer: GPUBuffer, offset: number): Promise<void> {
    for (let start = 0; start < tensor.byteLength; start += sliceBytes) {
      const slice = await tensor.read(start, Math.min(start + sliceBytes, tensor.byteLength));
      await this.#write(buffer, offset + start, slice);
    }
  }

  async #interleave(parts: readonly WeightTensor[], buffer: GPUBuffer, rows: number, rowBytes: number): Promise<void> {
    const rowsAtOnce = Math.max(1, Math.floor(sliceBytes / (parts.length * rowBytes)));
    for (let first = 0; first < rows; first += rowsAtOnce) {
      const count = Math.min(rowsAtOnce, rows - first);
      const slices = await Promise.all(parts.map((part) => part.read(first * rowBytes, (first + count) * rowBytes)));
      const mixed = new Uint8Array(count * parts.length * rowBytes);
      for (let row = 0; row < count; row++) {
        slices.forEach((slice, part) => {
          mixed.set(slice.subarray(row * rowBytes, (row + 1) * rowBytes), (row * parts.length + part) * rowBytes);
        });
      }
      await this.#write(buffer, first * parts.length * rowBytes, mixed);
    }
  }

  async #write(buffer: GPUBuffer, offset: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#signal?.throwIfAborted();
    if (this.#gpu.loss) throw this.#gpu.loss;
    const { queue } = this.#gpu.device;
    queue.writeBuffer(buffer, offset, bytes);
    this.#inFlight += bytes.byteLength;
    if (this.#inFlight >= inFlightBytes) {
      this.#inFlight = 0;
      queue.submit([]);
      await queue.onSubmittedWorkDone();
    }
    this.#advance(bytes.byteLength);
  }

  #advance(bytes: number): void {
    this.#loaded += bytes;
    this.#onBytes(this.#loaded, this.#total);
  }
}

/** Widens little-endian values to f32. */
export function toFloats(bytes: Uint8Array<ArrayBuffer>, dtype: WeightDtype): Float32Array {
  if (dtype === 'f32') return new Float32Array(bytes.slice().buffer);
  const words = new Uint16Array(bytes.slice().buffer);
  if (dtype === 'bf16') return new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer);
  return Float32Array.from(words, halfToFloat);
}

function halfToFloat(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}
