/** Broken promises: what mode `verify` finds, that its results are right, and what goes unseen without it. */
import {
  type ArgumentPath,
  CapacityExceededError,
  LaunchCache,
  type LaunchCacheMode,
  type LaunchCacheOptions,
  type LaunchEvent,
} from '../../src/index.ts';
import { expect, expectEqual, expectThrows, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { faults, promised, promisingArguments, promisingKernel } from './faults.ts';
import { goldenPrompts, loadEngine } from './shipped.ts';
import { encode, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;
const immediates = { devices: 'granted', requires: ['immediate_address_space'] } as const;

function open(t: SpecContext, mode: LaunchCacheMode, options: LaunchCacheOptions = {}) {
  const events: LaunchEvent[] = [];
  const cache = new LaunchCache(t.gpu, { mode, onEvent: (event) => events.push(event), ...options });
  t.defer(() => cache.destroy());
  return { cache, events };
}

/** One launch of each fault between launches that keep their promise, all in one submit: place 2n + 1 is that of fault n. */
async function inject(t: SpecContext, mode: LaunchCacheMode, argumentPath: ArgumentPath = 'arena') {
  const { cache, events } = open(t, mode, { argumentPath });
  const args = promisingArguments(t);
  const site = await cache.prepare(promisingKernel, args);
  const injected = faults(t, args);
  submit(cache, (pass) => {
    injected.forEach(({ change }, i) => {
      site.record(pass, { ...args, place: 2 * i });
      site.record(pass, { ...args, ...change, place: 2 * i + 1 });
    });
  });
  const seen = await readFloats(t.gpu, args.output as GPUBuffer, 0, injected.length * 8);
  return { cache, events, args, site, injected, seen };
}

async function everyFaultIsReported(t: SpecContext, path: ArgumentPath): Promise<void> {
  const { cache, events, args, site, injected, seen } = await inject(t, 'verify', path);
  for (const [i, { what, argument, change, added }] of injected.entries()) {
    const event = events[i];
    expect(event?.type === 'false-hit', `${what}: event ${i} is ${event?.type}`);
    expectEqual([event.kernel, event.argument], ['promising', argument], what);
    expect(Object.is(event.seen, change[argument]), `${what}: seen is not what was passed`);
    expect(Object.is(event.stored, args[argument]), `${what}: stored is not what the site was prepared with`);
    expectEqual(seen[2 * i], Math.fround(promised(args)), `result before the fault "${what}"`);
    expectEqual(seen[2 * i + 1], Math.fround(promised({ ...args, ...change }, added)), `result of the fault "${what}"`);
  }
  const { launches, falseHits, uncached, misses, pipelines } = cache.stats();
  const count = injected.length;
  expectEqual([events.length, launches, falseHits, uncached, misses], [count, 2 * count, count, count, 0], 'counts');

  // The same faults again: reported again, and compiled no more.
  submit(cache, (pass) => {
    for (const { change } of injected) site.record(pass, { ...args, ...change, place: 100 });
  });
  expectEqual([cache.stats().falseHits, cache.stats().pipelines, events.length], [2 * count, pipelines, 2 * count], 'second time');
}

spec('each fault is reported, and its result is right', (t) => everyFaultIsReported(t, 'arena'), once);
spec('each fault is reported, and its result is right, on immediates', (t) => everyFaultIsReported(t, 'immediates'), immediates);

spec(
  'mode on believes what it was promised: no report, and the results of the promise',
  async (t) => {
    const { cache, events, args, injected, seen } = await inject(t, 'on');
    expectEqual([...seen], Array(2 * injected.length).fill(Math.fround(promised(args))), 'results');
    const { launches, hits, falseHits, uncached, pipelines } = cache.stats();
    const count = 2 * injected.length;
    expectEqual([events.length, launches, hits, falseHits, uncached, pipelines], [0, count, count, 0, 0, 1], 'counts');
  },
  once,
);

spec(
  'mode off resolves every argument of every launch',
  async (t) => {
    const { cache, events, args, injected, seen } = await inject(t, 'off');
    const expected = injected.flatMap(({ change, added }) => [promised(args), promised({ ...args, ...change }, added)]);
    expectEqual([...seen], expected.map(Math.fround), 'results');
    expectEqual([events.length, cache.stats().falseHits], [0, 0], 'events, false hits');
  },
  once,
);

spec(
  'a changed key is a miss, never a false hit; so are other per-call values, buffers that may change, and counts',
  async (t) => {
    const { cache, events } = open(t, 'verify');
    const args = promisingArguments(t);
    const site = await cache.prepare(promisingKernel, args);
    submit(cache, (pass) => {
      site.record(pass, { ...args, layout: 'other' });
      site.record(pass, { ...args, place: 1, sequences: 4 });
      site.record(pass, { ...args, place: 2, layout: 'other' });
      site.record(pass, { ...args, pool: { buffer: args.pool as GPUBuffer, offset: 0, size: 272 }, place: 3 });
    });
    const other = Math.fround(promised({ ...args, layout: 'other' }));
    const one = Math.fround(promised(args));
    expectEqual([...(await readFloats(t.gpu, args.output as GPUBuffer, 0, 16))], [other, one, other, one], 'results');
    const { falseHits, misses, hits, uncached } = cache.stats();
    expectEqual([falseHits, misses, hits, uncached], [0, 1, 3, 0], 'counts');
    expectEqual(
      events.map((event) => event.type),
      ['miss'],
      'events',
    );
  },
  once,
);

for (const mode of ['on', 'off', 'verify'] as const) {
  spec(
    `a count at its cap runs, one beyond is refused and leaves nothing, mode ${mode}`,
    async (t) => {
      const { cache } = open(t, mode);
      const args = promisingArguments(t);
      const site = await cache.prepare(promisingKernel, args);
      const commands = encode(t.gpu, (pass) => {
        site.record(pass, { ...args, sequences: 4 });
        const before = cache.stats();
        let thrown: unknown;
        try {
          site.record(pass, { ...args, place: 1, sequences: 5 });
        } catch (error) {
          thrown = error;
        }
        expect(thrown instanceof CapacityExceededError, `5 sequences gave ${thrown}`);
        expectEqual([thrown.what, thrown.asked, thrown.capacity], ['sequences', 5, 4], 'error');
        expectEqual(cache.stats(), before, 'counts after the refusal');
        site.record(pass, { ...args, place: 2, sequences: 1 });
      });
      cache.submit([commands]);
      const one = Math.fround(promised(args));
      expectEqual([...(await readFloats(t.gpu, args.output as GPUBuffer, 0, 16))], [one, -77, one, -77], 'results');
      await expectThrows(
        CapacityExceededError,
        () => encode(t.gpu, (pass) => site.record(pass, { ...args, sequences: Number.POSITIVE_INFINITY })),
        /Infinity sequences/,
      );
    },
    once,
  );
}

/** Steps of `length` launches of which one is faulty; returns the step in which the fault was found. */
async function firstReport(t: SpecContext, length: number, faulty: number, steps: number) {
  const { cache, events } = open(t, 'verify-sample');
  const [output, other] = [uploadBuffer(t, new Float32Array(512)), uploadBuffer(t, new Float32Array(512).fill(-77))];
  const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
  let found = -1;
  for (let step = 0; step < steps && found < 0; step++) {
    submit(cache, (pass) => {
      for (let place = 0; place < length; place++)
        site.record(pass, { output: place === faulty ? other : output, place, value: 1 + place, count: 1 });
    });
    if (events.length > 0) found = step;
  }
  return { found, cache, events };
}

spec(
  'verify-sample holds one launch in each 64 against its key',
  async (t) => {
    const { cache, events } = open(t, 'verify-sample');
    const [output, other] = [uploadBuffer(t, new Float32Array(1024)), uploadBuffer(t, new Float32Array(1024))];
    const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    submit(cache, (pass) => {
      for (let place = 0; place < 1024; place++) site.record(pass, { output: other, place, value: 1, count: 1 });
    });
    const inOther = [...(await readFloats(t.gpu, other))].flatMap((value, place) => (value === 1 ? [place] : []));
    const inOutput = (await readFloats(t.gpu, output)).filter((value) => value === 1);
    expectEqual(inOther.length, 16, 'launches with a right result');
    expectEqual(
      inOther.map((place) => Math.floor(place / 64)),
      [...Array(16).keys()],
      'blocks of the sampled launches',
    );
    expectEqual(inOutput.length, 1024 - 16, 'launches that nobody looked at');
    const { launches, falseHits, uncached, hits } = cache.stats();
    expectEqual([events.length, launches, falseHits, uncached, hits], [16, 1024, 16, 16, 1024], 'counts');
  },
  once,
);

spec(
  'verify-sample comes to every launch of a step, also where the step has 64 launches or a fraction',
  async (t) => {
    for (const [length, faulty] of [
      [64, 5],
      [32, 31],
      [128, 77],
      [7, 3],
    ]) {
      const { found, cache, events } = await firstReport(t, length, faulty, 200);
      expect(found >= 0, `a fault in launch ${faulty} of ${length} was not found in 200 steps`);
      expectEqual([cache.stats().falseHits, events[0].type], [1, 'false-hit'], 'reports');
    }
  },
  once,
);

spec(
  'a healthy model has no false hit',
  async (t) => {
    const engine = await loadEngine(t, { launchCache: 'verify', onLaunchEvent: (event) => t.log(JSON.stringify(event)) });
    const [{ text, greedy_ids }] = await goldenPrompts(t);
    const { ids } = await engine.generate(text, { temperature: 0, maxTokens: 16 }).result;
    await engine.score([0, 5, 9, 11]);
    const { falseHits, uncached, misses, launches } = engine.launchStats();
    expectEqual([falseHits, uncached, misses], [0, 0, 0], 'false hits, uncached launches, misses');
    expect(launches > 16 * 20, `${launches} launches`);
    expectEqual([...ids], greedy_ids.slice(0, 16), 'greedy ids');
  },
  once,
);
