import { fullKey, type KernelEntry, type Values } from './entry.ts';
import type { BufferArgument } from './kernel.ts';
import { argumentBytes, createBindGroup } from './pipelines.ts';

/** Mode `off`: see `LaunchCacheMode`. */
export class UncachedLaunches {
  readonly #device: GPUDevice;
  readonly #pipelines = new Map<KernelEntry, Map<string, GPUComputePipeline>>();
  readonly #uniforms: GPUBuffer[] = [];
  readonly #mirror = new ArrayBuffer(256);
  readonly #views = { f32: new Float32Array(this.#mirror), u32: new Uint32Array(this.#mirror), i32: new Int32Array(this.#mirror) };
  #used = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  findPipeline(entry: KernelEntry, values: Values): GPUComputePipeline | undefined {
    return this.#pipelines.get(entry)?.get(fullKey(entry.shape, values));
  }

  keepPipeline(entry: KernelEntry, values: Values, pipeline: GPUComputePipeline): GPUComputePipeline {
    const known = this.#pipelines.get(entry) ?? new Map<string, GPUComputePipeline>();
    this.#pipelines.set(entry, known.set(fullKey(entry.shape, values), pipeline));
    return pipeline;
  }

  record(
    pass: GPUComputePassEncoder,
    pipeline: GPUComputePipeline,
    entry: KernelEntry,
    values: Values,
    x: number,
    y: number,
    z: number,
  ): void {
    const { shape, kernel, layout } = entry;
    let argumentBuffer: BufferArgument | undefined;
    if (shape.perCall.length > 0) {
      const buffer = this.#uniform();
      for (let i = 0; i < shape.perCall.length; i++) this.#views[shape.perCall[i].type][i] = values[shape.perCall[i].name] as number;
      argumentBuffer = { buffer, offset: 0, size: argumentBytes(shape) };
      this.#device.queue.writeBuffer(buffer, 0, this.#mirror, 0, argumentBuffer.size);
    }
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, createBindGroup(this.#device, kernel, shape, layout, values, argumentBuffer));
    pass.dispatchWorkgroups(x, y, z);
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
