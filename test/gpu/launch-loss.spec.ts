/** A lost device: whatever was under way says so, nothing works afterwards, and a new device does. */
import { BufferDestroyedError, DeviceLostError, type Gpu, type Kernel, LaunchCache, type LaunchSite } from '../../src/index.ts';
import { expect, expectEqual, expectThrows, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { bucketKernel, encode, frozenKernel, keyedKernel, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;

interface Launches {
  readonly gpu: Gpu;
  readonly cache: LaunchCache;
  readonly output: GPUBuffer;
  readonly site: LaunchSite<typeof setKernel.arguments>;
  /** Compiled so far, as a manifest. */
  readonly manifest: unknown;
}

async function open(t: SpecContext): Promise<Launches> {
  const gpu = await t.openGpu();
  const cache = new LaunchCache(gpu);
  t.defer(() => cache.destroy());
  const output = uploadBuffer(t, new Float32Array(4).fill(-77), undefined, gpu);
  const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
  return { gpu, cache, output, site, manifest: cache.manifest() };
}

const launch = ({ output, site }: Launches, pass: GPUComputePassEncoder, place: number) =>
  site.record(pass, { output, place, value: 10 + place, count: 1 });

/** Nothing that was made on the lost device is used again, whatever is asked for. */
async function refusesEverything(t: SpecContext, launches: Launches): Promise<void> {
  const { gpu, cache, output, site, manifest } = launches;
  const args = { output, place: 0, value: 0, count: 1 };
  const before = cache.stats();
  // The pass is of a living device: it is the cache that refuses.
  await expectThrows(DeviceLostError, async () => void encode(t.gpu, (pass) => launch(launches, pass, 0)), /Open a new device/);
  await expectThrows(DeviceLostError, () => cache.submit([]));
  await expectThrows(DeviceLostError, () => cache.prepare(setKernel, args));
  await expectThrows(DeviceLostError, () => cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 }));
  await expectThrows(DeviceLostError, () => cache.prepareFitting(setKernel, [args, args]));
  await expectThrows(DeviceLostError, () => site.prepare(args));
  await expectThrows(DeviceLostError, () => cache.warmup([setKernel] as unknown as readonly Kernel[], manifest));
  await expectThrows(DeviceLostError, () => LaunchCache.open(gpu));
  expectEqual(cache.stats(), before, 'counts');
  expectEqual(cache.manifest().variants, [], 'variants that are kept');
}

/** The same program on another device. */
async function worksAgain(t: SpecContext): Promise<void> {
  const again = await open(t);
  submit(again.cache, (pass) => {
    launch(again, pass, 1);
    launch(again, pass, 3);
  });
  expectEqual([...(await readFloats(again.gpu, again.output))], [-77, 11, -77, 13], 'results on a new device');
}

/** With and without a word to the library. */
const losses = {
  'gpu.destroy()': (gpu: Gpu) => gpu.destroy(),
  'a loss that nobody announced': (gpu: Gpu) => gpu.device.destroy(),
};

for (const [how, lose] of Object.entries(losses)) {
  spec(
    `${how} while pipelines compile`,
    async (t) => {
      const launches = await open(t);
      const { gpu, cache, output } = launches;
      const under = [
        cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 }),
        cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 }),
        cache.prepare(frozenKernel, { output, factor: 2, place: 0, value: 0 }),
        cache.prepareFitting(bucketKernel, [
          { output, size: 1, place: 0 },
          { output, size: 4, place: 0 },
        ]),
      ];
      lose(gpu);
      const outcomes = await Promise.allSettled<unknown>(under);
      await gpu.lost;
      for (const [i, outcome] of outcomes.entries()) {
        // A host that compiles at once may be done before it hears of the loss; nobody may be told so who has announced it.
        if (outcome.status === 'fulfilled') expect(how !== 'gpu.destroy()', `prepare ${i} ended well`);
        else expect(outcome.reason instanceof DeviceLostError, `prepare ${i} gave ${outcome.reason}`);
      }
      expectEqual(cache.stats().sites, 1 + outcomes.filter(({ status }) => status === 'fulfilled').length, 'sites');
      await refusesEverything(t, launches);
      await worksAgain(t);
    },
    once,
  );

  spec(
    `${how} between recording and submitting`,
    async (t) => {
      const launches = await open(t);
      const { gpu, cache } = launches;
      submit(cache, (pass) => launch(launches, pass, 0));
      const commands = encode(gpu, (pass) => launch(launches, pass, 1));
      lose(gpu);
      await gpu.lost;
      await expectThrows(DeviceLostError, () => cache.submit([commands]));
      await refusesEverything(t, launches);
      await worksAgain(t);
    },
    once,
  );

  spec(
    `${how} in the middle of a pass`,
    async (t) => {
      const launches = await open(t);
      const { gpu, cache } = launches;
      const pass = gpu.device.createCommandEncoder().beginComputePass();
      launch(launches, pass, 0);
      lose(gpu);
      await gpu.lost;
      await expectThrows(DeviceLostError, () => launch(launches, pass, 1));
      expectEqual(cache.stats().launches, 1, 'launches');
      await refusesEverything(t, launches);
      await worksAgain(t);
    },
    once,
  );

  spec(
    `${how} while nothing runs`,
    async (t) => {
      const launches = await open(t);
      const { gpu, cache } = launches;
      submit(cache, (pass) => launch(launches, pass, 0));
      await gpu.device.queue.onSubmittedWorkDone();
      lose(gpu);
      await gpu.lost;
      await refusesEverything(t, launches);
      cache.flush();
      cache.destroy();
      await worksAgain(t);
    },
    once,
  );
}

spec(
  'the loss of one device leaves the caches of another alone',
  async (t) => {
    const [lost, alive] = [await open(t), await open(t)];
    lost.gpu.destroy();
    await lost.gpu.lost;
    submit(alive.cache, (pass) => launch(alive, pass, 2));
    expectEqual([...(await readFloats(alive.gpu, alive.output))], [-77, -77, 12, -77], 'results');
    // A buffer that was destroyed on the lost device is still the device's loss, not the buffer's.
    lost.output.destroy();
    const error = await expectThrows(Error, () => encode(alive.gpu, (pass) => launch(lost, pass, 0)));
    expect(error instanceof DeviceLostError && !(error instanceof BufferDestroyedError), `launch gave ${error}`);
  },
  once,
);
