/** Per-call values: every launch sees its own, and only what changed is sent. */
import { LaunchCache, type LaunchCacheMode, type LaunchCacheOptions } from '../../src/index.ts';
import {
  emptyBuffer,
  expect,
  expectEqual,
  random,
  readBuffer,
  readFloats,
  type SpecContext,
  spec,
  uploadBuffer,
} from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { encode, mixKernel, setKernel, submit } from './tiny.ts';

const modes: readonly LaunchCacheMode[] = ['on', 'off'];

function openCache(t: SpecContext, options: LaunchCacheOptions = {}, gpu = t.gpu): LaunchCache {
  const cache = new LaunchCache(gpu, options);
  t.defer(() => cache.destroy());
  return cache;
}

const poisoned = (t: SpecContext, length: number, gpu = t.gpu) => uploadBuffer(t, new Float32Array(length).fill(-77), undefined, gpu);

for (const mode of modes) {
  spec(`300 launches of one site in one submit, mode ${mode}`, async (t) => {
    const cache = openCache(t, { mode, argumentSlots: 128 });
    const output = poisoned(t, 302);
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    const values = random(1).normals(300);
    submit(cache, (pass) => {
      for (let place = 0; place < 300; place++) site.record(pass, { output, place, value: values[place], count: 1 });
    });
    expectEqual(await readFloats(t.gpu, output), Float32Array.from([...values, -77, -77]));
    const { launches, hits, misses, sites, pipelines } = cache.stats();
    expectEqual({ launches, hits, misses, sites, pipelines }, { launches: 300, hits: 300, misses: 0, sites: 1, pipelines: 1 });
  });

  spec(`two sites interleaved, in several passes and encoders of one submit, mode ${mode}`, async (t) => {
    const cache = openCache(t, { mode, argumentSlots: 3 });
    const [a, b] = [poisoned(t, 40), poisoned(t, 40)];
    const [siteA, siteB] = await Promise.all([a, b].map((output) => cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 })));
    const commands = [0, 10, 20, 30].map((first) =>
      encode(t.gpu, (pass) => {
        for (let place = first; place < first + 10; place++) {
          siteA.record(pass, { output: a, place, value: place, count: 1 });
          siteB.record(pass, { output: b, place, value: 1000 + place, count: 1 });
        }
      }),
    );
    cache.submit(commands);
    expectEqual(
      await readFloats(t.gpu, a),
      Float32Array.from({ length: 40 }, (_, i) => i),
    );
    expectEqual(
      await readFloats(t.gpu, b),
      Float32Array.from({ length: 40 }, (_, i) => 1000 + i),
    );
  });

  spec(`steps of changing length, submitted without waiting, mode ${mode}`, async (t) => {
    const cache = openCache(t, { mode, argumentSlots: 4 });
    const output = poisoned(t, 64);
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    let place = 0;
    for (const launches of [3, 1, 7, 0, 2, 9, 5]) {
      submit(cache, (pass) => {
        for (let i = 0; i < launches; i++, place++) site.record(pass, { output, place, value: place * place, count: 1 });
      });
    }
    expectEqual(
      await readFloats(t.gpu, output),
      Float32Array.from({ length: 64 }, (_, i) => (i < place ? i * i : -77)),
    );
  });

  spec(`a launch with no workgroups is skipped, mode ${mode}`, async (t) => {
    const cache = openCache(t, { mode });
    const output = poisoned(t, 6);
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    submit(cache, (pass) => {
      site.record(pass, { output, place: 0, value: 1, count: 2 });
      site.record(pass, { output, place: 2, value: 2, count: 0 });
      site.record(pass, { output, place: 3, value: 3, count: 1 });
    });
    expectEqual(await readFloats(t.gpu, output), Float32Array.of(1, 1, -77, 3, -77, -77));
    expectEqual(cache.stats().launches, 2, 'launches');
  });
}

spec('both modes give the same bits, for values of every type', async (t) => {
  const numbers = random(5);
  const input = uploadBuffer(t, numbers.normals(100));
  const launches = numbers.permutation(100).map((place) => ({ place, angle: numbers.normal() * 3, offset: numbers.integer(21) - 10 }));
  const run = async (mode: LaunchCacheMode) => {
    const cache = openCache(t, { mode, argumentSlots: 16 });
    const output = poisoned(t, 100);
    const site = await cache.prepare(mixKernel, { input, output, angle: 0, offset: 0, place: 0 });
    submit(cache, (pass) => {
      for (const launch of launches) site.record(pass, { input, output, ...launch });
    });
    return new Uint32Array(await readBuffer(t.gpu, output));
  };
  const on = await run('on');
  expectEqual(await run('off'), on);
  const values = new Float32Array(on.buffer);
  const inputs = await readFloats(t.gpu, input);
  for (const { place, angle, offset } of launches) {
    const expected = inputs[place] * Math.sin(Math.fround(angle)) + offset;
    expect(Math.abs(values[place] - expected) < 1e-2, `place ${place} is ${values[place]}, expected ${expected}`);
  }
});

spec(
  'after the first step, only changed values are written, in one write, and no object is made',
  async (t) => {
    const gpu = await t.openGpu();
    const cache = openCache(t, { argumentSlots: 64 }, gpu);
    const output = poisoned(t, 32, gpu);
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    const values = Float32Array.from({ length: 32 }, (_, i) => i + 1);
    const step = () =>
      submit(cache, (pass) => {
        values.forEach((value, place) => {
          site.record(pass, { output, place, value, count: 1 });
        });
      });
    step();
    const counts = countObjects(t, gpu);
    const changes: readonly (readonly [what: string, change: () => void, writes: number, mostBytes: number])[] = [
      ['nothing', () => {}, 0, 0],
      ['one value', () => values.fill(50, 7, 8), 1, 8],
      ['nothing again', () => {}, 0, 0],
      ['neighbours', () => values.fill(60, 7, 9), 1, 256 + 8],
      ['the ends', () => values.set([values[0] + 0.5, ...values.subarray(1, 31), -3]), 1, 31 * 256 + 8],
      ['to NaN', () => values.fill(Number.NaN, 4, 5), 1, 8],
      ['NaN stays', () => {}, 0, 0],
      ['to zero', () => values.fill(0, 4, 5), 1, 8],
      ['to minus zero', () => values.fill(-0, 4, 5), 1, 8],
    ];
    for (const [what, change, writes, mostBytes] of changes) {
      const before = { writes: counts.writes, bytes: counts.writtenBytes };
      change();
      step();
      expectEqual(counts.writes - before.writes, writes, `writes after a change of ${what}`);
      const bytes = counts.writtenBytes - before.bytes;
      expect(bytes <= mostBytes, `${bytes} bytes written after a change of ${what}, expected at most ${mostBytes}`);
      expectEqual(counts.created, {}, `objects made after a change of ${what}`);
      expectEqual(await readFloats(gpu, output), values, `results after a change of ${what}`);
      delete counts.created.createBuffer; // the readback's
    }
  },
  { devices: 'granted' },
);

spec(
  'a full arena is joined by another, and slots are kept',
  async (t) => {
    const gpu = await t.openGpu();
    const counts = countObjects(t, gpu);
    const cache = openCache(t, { argumentSlots: 5 }, gpu);
    const output = emptyBuffer(t, 64 * 4, undefined, gpu);
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    const before = counts.created.createBuffer;
    const step = (launches: number) =>
      submit(cache, (pass) => {
        for (let place = 0; place < launches; place++) site.record(pass, { output, place, value: place, count: 1 });
      });
    step(5);
    expectEqual(counts.created.createBuffer - before, 0, 'arenas for 5 launches, beside the one that prepare made');
    step(6);
    expectEqual(counts.created.createBuffer - before, 1, 'arenas for 6 launches');
    step(20);
    expectEqual(counts.created.createBuffer - before, 3, 'arenas for 20 launches');
    step(20);
    step(3);
    expectEqual(counts.created.createBuffer - before, 3, 'arenas after more steps');
    expectEqual([cache.stats().bindGroups, counts.created.createBindGroup], [20, 20], 'bind groups');
    cache.destroy();
    expectEqual(counts.liveBuffers(), 1, "live buffers after destroy(): the spec's own");
  },
  { devices: 'granted' },
);

spec(
  'mode off makes a bind group per launch, and pools its uniforms',
  async (t) => {
    const gpu = await t.openGpu();
    const cache = openCache(t, { mode: 'off' }, gpu);
    const output = emptyBuffer(t, 64 * 4, undefined, gpu);
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    const counts = countObjects(t, gpu);
    const step = () =>
      submit(cache, (pass) => {
        for (let place = 0; place < 12; place++) site.record(pass, { output, place, value: place, count: 1 });
      });
    for (let steps = 0; steps < 3; steps++) step();
    expectEqual(counts.created, { createBuffer: 12, createBindGroup: 36 });
    const { launches, hits, misses, sites, pipelines, bindGroups, uncached } = cache.stats();
    expectEqual([launches, hits, misses, sites, pipelines, bindGroups, uncached], [36, 36, 0, 1, 1, 36, 36], 'counts');
    cache.destroy();
    expectEqual(counts.liveBuffers(), 0, 'live buffers after destroy()');
  },
  { devices: 'granted' },
);
