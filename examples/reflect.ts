/**
 * Wraps a compute shader that has nothing to do with attention: points that drift in a wind. `deno run -A examples/reflect.ts`
 */
import { LaunchCache, openGpu } from 'pagewise';
import { reflectKernel } from 'pagewise/reflect';

const wgsl = `
  struct Parameters { wind: vec2f, step: f32, count: u32 }
  override damping: f32 = 1.0;
  @group(0) @binding(0) var<storage, read> speeds: array<vec2f>;
  @group(0) @binding(1) var<storage, read_write> points: array<vec2f>;
  @group(0) @binding(2) var<uniform> parameters: Parameters;

  @compute @workgroup_size(64) fn drift(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= parameters.count) { return; }
    points[id.x] += parameters.step * (damping * speeds[id.x] + parameters.wind);
  }`;

const gpu = await openGpu();
const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
const count = 1000;
const speeds = gpu.device.createBuffer({ size: count * 8, usage: STORAGE | COPY_DST });
const points = gpu.device.createBuffer({ size: count * 8, usage: STORAGE | COPY_SRC });
gpu.device.queue.writeBuffer(
  speeds,
  0,
  Float32Array.from({ length: 2 * count }, (_, i) => i / count),
);

// The three lines: derive, prepare once, record as often as needed.
const cache = new LaunchCache(gpu);
const drift = reflectKernel(wgsl, { workgroups: { x: ({ count }) => Math.ceil(count / 64) } });
const site = await cache.prepare(drift, { damping: 0.5, speeds, points, 'wind.x': 0, 'wind.y': 0, step: 0, count });

const encoder = gpu.device.createCommandEncoder();
const pass = encoder.beginComputePass();
for (let launch = 1; launch <= 100; launch++) {
  site.record(pass, { damping: 0.5, speeds, points, 'wind.x': 1, 'wind.y': launch / 100, step: 0.01, count });
}
pass.end();
const staging = gpu.device.createBuffer({ size: count * 8, usage: GPUBufferUsage.MAP_READ | COPY_DST });
encoder.copyBufferToBuffer(points, 0, staging, 0, staging.size);
cache.submit([encoder.finish()]); // 100 launches with 100 different winds: one write, one submit

await staging.mapAsync(GPUMapMode.READ);
const [x, y] = new Float32Array(staging.getMappedRange()).slice(-2);
console.log(`The last point drifted to ${x.toFixed(3)}, ${y.toFixed(3)}.`);
const { launches, pipelines, misses } = cache.stats();
console.log(`${launches} launches, ${pipelines} pipeline, ${misses} misses.`);
gpu.destroy();
