/** What memory holds that nobody may read: words of all bits set, NaN in every float format. */
import type { Gpu } from '../../src/index.ts';

export const poisonWord = 0xffffffff;

const shader = /* wgsl */ `
override fills: bool;
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> others: atomic<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  var count = 0u;
  for (var i = id.x; i < arrayLength(&words); i += grid.x * 256u) {
    if (fills) {
      words[i] = ${poisonWord}u;
    } else if (words[i] != ${poisonWord}u) {
      count++;
    }
  }
  if (count > 0u) {
    atomicAdd(&others, count);
  }
}`;

interface Pipelines {
  readonly fill: GPUComputePipeline;
  readonly count: GPUComputePipeline;
  readonly nothing: GPUBuffer;
}
const pipelines = new WeakMap<GPUDevice, Pipelines>();

function pipelinesOf({ device }: Gpu): Pipelines {
  const known = pipelines.get(device);
  if (known) return known;
  const module = device.createShaderModule({ label: 'poison', code: shader });
  const types = ['storage', 'storage'] as const;
  const entries = types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
  const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
  const make = (fills: boolean) =>
    device.createComputePipeline({ layout, compute: { module, entryPoint: 'main', constants: { fills: fills ? 1 : 0 } } });
  const made = { fill: make(true), count: make(false), nothing: device.createBuffer({ size: 4, usage: GPUBufferUsage.STORAGE }) };
  pipelines.set(device, made);
  return made;
}

function record(gpu: Gpu, encoder: GPUCommandEncoder, pipeline: GPUComputePipeline, buffer: GPUBuffer, others: GPUBuffer): void {
  const layout = pipeline.getBindGroupLayout(0);
  const entries = [buffer, others].map((resource, binding) => ({ binding, resource: { buffer: resource } }));
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, gpu.device.createBindGroup({ layout, entries }));
  pass.dispatchWorkgroups(Math.min(65_535, Math.ceil(buffer.size / 1024)));
  pass.end();
}

/** Overwrites a storage buffer. */
export function recordPoison(gpu: Gpu, encoder: GPUCommandEncoder, buffer: GPUBuffer): void {
  const { fill, nothing } = pipelinesOf(gpu);
  record(gpu, encoder, fill, buffer, nothing);
}

/** Adds the number of a storage buffer's words that are not poison to the u32 in `others`. */
export function recordCount(gpu: Gpu, encoder: GPUCommandEncoder, buffer: GPUBuffer, others: GPUBuffer): void {
  record(gpu, encoder, pipelinesOf(gpu).count, buffer, others);
}
