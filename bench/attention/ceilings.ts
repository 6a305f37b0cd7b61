/** What the GPU can do at best: the shares of the attention bench are of these. */
import { defineKernel, type Gpu, LaunchCache, perCall, readBuffer, writeBuffer } from 'pagewise';
import { matrixDirectives } from '../../src/matrices.ts';
import { median } from '../report.ts';
import { passTimer, sampleWarm } from '../timestamps.ts';
import { fillNormals } from './hash.ts';

export interface Ceilings {
  /** Bytes per second that a kernel reads. */
  readonly read: number;
  /** f32 operations per second in registers; a multiplication and an addition are two. */
  readonly fma: number;
  /** f16 operations per second of subgroup matrices in registers, with f32 sums; undefined where there are none. */
  readonly matrices: number | undefined;
}

const readKernel = defineKernel({
  name: 'read',
  source: [
    `struct Arguments { length: u32 }
    @group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
    @group(0) @binding(1) var<storage, read_write> sink: array<u32>;
    @compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
      var sum = vec4<u32>(0u);
      let stride = grid.x * 256u;
      for (var i = id.x; i < args.length; i += 4u * stride) {
        sum += source[i] ^ source[i + stride] ^ source[i + 2u * stride] ^ source[i + 3u * stride];
      }
      if (sum.x == 1u && sum.y == 2u && sum.z == 3u) { sink[0] = sum.w; }
    }`,
  ],
  arguments: { source: readBuffer, sink: writeBuffer, length: perCall('u32') },
  workgroups: { x: () => 2048 },
  singleVariant: true,
});

const chains = 8;
const fmaKernel = defineKernel({
  name: 'fma',
  source: [
    `struct Arguments { rounds: u32, factor: f32 }
    @group(0) @binding(0) var<storage, read_write> sink: array<f32>;
    @compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u) {
      let f = vec4f(args.factor);
      ${Array.from({ length: chains }, (_, i) => `var v${i} = vec4f(f32(id.x + ${i}u));`).join(' ')}
      for (var r = 0u; r < args.rounds; r++) {
        ${Array.from({ length: chains }, (_, i) => `v${i} = fma(v${i}, f, f);`).join(' ')}
      }
      let sum = ${Array.from({ length: chains }, (_, i) => `v${i}`).join(' + ')};
      if (sum.x == 1.5 && sum.y == 2.5) { sink[0] = sum.z + sum.w; }
    }`,
  ],
  arguments: { sink: writeBuffer, rounds: perCall('u32'), factor: perCall('f32') },
  workgroups: { x: () => 8192 },
  singleVariant: true,
});

const matrixChains = 8;
const matrixKernel = defineKernel({
  name: 'matrices',
  source: [
    `struct Arguments { rounds: u32 }
    alias Left = subgroup_matrix_left<f16, 16, 16>;
    alias Right = subgroup_matrix_right<f16, 16, 16>;
    alias Result = subgroup_matrix_result<f32, 16, 16>;
    @group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
    @group(0) @binding(1) var<storage, read_write> sink: array<f32>;
    var<workgroup> operands: array<vec4<u32>, 128>;
    var<workgroup> results: array<f32, 1024>;
    @compute @workgroup_size(128) fn main(@builtin(local_invocation_index) local: u32, @builtin(subgroup_id) subgroup: u32) {
      operands[local] = source[local] & vec4<u32>(0x8fff8fffu);
      workgroupBarrier();
      let left = subgroupMatrixLoad<Left, row_major>(&operands, 0u, 2u);
      let right = subgroupMatrixLoad<Right, row_major>(&operands, 32u, 2u);
      ${Array.from({ length: matrixChains }, (_, i) => `var r${i} = Result(0.0);`).join(' ')}
      for (var r = 0u; r < args.rounds; r++) {
        ${Array.from({ length: matrixChains }, (_, i) => `r${i} = subgroupMatrixMultiplyAccumulate(left, right, r${i});`).join(' ')}
      }
      var sum = 0.0;
      ${Array.from({ length: matrixChains }, (_, i) => `subgroupMatrixStore<row_major>(&results, subgroup * 256u, r${i}, 16u); workgroupBarrier(); sum += results[local]; workgroupBarrier();`).join('\n')}
      if (sum == 1.5) { sink[0] = sum; }
    }`,
  ],
  directives: () => matrixDirectives,
  arguments: { source: readBuffer, sink: writeBuffer, rounds: perCall('u32') },
  workgroups: { x: () => 8192 },
  singleVariant: true,
});

export async function measureCeilings(gpu: Gpu, rounds: number): Promise<Ceilings> {
  const { device, limits, adapter, features } = gpu;
  const cache = new LaunchCache(gpu);
  const timer = passTimer(gpu);
  const largest = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize, 2 ** 30);
  const size = adapter.software ? Math.min(largest, 2 ** 26) : 2 ** Math.floor(Math.log2(largest));
  const source = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE });
  const sink = device.createBuffer({ size: 256, usage: GPUBufferUsage.STORAGE });
  try {
    await fillNormals(gpu, source, 1);
    const readArgs = { source, sink, length: size / 16 };
    const fmaArgs = { sink, rounds: adapter.software ? 8 : 512, factor: 0.5 };
    const read = await cache.prepare(readKernel, readArgs);
    const fma = await cache.prepare(fmaKernel, fmaArgs);
    const submit = (commands: GPUCommandBuffer) => cache.submit([commands]);
    const best = async (record: (pass: GPUComputePassEncoder) => void) => {
      const sample = async (times: number) => {
        const repeat = (pass: GPUComputePassEncoder) => {
          for (let i = 0; i < times; i++) record(pass);
        };
        return (await timer.time(repeat, submit)) / times;
      };
      return median(await sampleWarm(rounds, adapter.software, sample)) / 1000;
    };
    const repeats = adapter.software ? 1 : 8;
    const readTime = await best((pass) => {
      for (let i = 0; i < repeats; i++) read.record(pass, readArgs);
    });
    const fmaTime = await best((pass) => {
      for (let i = 0; i < repeats; i++) fma.record(pass, fmaArgs);
    });
    const measureMatrices = async () => {
      const matrixArgs = { source, sink, rounds: 256 };
      const matrices = await cache.prepare(matrixKernel, matrixArgs);
      const time = await best((pass) => {
        for (let i = 0; i < repeats; i++) matrices.record(pass, matrixArgs);
      });
      return (repeats * 2 * 16 ** 3 * matrixChains * matrixArgs.rounds * 4 * 8192) / time;
    };
    return {
      read: (repeats * size) / readTime,
      fma: (repeats * 2 * 4 * chains * fmaArgs.rounds * 256 * 8192) / fmaTime,
      matrices: features.subgroupMatrices ? await measureMatrices() : undefined,
    };
  } finally {
    timer.destroy();
    source.destroy();
    sink.destroy();
    cache.destroy();
  }
}
