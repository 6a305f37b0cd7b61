import { frozenOf, fullKey, type KernelEntry, keysOf, selectorsOf, type Values } from './entry.ts';
import type { BufferArgument } from './kernel.ts';
import { createBindGroup, type Selectors } from './pipelines.ts';

/**
 * The path without prepared sites: the full key from all arguments, the pipeline from a Map, a pooled uniform, a new bind group for each
 * launch. Mode `off` goes it always; other modes go it where a prepared launch would be wrong or is not there.
 */
export class UncachedLaunches {
  readonly #device: GPUDevice;
  readonly #maxPipelines: number;
  readonly #pipelines = new Map<KernelEntry, Map<string, GPUComputePipeline>>();
  readonly #uniforms: GPUBuffer[] = [];
  readonly #mirror = new ArrayBuffer(256);
  readonly #views = { f32: new Float32Array(this.#mirror), u32: new Uint32Array(this.#mirror), i32: new Int32Array(this.#mirror) };
  #used = 0;
  #numPipelines = 0;

  /** @param maxPipelines how many it keeps; the one made first goes. */
  constructor(device: GPUDevice, maxPipelines: number) {
    this.#device = device;
    this.#maxPipelines = maxPipelines;
  }

  /** The pipeline for all of a call's selectors; `make` compiles it the first time. */
  pipeline(entry: KernelEntry, values: Values, make: (selectors: Selectors) => GPUComputePipeline): GPUComputePipeline {
    const known = this.#pipelines.get(entry) ?? new Map<string, GPUComputePipeline>();
    const key = fullKey(entry.shape, values);
    let pipeline = known.get(key);
    if (!pipeline) {
      pipeline = make(selectorsOf(entry.shape, frozenOf(entry.shape, values), keysOf(entry.shape, values)));
      if (this.#numPipelines++ === this.#maxPipelines) this.#dropFirst();
      this.#pipelines.set(entry, known.set(key, pipeline));
    }
    return pipeline;
  }

  /** Lets go of a pipeline. */
  forget(entry: KernelEntry, key: string): void {
    const known = this.#pipelines.get(entry);
    if (!known?.delete(key)) return;
    if (known.size === 0) this.#pipelines.delete(entry);
    this.#numPipelines--;
  }

  #dropFirst(): void {
    for (const [entry, [[key]]] of this.#pipelines) {
      this.forget(entry, key);
      return;
    }
  }

  /** Sets everything but the grid. */
  set(pass: GPUComputePassEncoder, pipeline: GPUComputePipeline, entry: KernelEntry, values: Values): void {
    const { shape, layout } = entry;
    let argumentBuffer: BufferArgument | undefined;
    for (const { name, type, word } of shape.perCall) this.#views[type][word] = values[name] as number;
    pass.setPipeline(pipeline);
    if (shape.argumentBytes > 0 && layout.path === 'immediates') {
      pass.setImmediates(0, this.#mirror, 0, shape.argumentBytes);
    } else if (shape.argumentBytes > 0) {
      argumentBuffer = { buffer: this.#uniform(), offset: 0, size: shape.argumentBytes };
      this.#device.queue.writeBuffer(argumentBuffer.buffer, 0, this.#mirror, 0, shape.argumentBytes);
    }
    pass.setBindGroup(0, createBindGroup(this.#device, shape, layout, values, argumentBuffer));
  }

  /** Uniforms in use go back to the pool once their submit is on the queue. */
  next(): void {
    this.#used = 0;
  }

  destroy(): void {
    for (const buffer of this.#uniforms) buffer.destroy();
  }

  #uniform(): GPUBuffer {
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    if (this.#used === this.#uniforms.length)
      this.#uniforms.push(this.#device.createBuffer({ label: 'pagewise uniform', size: 256, usage }));
    return this.#uniforms[this.#used++];
  }
}
