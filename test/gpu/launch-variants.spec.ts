/** Keys, buckets and frozen values: which pipeline a launch gets, and when one is compiled. */
import { defineKernel, type Gpu, key, LaunchCache, type LaunchCacheMode, perCall, writeBuffer } from '../../src/index.ts';
import { expectEqual, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { countObjects, type ObjectCounts } from './observe.ts';
import { bucketKernel, frozenKernel, keyedKernel, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;

function open(t: SpecContext, gpu: Gpu, mode: LaunchCacheMode = 'on') {
  const cache = new LaunchCache(gpu, { mode });
  t.defer(() => cache.destroy());
  return { cache, output: uploadBuffer(t, new Float32Array(8).fill(-77), undefined, gpu) };
}

/** Pipelines compiled so far: while waiting, and on the spot. */
const compiled = ({ created }: ObjectCounts) => [created.createComputePipelineAsync ?? 0, created.createComputePipeline ?? 0];

spec(
  'a changed key selects another variant, and back; each is compiled once',
  async (t) => {
    const gpu = await t.openGpu();
    const counts = countObjects(t, gpu);
    for (const mode of ['on', 'off'] as const) {
      const { cache, output } = open(t, gpu, mode);
      const before = compiled(counts);
      const since = () => compiled(counts).map((count, i) => count - before[i]);
      const site = await cache.prepare(keyedKernel, { output, a: 1, b: 2, place: 0 });
      await cache.prepare(keyedKernel, { output, a: 3, b: 4, place: 0 });
      expectEqual(since(), [2, 0], 'pipelines after prepare');
      const launch = (pass: GPUComputePassEncoder, place: number, a: number, b: number) => site.record(pass, { output, a, b, place });
      submit(cache, (pass) => {
        launch(pass, 0, 1, 2);
        launch(pass, 1, 3, 4);
        launch(pass, 2, 1, 2);
      });
      expectEqual(since(), [2, 0], 'pipelines after launches with known keys');
      submit(cache, (pass) => {
        launch(pass, 3, 5, 6);
        launch(pass, 4, 1, 2);
        launch(pass, 5, 5, 6);
        launch(pass, 6, 3, 4);
      });
      expectEqual(since(), [2, 1], 'pipelines after a launch with new keys');
      expectEqual(await readFloats(gpu, output), Float32Array.of(1002, 3004, 1002, 5006, 1002, 5006, 3004, -77), `results in mode ${mode}`);
      const { launches, hits, misses, pipelines } = cache.stats();
      expectEqual({ launches, hits, misses, pipelines }, { launches: 7, hits: 6, misses: 1, pipelines: 3 }, `counts in mode ${mode}`);
    }
  },
  once,
);

for (const mode of ['on', 'off'] as const) {
  spec(
    `keys do not alias: (1, 16) and (11, 6), 1 and "1", mode ${mode}`,
    async (t) => {
      const { cache, output } = open(t, t.gpu, mode);
      const typed = defineKernel({
        name: 'typed key',
        source: [
          `struct Arguments { place: u32 }
          @group(0) @binding(0) var<storage, read_write> output: array<f32>;
          @compute @workgroup_size(1) fn main() { output[args.place] = kind; }`,
        ],
        prelude: ({ label }) => `const kind = ${typeof label === 'string' ? 1 : 2}.0;`,
        arguments: { output: writeBuffer, label: key('text'), place: perCall('u32') },
        workgroups: { x: () => 1 },
      });
      const keyed = await cache.prepare(keyedKernel, { output, a: 1, b: 16, place: 0 });
      const labelled = await cache.prepare(typed, { output, label: 1, place: 4 });
      submit(cache, (pass) => {
        keyed.record(pass, { output, a: 1, b: 16, place: 0 });
        keyed.record(pass, { output, a: 11, b: 6, place: 1 });
        keyed.record(pass, { output, a: 16, b: 1, place: 2 });
        keyed.record(pass, { output, a: 1, b: 16, place: 3 });
        labelled.record(pass, { output, label: 1, place: 4 });
        labelled.record(pass, { output, label: '1', place: 5 });
        labelled.record(pass, { output, label: 1, place: 6 });
      });
      expectEqual(await readFloats(t.gpu, output), Float32Array.of(1016, 11006, 16001, 1016, 2, 1, 2, -77));
    },
    once,
  );

  spec(
    `kernels of one name do not alias, mode ${mode}`,
    async (t) => {
      const { cache, output } = open(t, t.gpu, mode);
      const kernels = [1, 2].map((value) =>
        defineKernel({
          name: 'twin',
          source: [
            `@group(0) @binding(0) var<storage, read_write> output: array<f32>;
            @compute @workgroup_size(1) fn main() { output[${value}] = ${value}.0; }`,
          ],
          arguments: { output: writeBuffer },
          workgroups: { x: () => 1 },
          singleVariant: true,
        }),
      );
      const sites = await Promise.all(kernels.map((kernel) => cache.prepare(kernel, { output })));
      submit(cache, (pass) => {
        for (const site of sites) site.record(pass, { output });
      });
      expectEqual(await readFloats(t.gpu, output), Float32Array.of(-77, 1, 2, -77, -77, -77, -77, -77));
    },
    once,
  );

  spec(
    `a bucketed key compiles by its bucket, mode ${mode}`,
    async (t) => {
      const gpu = await t.openGpu();
      const { cache, output } = open(t, gpu, mode);
      const counts = countObjects(t, gpu);
      const site = await cache.prepare(bucketKernel, { output, size: 8, place: 0 });
      const run = (sizes: readonly number[]) =>
        submit(cache, (pass) => {
          sizes.forEach((size, place) => {
            site.record(pass, { output, size, place });
          });
        });
      run([8, 12, 64, 4]);
      expectEqual(compiled(counts), [1, 0], 'pipelines for multiples of 4');
      run([8, 13, 64, 14, 12]);
      expectEqual(compiled(counts), [1, 1], 'pipelines for both buckets');
      expectEqual(await readFloats(gpu, output), Float32Array.of(22, 11, 22, 11, 22, -77, -77, -77));
    },
    once,
  );
}

spec(
  'concurrent prepares of one variant compile it once',
  async (t) => {
    const gpu = await t.openGpu();
    const { cache, output } = open(t, gpu);
    const counts = countObjects(t, gpu);
    const keys = [1, 2, 1, 2, 1, 1].map((a) => ({ output, a, b: 0, place: 0 }));
    const sites = await Promise.all(keys.map((args) => cache.prepare(keyedKernel, args)));
    expectEqual(compiled(counts), [2, 0], 'pipelines');
    expectEqual(counts.created.createShaderModule, 2, 'modules');
    expectEqual([counts.created.createBindGroupLayout, counts.created.createPipelineLayout], [1, 1], 'layouts');
    expectEqual([cache.stats().sites, cache.stats().pipelines], [6, 2], 'sites, pipelines');
    await cache.prepare(keyedKernel, keys[0]);
    expectEqual(compiled(counts), [2, 0], 'pipelines after one more prepare');
    submit(cache, (pass) => {
      sites.forEach((site, place) => {
        site.record(pass, { ...keys[place], place });
      });
    });
    expectEqual(await readFloats(gpu, output), Float32Array.of(1000, 2000, 1000, 2000, 1000, 1000, -77, -77));
  },
  once,
);

spec('two models on one device, interleaved, get what each gets alone', async (t) => {
  const run = async (factors: readonly number[], mode: LaunchCacheMode) => {
    const models = await Promise.all(
      factors.map(async (factor) => {
        const { cache, output } = open(t, t.gpu, mode);
        return { factor, cache, output, site: await cache.prepare(frozenKernel, { output, factor, place: 0, value: 0 }) };
      }),
    );
    for (let step = 0; step < 2; step++) {
      const encoder = t.gpu.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let place = step * 4; place < step * 4 + 4; place++) {
        for (const { site, output, factor } of models) site.record(pass, { output, factor, place, value: place + 0.1 });
      }
      pass.end();
      for (const { cache } of models) cache.flush();
      t.gpu.device.queue.submit([encoder.finish()]);
    }
    return Promise.all(models.map(({ output }) => readFloats(t.gpu, output)));
  };
  for (const mode of ['on', 'off'] as const) {
    const together = await run([2, -3.5], mode);
    const alone = [...(await run([2], mode)), ...(await run([-3.5], mode))];
    expectEqual(together, alone, `results in mode ${mode}`);
    expectEqual(
      [...together[1]],
      [...Array(8).keys()].map((place) => Math.fround(Math.fround(place + 0.1) * -3.5)),
      'second model',
    );
  }
});

spec('one bind group serves every variant of its kernel, and sites of other buffers their own', async (t) => {
  const { cache, output } = open(t, t.gpu);
  const other = uploadBuffer(t, new Float32Array(80).fill(-77));
  const range = { buffer: other, offset: 256, size: 64 };
  const [first, second, third] = await Promise.all([
    cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 }),
    cache.prepare(keyedKernel, { output: other, a: 1, b: 1, place: 0 }),
    cache.prepare(setKernel, { output: range, place: 0, value: 0, count: 1 }),
  ]);
  submit(cache, (pass) => {
    first.record(pass, { output, a: 2, b: 2, place: 0 });
    second.record(pass, { output: other, a: 2, b: 2, place: 1 });
    third.record(pass, { output: range, place: 2, value: 9, count: 1 });
  });
  expectEqual([...(await readFloats(t.gpu, output, 0, 12))], [2002, -77, -77], 'first');
  const others = await readFloats(t.gpu, other);
  expectEqual([others[0], others[1], others[64 + 1], others[64 + 2]], [-77, 2002, -77, 9], 'second and third');
  expectEqual(cache.stats().bindGroups, 3, 'bind groups');
});
