/** Enough of a device for what only counts: buffers have a size and no memory, writes are recorded, pipelines and passes do nothing. */
import { vi } from 'vitest';
import type { Gpu } from '../../src/gpu.ts';

export interface FakeGpu {
  readonly gpu: Gpu;
  /** Bytes of each buffer made, by label. */
  readonly sizes: Map<string, number>;
  /** Words of each `queue.writeBuffer`, in order. */
  readonly writes: Uint32Array[];
}

/** A device with WebGPU's default limits. Also gives the test WebGPU's globals of flags; undo it with `vi.unstubAllGlobals()`. */
export function fakeGpu(): FakeGpu {
  vi.stubGlobal('GPUBufferUsage', { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, UNIFORM: 64, STORAGE: 128 });
  vi.stubGlobal('GPUShaderStage', { COMPUTE: 4 });
  const sizes = new Map<string, number>();
  const writes: Uint32Array[] = [];
  const device = {
    createBuffer({ label, size, usage }: GPUBufferDescriptor) {
      sizes.set(label ?? '', size);
      return { size, usage, destroy() {} };
    },
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createShaderModule: () => ({}),
    createBindGroup: () => ({}),
    createComputePipelineAsync: async () => ({}),
    pushErrorScope() {},
    popErrorScope: async () => null,
    queue: {
      writeBuffer(_buffer: unknown, _offset: number, words: Uint32Array, begin: number, length: number) {
        writes.push(words.slice(begin, begin + length));
      },
    },
  };
  const limits = {
    maxBufferSize: 256 << 20,
    maxStorageBufferBindingSize: 128 << 20,
    maxComputeWorkgroupStorageSize: 16384,
    maxStorageBuffersPerShaderStage: 8,
    maxComputeWorkgroupsPerDimension: 65535,
  };
  const features = {
    shaderF16: false,
    subgroups: false,
    timestampQuery: false,
    subgroupMatrices: false,
    narrowMatrices: false,
    byteMatrices: false,
  };
  return {
    gpu: {
      device,
      limits,
      features,
      wgslLanguageFeatures: new Set(),
      adapter: { software: false },
      lost: new Promise(() => {}),
      loss: undefined,
    } as unknown as Gpu,
    sizes,
    writes,
  };
}

/** With the limits of an H200: tiles depend on the workgroup memory. */
export function largeGpu(): FakeGpu {
  const { gpu, ...seen } = fakeGpu();
  const limits = { maxBufferSize: 2 ** 32, maxStorageBufferBindingSize: 2 ** 31 - 4, maxComputeWorkgroupStorageSize: 49152 };
  return { ...seen, gpu: { ...gpu, limits: { ...gpu.limits, ...limits } } };
}

/** As those that have subgroups of 32 and their matrices. @param refused a kernel that does not compile */
export function matrixGpu(refused?: string): FakeGpu {
  const { gpu, ...seen } = largeGpu();
  const { device } = gpu;
  device.createShaderModule = () => ({ getCompilationInfo: async () => ({ messages: [] }) }) as unknown as GPUShaderModule;
  device.createComputePipelineAsync = async ({ label = '' }) => {
    if (label === refused) throw new Error('no such type');
    return {} as GPUComputePipeline;
  };
  const features = {
    shaderF16: true,
    subgroups: true,
    timestampQuery: false,
    subgroupMatrices: true,
    narrowMatrices: true,
    byteMatrices: true,
  };
  const wgslLanguageFeatures = new Set(['packed_4x8_integer_dot_product']);
  return { ...seen, gpu: { ...gpu, features, subgroupMinSize: 32, wgslLanguageFeatures } };
}

/** Of an adapter that nobody knows and that computes on no CPU. */
export function gpuWith(features: Partial<Gpu['features']>): Gpu {
  const { gpu } = fakeGpu();
  const adapter = { vendor: '', architecture: '', device: '', description: '', software: false };
  vi.unstubAllGlobals();
  return { ...gpu, adapter, features: { ...gpu.features, ...features } };
}

/** A pass that takes all and does nothing. */
export function fakePass(): GPUComputePassEncoder {
  return { setPipeline() {}, setBindGroup() {}, dispatchWorkgroups() {} } as unknown as GPUComputePassEncoder;
}
