/** Grids, and variants that a device takes or not. */
import {
  BufferDestroyedError,
  defineKernel,
  indirectGrid,
  KernelCompileError,
  key,
  type LaunchEvent,
  LimitExceededError,
  perCall,
  writeBuffer,
} from '../../src/index.ts';
import { expectEqual, expectThrows, readFloats, spec, uploadBuffer } from '../harness/harness.ts';
import { encode, openCache, poisoned, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;

/** output[workgroup] = 1 for each workgroup of the grid below `limit`. */
const source = `struct Arguments { limit: u32 }
  @group(0) @binding(0) var<storage, read_write> output: array<f32>;
  @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
    let index = id.x + grid.x * (id.y + grid.y * id.z);
    if (index < args.limit) { output[index] = 1.0; }
  }`;

const indirectKernel = defineKernel({
  name: 'indirect',
  source: [source],
  arguments: { output: writeBuffer, limit: perCall('u32'), grid: indirectGrid },
  workgroups: { indirect: 'grid' },
  singleVariant: true,
});

const gridKernel = defineKernel({
  name: 'grid',
  source: [source],
  arguments: { output: writeBuffer, limit: perCall('u32'), x: { class: 'grid' }, y: { class: 'grid' }, z: { class: 'grid' } },
  workgroups: { x: ({ x }) => x, y: ({ y }) => y, z: ({ z }) => z },
  singleVariant: true,
});

const ones = (count: number, length: number) => Float32Array.from({ length }, (_, i) => (i < count ? 1 : -77));

for (const mode of ['on', 'off', 'verify'] as const) {
  spec(
    `an indirect grid comes from the buffer and place that the launch names, mode ${mode}`,
    async (t) => {
      const cache = openCache(t, { mode });
      const [a, b] = [poisoned(t, 64), poisoned(t, 64)];
      const usage = GPUBufferUsage.INDIRECT | GPUBufferUsage.COPY_DST;
      const grids = uploadBuffer(t, Uint32Array.of(3, 1, 1, 5, 2, 1), usage);
      const other = uploadBuffer(t, Uint32Array.of(7, 1, 1), usage);
      const [first, second] = await Promise.all([a, b].map((output) => cache.prepare(indirectKernel, { output, limit: 0, grid: grids })));
      submit(cache, (pass) => {
        first.record(pass, { output: a, limit: 64, grid: grids });
        second.record(pass, { output: b, limit: 64, grid: { buffer: grids, offset: 12, size: 12 } });
      });
      expectEqual(await readFloats(t.gpu, a), ones(3, 64), 'first grid');
      expectEqual(await readFloats(t.gpu, b), ones(10, 64), 'second grid');
      submit(cache, (pass) => first.record(pass, { output: a, limit: 6, grid: other }));
      expectEqual(await readFloats(t.gpu, a), ones(6, 64), 'grid of another buffer, and a limit below it');
      expectEqual(cache.stats().falseHits, 0, 'false hits');
      other.destroy();
      const error = await expectThrows(BufferDestroyedError, () =>
        encode(t.gpu, (pass) => first.record(pass, { output: a, limit: 6, grid: other })),
      );
      expectEqual(error.argument, 'grid');
    },
    once,
  );
}

spec('a grid may be larger than the work, up to the limit of the device and not beyond', async (t) => {
  const cache = openCache(t);
  const output = poisoned(t, 16);
  const most = t.gpu.limits.maxComputeWorkgroupsPerDimension;
  const site = await cache.prepare(gridKernel, { output, limit: 0, x: 1, y: 1, z: 1 });
  submit(cache, (pass) => site.record(pass, { output, limit: 3, x: 4, y: 2, z: 2 }));
  expectEqual(await readFloats(t.gpu, output), ones(3, 16), 'result of 16 workgroups for 3 values');
  submit(cache, (pass) => site.record(pass, { output, limit: 11, x: most, y: 1, z: 1 }));
  expectEqual(await readFloats(t.gpu, output), ones(11, 16), 'result of the largest grid');
  for (const dimension of ['x', 'y', 'z'] as const) {
    const grid = { x: 1, y: 1, z: 1, [dimension]: most + 1 };
    const before = cache.stats();
    const error = await expectThrows(LimitExceededError, () => submit(cache, (pass) => site.record(pass, { output, limit: 16, ...grid })));
    expectEqual([error.limit, error.needed, error.granted], ['maxComputeWorkgroupsPerDimension', most + 1, most], dimension);
    const notANumber = { x: 1, y: 1, z: 1, [dimension]: Number.NaN };
    await expectThrows(LimitExceededError, () => submit(cache, (pass) => site.record(pass, { output, limit: 16, ...notANumber })));
    expectEqual(cache.stats(), before, 'counts after the refusal');
  }
  expectEqual(await readFloats(t.gpu, output), ones(11, 16), 'result after the refusals');
});

/** output[0] = the sum of a tile of ones, in workgroup memory. */
const tileKernel = defineKernel({
  name: 'tiled',
  source: [
    `@group(0) @binding(0) var<storage, read_write> output: array<f32>;
    var<workgroup> memory: array<f32, tileSize>;
    @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {
      for (var i = lane; i < tileSize; i += 64u) { memory[i] = 1.0; }
      workgroupBarrier();
      if (lane == 0) {
        var sum = 0.0;
        for (var i = 0u; i < tileSize; i++) { sum += memory[i]; }
        output[0] = sum;
      }
    }`,
  ],
  prelude: ({ tile }) => `const tileSize = ${tile}u;`,
  workgroupMemory: ({ tile }) => 4 * Number(tile),
  arguments: { output: writeBuffer, tile: key('text') },
  workgroups: { x: () => 1 },
});

spec('a tile that the device has no workgroup memory for falls to the next smaller one, and says so', async (t) => {
  const events: LaunchEvent[] = [];
  const cache = openCache(t, { onEvent: (event) => events.push(event) });
  const output = poisoned(t, 1);
  const bytes = t.gpu.limits.maxComputeWorkgroupStorageSize;
  const tiles = (...sizes: number[]) => sizes.map((tile) => ({ output, tile }));
  const { site, index } = await cache.prepareFitting(tileKernel, tiles(bytes, bytes / 4 + 1, 512, 256));
  expectEqual(index, 2, 'tile taken');
  const passed = events.map(
    (event) => event.type === 'fallback' && [event.kernel, event.index, event.reason instanceof LimitExceededError],
  );
  expectEqual(
    passed,
    [
      ['tiled', 0, true],
      ['tiled', 1, true],
    ],
    'tiles passed over',
  );
  submit(cache, (pass) => site.record(pass, { output, tile: 512 }));
  expectEqual([...(await readFloats(t.gpu, output))], [512], 'result');
  expectEqual([cache.stats().sites, cache.stats().pipelines], [1, 1], 'sites, pipelines');
  const error = await expectThrows(LimitExceededError, () => cache.prepareFitting(tileKernel, tiles(bytes, bytes / 2)), /smaller tile/);
  expectEqual([error.limit, error.needed, error.granted], ['maxComputeWorkgroupStorageSize', bytes * 2, bytes], 'the last error');
  await expectThrows(LimitExceededError, async () => submit(cache, (pass) => site.record(pass, { output, tile: bytes })));
  expectEqual((await cache.prepareFitting(tileKernel, tiles(512))).index, 0, 'tile that fits at once');
});

spec(
  'so does a variant that the compiler refuses',
  async (t) => {
    const cache = openCache(t);
    const output = poisoned(t, 1);
    const kernel = defineKernel({
      name: 'lanes',
      source: [
        `@group(0) @binding(0) var<storage, read_write> output: array<f32>;
        @compute @workgroup_size(lanes) fn main(@builtin(local_invocation_index) lane: u32) {
          if (lane == lanes - 1) { output[0] = f32(lane); }
        }`,
      ],
      prelude: ({ lanes }) => `const lanes = ${lanes}u;`,
      arguments: { output: writeBuffer, lanes: key('text') },
      workgroups: { x: () => 1 },
    });
    const most = t.gpu.limits.maxComputeInvocationsPerWorkgroup;
    const { site, index } = await cache.prepareFitting(kernel, [
      { output, lanes: most * 2 },
      { output, lanes: 32 },
    ]);
    expectEqual(index, 1, 'variant taken');
    submit(cache, (pass) => site.record(pass, { output, lanes: 32 }));
    expectEqual([...(await readFloats(t.gpu, output))], [31], 'result');
    await expectThrows(KernelCompileError, () => cache.prepareFitting(kernel, [{ output, lanes: most * 2 }]));
  },
  once,
);
