/** Kernels of a few lines, for the specs of the launch cache. */
import {
  bucket,
  defineKernel,
  frozen,
  type Gpu,
  gridCount,
  key,
  LaunchCache,
  type LaunchCacheOptions,
  perCall,
  readBuffer,
  writeBuffer,
} from '../../src/index.ts';
import { type SpecContext, uploadBuffer } from '../harness/harness.ts';

/** A cache that goes with the spec. */
export function openCache(t: SpecContext, options: LaunchCacheOptions = {}, gpu = t.gpu): LaunchCache {
  const cache = new LaunchCache(gpu, options);
  t.defer(() => cache.destroy());
  return cache;
}

/** A buffer of so many f32, all -77. */
export const poisoned = (t: SpecContext, length: number, gpu = t.gpu) =>
  uploadBuffer(t, new Float32Array(length).fill(-77), undefined, gpu);

/** output[place, place + count) = value */
export const setKernel = defineKernel({
  name: 'set',
  source: [
    `struct Arguments { place: u32, value: f32 }
    @group(0) @binding(0) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main(@builtin(workgroup_id) workgroup: vec3u) {
      output[args.place + workgroup.x] = args.value;
    }`,
  ],
  arguments: { output: writeBuffer, place: perCall('u32'), value: perCall('f32'), count: gridCount },
  workgroups: { x: ({ count }) => count },
  singleVariant: true,
});

/** output[place] = input[place] * sin(angle) + offset, of all three types of per-call values. */
export const mixKernel = defineKernel({
  name: 'mix',
  source: [
    `struct Arguments { angle: f32, offset: i32, place: u32 }
    @group(0) @binding(0) var<storage, read> input: array<f32>;
    @group(0) @binding(1) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() {
      output[args.place] = input[args.place] * sin(args.angle) + f32(args.offset);
    }`,
  ],
  arguments: { input: readBuffer, angle: perCall('f32'), output: writeBuffer, offset: perCall('i32'), place: perCall('u32') },
  workgroups: { x: () => 1 },
  singleVariant: true,
});

/** output[place] = 1000 a + b, where a and b select the pipeline. */
export const keyedKernel = defineKernel({
  name: 'keyed',
  source: [
    `struct Arguments { place: u32 }
    override a: u32;
    override b: u32;
    @group(0) @binding(0) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() {
      output[args.place] = f32(1000u * a + b);
    }`,
  ],
  arguments: { output: writeBuffer, a: key('u32'), b: key('u32'), place: perCall('u32') },
  workgroups: { x: () => 1 },
});

/** output[place] = 22 where the size is a multiple of 4, else 11: from an override and from the prelude. */
export const bucketKernel = defineKernel({
  name: 'bucketed',
  source: [
    `struct Arguments { place: u32 }
    override size: bool;
    @group(0) @binding(0) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() {
      output[args.place] = f32(select(1u, 2u, size)) + sizeInPrelude;
    }`,
  ],
  prelude: ({ size }) => `const sizeInPrelude = ${size === true ? 20 : size === false ? 10 : 0}.0;`,
  arguments: { output: writeBuffer, size: bucket('bool', (size) => size % 4 === 0), place: perCall('u32') },
  workgroups: { x: () => 1 },
});

/** output[place] = value * factor, the factor being frozen. */
export const frozenKernel = defineKernel({
  name: 'frozen',
  source: [
    `struct Arguments { place: u32, value: f32 }
    override factor: f32;
    @group(0) @binding(0) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() {
      output[args.place] = args.value * factor;
    }`,
  ],
  arguments: { output: writeBuffer, factor: frozen('f32'), place: perCall('u32'), value: perCall('f32') },
  workgroups: { x: () => 1 },
});

/** Records into one pass of one encoder. */
export function encode(gpu: Gpu, record: (pass: GPUComputePassEncoder) => void): GPUCommandBuffer {
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  record(pass);
  pass.end();
  return encoder.finish();
}

/** Records into one pass and submits it. */
export function submit(cache: LaunchCache, record: (pass: GPUComputePassEncoder) => void): void {
  cache.submit([encode(cache.gpu, record)]);
}
