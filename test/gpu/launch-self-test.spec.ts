/** The self-test at opening, and what a cache does that fails it; times of launches. */
import { type Gpu, LaunchCache, type LaunchEvent } from '../../src/index.ts';
import { hasImmediates } from '../../src/launch/self-test.ts';
import { expect, expectEqual, readFloats, type SpecContext, spec } from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { openCache, poisoned, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;
const immediates = { requires: ['immediate_address_space'] } as const;

/** 70 launches by a cache whose path was chosen by its self-test. */
async function launchesAreRight(t: SpecContext, gpu: Gpu, cache: LaunchCache): Promise<void> {
  const output = poisoned(t, 70, gpu);
  const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
  submit(cache, (pass) => {
    for (let place = 0; place < 70; place++) site.record(pass, { output, place, value: place, count: 1 });
  });
  expectEqual(
    await readFloats(gpu, output),
    Float32Array.from({ length: 70 }, (_, i) => i),
    'launches',
  );
}

spec('opening tests the paths and takes one that works', async (t) => {
  const gpu = await t.openGpu();
  const counts = countObjects(t, gpu);
  const events: LaunchEvent[] = [];
  const cache = await LaunchCache.open(gpu, { onEvent: (event) => events.push(event) });
  const { argumentPath, passThrough, launches, pipelines, encodeTime } = cache.stats();
  expect(argumentPath === 'arena' || hasImmediates(gpu), `the path is ${argumentPath}`);
  expectEqual([passThrough, launches, pipelines, encodeTime, events], [undefined, 0, 0, [], []], 'stats after opening');
  t.log(`per-call values travel by ${argumentPath}`);
  expectEqual(counts.liveBuffers(), 0, 'buffers of the self-test');
  await launchesAreRight(t, gpu, cache);
  expectEqual([cache.stats().hits, cache.stats().uncached], [70, 0], 'hits, uncached launches');
  cache.destroy();
});

/** The device without the writes to its arenas, as a host with a broken `writeBuffer` would be. */
function dropArenaWrites({ device }: Gpu): void {
  const write = device.queue.writeBuffer.bind(device.queue) as (...args: unknown[]) => undefined;
  const value = (...args: unknown[]) => ((args[0] as GPUBuffer).label === 'pagewise arguments' ? undefined : write(...args));
  Object.defineProperty(device.queue, 'writeBuffer', { configurable: true, value });
}

spec(
  'a cache whose self-test fails stands aside, says why, and launches right all the same',
  async (t) => {
    const gpu = await t.openGpu();
    dropArenaWrites(gpu);
    const without: Gpu = Object.create(gpu, { wgslLanguageFeatures: { value: new Set() } });
    const events: LaunchEvent[] = [];
    const cache = await LaunchCache.open(without, { mode: 'verify', onEvent: (event) => events.push(event) });
    t.defer(() => cache.destroy());
    const { passThrough, argumentPath } = cache.stats();
    expect(
      /self-test failed \(arena: launch \d+ of a submit saw the values of another\)/.test(passThrough ?? ''),
      `reason: ${passThrough}`,
    );
    expectEqual([argumentPath, events], ['arena', [{ type: 'pass-through', reason: passThrough }]], 'path, events');
    await launchesAreRight(t, gpu, cache);
    expectEqual(cache.stats().uncached, 70, 'uncached launches');
  },
  once,
);

spec(
  'one path that fails leaves the other',
  async (t) => {
    const broken = await t.openGpu();
    dropArenaWrites(broken);
    const cache = await LaunchCache.open(broken);
    t.defer(() => cache.destroy());
    expectEqual([cache.stats().argumentPath, cache.stats().passThrough], ['immediates', undefined], 'without the arena');
    await launchesAreRight(t, broken, cache);

    const { prototype } = GPUComputePassEncoder;
    const { setImmediates } = prototype;
    t.defer(() => {
      prototype.setImmediates = setImmediates;
    });
    prototype.setImmediates = function (this: GPUComputePassEncoder, offset: number, data: AllowSharedBufferSource) {
      return setImmediates.call(this, offset, new Uint32Array(data.byteLength / 4));
    };
    const other = await LaunchCache.open(t.gpu);
    t.defer(() => other.destroy());
    expectEqual([other.stats().argumentPath, other.stats().passThrough], ['arena', undefined], 'without immediates');
    await launchesAreRight(t, t.gpu, other);
  },
  { ...once, ...immediates },
);

spec(
  'the host time of one launch in each 64 is kept',
  async (t) => {
    for (const mode of ['on', 'off'] as const) {
      const cache = openCache(t, { mode });
      const output = poisoned(t, 1);
      const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
      submit(cache, (pass) => {
        for (let i = 0; i < 640; i++) site.record(pass, { output, place: 0, value: i, count: 1 });
      });
      const { encodeTime } = cache.stats();
      expectEqual(
        encodeTime.reduce((sum, [, count]) => sum + count, 0),
        10,
        `launches measured of 640, mode ${mode}`,
      );
      for (const [bound] of encodeTime) expect(Number.isInteger(Math.log2(bound)), `bucket below ${bound} us`);
    }
  },
  once,
);
