/**
 * What a false hit looks like, and how verification finds it: a scale that differs from layer to layer is declared frozen.
 * `deno run -A examples/false-hit.ts`
 */
import { defineKernel, frozen, gridCount, LaunchCache, type LaunchCacheMode, openGpu, writeBuffer } from 'pagewise';

const scaleKernel = defineKernel({
  name: 'scale',
  source: [
    `override scale: f32;
     @group(0) @binding(0) var<storage, read_write> values: array<f32>;
     @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3u) { values[id.x] *= scale; }`,
  ],
  // The fault: each layer has a scale of its own, so it must be a key, or better a per-call value.
  arguments: { values: writeBuffer, scale: frozen('f32'), length: gridCount },
  workgroups: { x: ({ length }) => length },
});

const gpu = await openGpu();
const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;

async function twoLayers(mode: LaunchCacheMode): Promise<number> {
  const values = gpu.device.createBuffer({ size: 16, usage: STORAGE | COPY_SRC | COPY_DST });
  const staging = gpu.device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | COPY_DST });
  gpu.device.queue.writeBuffer(values, 0, Float32Array.of(1, 1, 1, 1));
  const cache = new LaunchCache(gpu, { mode, onEvent: (event) => console.log(JSON.stringify(event)) });
  const site = await cache.prepare(scaleKernel, { values, scale: 2, length: 4 });
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const scale of [2, 3]) site.record(pass, { values, scale, length: 4 });
  pass.end();
  encoder.copyBufferToBuffer(values, 0, staging, 0, 16);
  cache.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const [result] = new Float32Array(staging.getMappedRange());
  console.log(`${mode}: 1 * 2 * 3 is ${result}; false hits: ${cache.stats().falseHits}`);
  return result;
}

await twoLayers('on');
await twoLayers('verify');
gpu.destroy();
