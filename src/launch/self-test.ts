import type { Gpu } from '../gpu.ts';
import { type ArgumentPath, type ArgumentsOf, defineKernel, perCall, writeBuffer } from './kernel.ts';

/** Writes one per-call value to the place that another one names. */
const markKernel = defineKernel({
  name: 'self-test',
  source: [
    `struct Arguments { index: u32, value: u32 }
     @group(0) @binding(0) var<storage, read_write> marks: array<u32>;
     @compute @workgroup_size(1) fn main() { marks[args.index] = args.value; }`,
  ],
  arguments: { marks: writeBuffer, index: perCall('u32'), value: perCall('u32') },
  workgroups: { x: () => 1 },
  singleVariant: true,
});

type Marks = ArgumentsOf<typeof markKernel.arguments>;

/** What is tested of a launch cache. */
export interface TestedCache {
  prepare(kernel: typeof markKernel, args: Marks): Promise<{ record(pass: GPUComputePassEncoder, args: Marks): void }>;
  submit(commands: readonly GPUCommandBuffer[]): void;
  destroy(): void;
}

const launches = 64;
const rounds = 5;

/** Whether this host's passes can take immediates (a WGSL language feature, a limit and a method; Deno 2.9 has the first alone). */
export function hasImmediates(gpu: Gpu): boolean {
  const limit = gpu.limits.maxImmediateSize;
  const method = typeof GPUComputePassEncoder !== 'undefined' && 'setImmediates' in GPUComputePassEncoder.prototype;
  return method && limit !== undefined && limit >= 16 && gpu.wgslLanguageFeatures.has('immediate_address_space');
}

/**
 * Tests that launches of one submit see their own values, by each path that the host offers, and measures which path records faster.
 * @returns the faster of the working paths; `failure` where none works
 */
export async function choosePath(gpu: Gpu, open: (path: ArgumentPath) => TestedCache): Promise<{ path: ArgumentPath; failure?: string }> {
  const results: { path: ArgumentPath; time: number }[] = [];
  const failures: string[] = [];
  for (const path of hasImmediates(gpu) ? (['arena', 'immediates'] as const) : (['arena'] as const)) {
    const cache = open(path);
    try {
      results.push({ path, time: await test(gpu, cache) });
    } catch (error) {
      if (gpu.loss) throw gpu.loss;
      failures.push(`${path}: ${error instanceof Error ? error.message : error}`);
    } finally {
      cache.destroy();
    }
  }
  if (results.length === 0) return { path: 'arena', failure: `the self-test failed (${failures.join('; ')})` };
  return { path: results.reduce((a, b) => (b.time < a.time ? b : a)).path };
}

/** @returns the host's milliseconds for a submit of launches, the best of some rounds */
async function test(gpu: Gpu, cache: TestedCache): Promise<number> {
  const { device } = gpu;
  const size = launches * 4;
  const marks = device.createBuffer({ label: 'self-test', size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ label: 'self-test', size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  try {
    const site = await cache.prepare(markKernel, { marks, index: 0, value: 0 });
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < rounds; round++) {
      const start = performance.now();
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let index = 0; index < launches; index++) site.record(pass, { marks, index, value: 1000 * round + index });
      pass.end();
      if (round === rounds - 1) encoder.copyBufferToBuffer(marks, 0, staging, 0, size);
      cache.submit([encoder.finish()]);
      best = Math.min(best, performance.now() - start);
    }
    await staging.mapAsync(GPUMapMode.READ);
    const seen = new Uint32Array(staging.getMappedRange());
    const wrong = seen.findIndex((value, index) => value !== 1000 * (rounds - 1) + index);
    if (wrong >= 0) throw new Error(`launch ${wrong} of a submit saw the values of another`);
    return best;
  } finally {
    marks.destroy();
    staging.destroy();
  }
}
