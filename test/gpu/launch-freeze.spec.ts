/** What happens at a miss, before and after `freeze`; how much a cache keeps; what a manifest brings back. */
import {
  defineKernel,
  type Gpu,
  type Kernel,
  key,
  LaunchCache,
  type LaunchCacheOptions,
  type LaunchEvent,
  type LaunchManifest,
  LaunchMissError,
  perCall,
  readBuffer,
  swappable,
  writeBuffer,
} from '../../src/index.ts';
import { expect, expectEqual, expectThrows, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { countObjects, type ObjectCounts } from './observe.ts';
import { bucketKernel, encode, frozenKernel, keyedKernel, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;

function open(t: SpecContext, options: LaunchCacheOptions = {}, gpu: Gpu = t.gpu) {
  const events: LaunchEvent[] = [];
  const cache = new LaunchCache(gpu, { onEvent: (event) => events.push(event), ...options });
  t.defer(() => cache.destroy());
  return { cache, events, output: uploadBuffer(t, new Float32Array(16).fill(-77), undefined, gpu) };
}

/** Pipelines compiled so far: while waiting, and on the spot. */
const compiled = ({ created }: ObjectCounts) => [created.createComputePipelineAsync ?? 0, created.createComputePipeline ?? 0];
const firstValues = async (gpu: Gpu, output: GPUBuffer, count: number) => [...(await readFloats(gpu, output, 0, count * 4))];

/** A cache with the variant (1, 1) prepared, on a device whose objects are counted. */
async function openFrozen(t: SpecContext, policy?: 'throw' | 'uncached' | 'compile') {
  const gpu = await t.openGpu();
  const { cache, events, output } = open(t, {}, gpu);
  const site = await cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 });
  cache.freeze(policy);
  const counts = countObjects(t, gpu);
  return { gpu, cache, events, output, site, counts };
}

for (const policy of [undefined, 'throw'] as const) {
  spec(
    `frozen with the policy ${policy ?? 'by default'}: a miss is an error that names kernel and keys, and records nothing`,
    async (t) => {
      const { gpu, cache, events, output, site, counts } = await openFrozen(t, policy);
      const commands = encode(gpu, (pass) => {
        site.record(pass, { output, a: 1, b: 1, place: 0 });
        let thrown: unknown;
        try {
          site.record(pass, { output, a: 1, b: 2, place: 1 });
        } catch (error) {
          thrown = error;
        }
        expect(thrown instanceof LaunchMissError, `a miss gave ${thrown}`);
        expectEqual([thrown.kernel, thrown.keys], ['keyed', { a: 1, b: 2 }], 'error');
        site.record(pass, { output, a: 1, b: 1, place: 2 });
      });
      cache.submit([commands]);
      expectEqual(await firstValues(gpu, output, 4), [1001, -77, 1001, -77], 'results');
      const { launches, hits, misses, uncached, pipelines } = cache.stats();
      expectEqual([launches, hits, misses, uncached, pipelines], [2, 2, 1, 0, 1], 'counts');
      expectEqual(compiled(counts), [0, 0], 'pipelines compiled');
      expectEqual(events, [{ type: 'miss', kernel: 'keyed', keys: { a: 1, b: 2 } }], 'events');
    },
    once,
  );
}

spec(
  'frozen with the policy uncached: a miss launches right and leaves the prepared variants alone',
  async (t) => {
    const { gpu, cache, events, output, site, counts } = await openFrozen(t, 'uncached');
    for (let round = 0; round < 2; round++) {
      submit(cache, (pass) => {
        for (let place = 0; place < 6; place++) site.record(pass, { output, a: 1, b: 1 + (place % 3), place });
      });
    }
    expectEqual(await firstValues(gpu, output, 7), [1001, 1002, 1003, 1001, 1002, 1003, -77], 'results');
    const { launches, hits, misses, uncached } = cache.stats();
    expectEqual([launches, hits, misses, uncached], [12, 4, 8, 8], 'counts');
    expectEqual(compiled(counts), [0, 2], 'pipelines: one for each new variant, once');
    expectEqual(
      events.map(({ type }) => type),
      Array(8).fill('miss'),
      'events',
    );
    expectEqual(
      cache.manifest().variants.map(({ keys }) => keys),
      [{ a: 1, b: 1 }],
      'variants kept',
    );
  },
  once,
);

spec(
  'frozen with the policy compile: a miss compiles once and is told',
  async (t) => {
    const { gpu, cache, events, output, site, counts } = await openFrozen(t, 'compile');
    for (let round = 0; round < 2; round++) {
      submit(cache, (pass) => {
        for (let place = 0; place < 6; place++) site.record(pass, { output, a: 1, b: 1 + (place % 3), place });
      });
    }
    expectEqual(await firstValues(gpu, output, 7), [1001, 1002, 1003, 1001, 1002, 1003, -77], 'results');
    const { launches, hits, misses, uncached, pipelines } = cache.stats();
    expectEqual([launches, hits, misses, uncached, pipelines], [12, 10, 2, 0, 3], 'counts');
    expectEqual(compiled(counts), [0, 2], 'pipelines');
    const miss = (b: number) => ({ type: 'miss', kernel: 'keyed', keys: { a: 1, b } });
    expectEqual(events, [miss(2), miss(3)], 'events');
  },
  once,
);

spec(
  'a variant prepared ahead is a hit, while compiling too many at once compiles each once',
  async (t) => {
    const gpu = await t.openGpu();
    const { cache, events, output } = open(t, {}, gpu);
    const counts = countObjects(t, gpu);
    const site = await cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 });
    await Promise.all([2, 3, 2, 3, 1].map((b) => site.prepare({ output, a: 1, b, place: 0 })));
    expectEqual(compiled(counts), [3, 0], 'pipelines prepared');
    cache.freeze();
    submit(cache, (pass) => {
      for (let place = 0; place < 3; place++) site.record(pass, { output, a: 1, b: 3 - place, place });
    });
    expectEqual(await firstValues(gpu, output, 4), [1003, 1002, 1001, -77], 'results');
    const { hits, misses, prepares, sites } = cache.stats();
    expectEqual([hits, misses, prepares, sites, events.length], [3, 0, 1, 1, 0], 'counts');
    // What a frozen cache is asked for outright, it still compiles.
    await site.prepare({ output, a: 9, b: 9, place: 0 });
    submit(cache, (pass) => site.record(pass, { output, a: 9, b: 9, place: 3 }));
    expectEqual((await firstValues(gpu, output, 4))[3], 9009, 'result of a variant prepared after freeze()');
  },
  once,
);

spec(
  'no more pipelines are kept than asked for; the one unused for longest goes',
  async (t) => {
    const gpu = await t.openGpu();
    const { cache, events, output } = open(t, { maxPipelines: 3 }, gpu);
    const site = await cache.prepare(keyedKernel, { output, a: 1, b: 0, place: 0 });
    const launch = (b: number) => submit(cache, (pass) => site.record(pass, { output, a: 1, b, place: b }));
    for (const b of [0, 1, 2, 0, 3]) launch(b); // 3 pushes 1 out
    const kept = () => cache.manifest().variants.map(({ keys }) => keys.b);
    expectEqual(kept().sort(), [0, 2, 3], 'kept after a fourth');
    expectEqual(events.at(-1), { type: 'eviction', kernel: 'keyed', keys: { a: 1, b: 1 } }, 'event');
    const counts = countObjects(t, gpu);
    launch(0);
    expectEqual(compiled(counts), [0, 0], 'compiled for one that was kept');
    launch(1); // pushes 2 out
    expectEqual(compiled(counts), [0, 1], 'compiled for the one that went');
    expectEqual(kept().sort(), [0, 1, 3], 'kept after the fifth miss');
    for (let b = 0; b < 12; b++) launch(b);
    expectEqual(kept().length, 3, 'pipelines kept at the end');
    expectEqual(await firstValues(gpu, output, 13), [...Array.from({ length: 12 }, (_, b) => 1000 + b), -77], 'results');
    const { evictions, pipelines, misses } = cache.stats();
    expectEqual([pipelines, evictions], [1 + misses, 1 + misses - 3], 'compiled, let go');
    expectEqual(events.filter(({ type }) => type === 'eviction').length, evictions, 'eviction events');
  },
  once,
);

spec(
  'the uncached path keeps no more pipelines than asked for either',
  async (t) => {
    const gpu = await t.openGpu();
    const { cache, output } = open(t, { maxPipelines: 2 }, gpu);
    const site = await cache.prepare(keyedKernel, { output, a: 1, b: 0, place: 0 });
    cache.freeze('uncached');
    const counts = countObjects(t, gpu);
    const launch = (b: number) => submit(cache, (pass) => site.record(pass, { output, a: 1, b, place: b }));
    for (const b of [1, 2, 1, 2]) launch(b);
    expectEqual(compiled(counts), [0, 2], 'compiled for two misses, twice each');
    for (const b of [3, 4, 1, 2]) launch(b);
    expectEqual(compiled(counts), [0, 6], 'compiled for two others, and the first two again');
    expectEqual(await firstValues(gpu, output, 6), [-77, 1001, 1002, 1003, 1004, -77], 'results');
  },
  once,
);

const copyKernel = defineKernel({
  name: 'copy one',
  source: [
    `struct Arguments { place: u32 }
    @group(0) @binding(0) var<storage, read> input: array<f32>;
    @group(0) @binding(1) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() { output[args.place] = input[0]; }`,
  ],
  arguments: { input: swappable(readBuffer), output: writeBuffer, place: perCall('u32') },
  workgroups: { x: () => 1 },
  singleVariant: true,
});

for (const argumentPath of ['arena', 'immediates'] as const) {
  spec(
    `no more buffer combinations are kept than asked for, on ${argumentPath}`,
    async (t) => {
      const gpu = await t.openGpu();
      const { cache, output } = open(t, { maxBindings: 3, argumentSlots: 8, argumentPath }, gpu);
      const inputs = Array.from({ length: 6 }, (_, i) => uploadBuffer(t, Float32Array.of(i), undefined, gpu));
      const site = await cache.prepare(copyKernel, { input: inputs[0], output, place: 0 });
      const counts = countObjects(t, gpu);
      // All six in one submit: what goes is still on its way to the GPU, and its slot must not be another's yet.
      const step = (order: readonly number[]) =>
        submit(cache, (pass) => {
          for (const [place, input] of order.entries()) site.record(pass, { input: inputs[input], output, place });
        });
      for (let round = 0; round < 20; round++) {
        const order = Array.from({ length: 6 }, (_, i) => (i * 5 + round) % 6);
        step(order);
        if (round % 5 === 0) expectEqual(await firstValues(gpu, output, 7), [...order, -77], `results of round ${round}`);
      }
      const arenas = counts.created.createBuffer - 4; // less the readbacks'
      expect(arenas <= 2, `${arenas} further arenas of 8 slots after 20 rounds`);
      const { evictions, bindGroups } = cache.stats();
      expectEqual(evictions, bindGroups - 3, 'combinations let go');

      // The three used last stay, whatever came before.
      step([0, 1, 2]);
      for (const [round, other] of [3, 4, 5, 3].entries()) {
        step([0, 1]);
        const before = cache.stats().bindGroups;
        step([other, 0, 1]);
        expectEqual(cache.stats().bindGroups - before, 1, `bind groups for the new one of round ${round}`);
      }
    },
    { ...once, ...(argumentPath === 'immediates' && { requires: ['immediate_address_space'] }) },
  );
}

/** As a page keeps it. */
const throughJson = (manifest: LaunchManifest): unknown => JSON.parse(JSON.stringify(manifest));
const kernelsOf = (...kernels: readonly object[]) => kernels as readonly Kernel[];

spec(
  'a manifest compiles in parallel all that an earlier visit used, and prepare compiles nothing',
  async (t) => {
    const gpu = await t.openGpu();
    const visit = async (cache: LaunchCache, output: GPUBuffer) => {
      const sites = await Promise.all([
        cache.prepare(keyedKernel, { output, a: 1, b: 16, place: 0 }),
        cache.prepare(keyedKernel, { output, a: 11, b: 6, place: 0 }),
        cache.prepare(bucketKernel, { output, size: 12, place: 0 }),
        cache.prepare(frozenKernel, { output, factor: 2.5, place: 0, value: 0 }),
        cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 }),
      ] as const);
      await sites[2].prepare({ output, size: 13, place: 0 });
      submit(cache, (pass) => {
        sites[0].record(pass, { output, a: 1, b: 16, place: 0 });
        sites[1].record(pass, { output, a: 11, b: 6, place: 1 });
        sites[2].record(pass, { output, size: 4, place: 2 });
        sites[2].record(pass, { output, size: 5, place: 3 });
        sites[3].record(pass, { output, factor: 2.5, place: 4, value: 4 });
        sites[4].record(pass, { output, place: 5, value: 6, count: 1 });
      });
      expectEqual(await firstValues(gpu, output, 7), [1016, 11006, 22, 11, 10, 6, -77], 'results');
    };
    const first = open(t, {}, gpu);
    await visit(first.cache, first.output);
    const kept = throughJson(first.cache.manifest());

    const second = open(t, {}, gpu);
    const counts = countObjects(t, gpu);
    const kernels = kernelsOf(keyedKernel, bucketKernel, frozenKernel, setKernel);
    const warmup = second.cache.warmup(kernels, kept);
    expectEqual(compiled(counts), [6, 0], 'pipelines begun before any is done');
    expectEqual(await warmup, { compiled: 6, skipped: [] }, 'warm-up');
    await visit(second.cache, second.output);
    expectEqual(compiled(counts), [6, 0], 'pipelines after prepare and launches');
    const { misses, pipelines, prepares } = second.cache.stats();
    expectEqual([misses, pipelines, prepares], [0, 6, 5], 'counts');
    expectEqual(throughJson(second.cache.manifest()), kept, 'manifest of the second visit');

    expectEqual(await second.cache.warmup(kernels, kept), { compiled: 0, skipped: [] }, 'a second warm-up');
    const { variants } = kept as LaunchManifest;
    const third = open(t, {}, gpu);
    await Promise.all([
      third.cache.warmup(kernels, { version: 1, variants: [...variants, ...variants] }),
      third.cache.warmup(kernels, kept),
      visit(third.cache, third.output),
    ]);
    expectEqual([compiled(counts), third.cache.stats().pipelines], [[12, 0], 6], 'pipelines of three at once');
  },
  once,
);

spec(
  'what a manifest says that no longer holds is left out, with the reason',
  async (t) => {
    const gpu = await t.openGpu();
    const { cache, output } = open(t, {}, gpu);
    await cache.prepare(keyedKernel, { output, a: 1, b: 2, place: 0 });
    await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    const good = cache.manifest();
    const [keyed, set] = good.variants;
    const counts = countObjects(t, gpu);
    const kernels = kernelsOf(keyedKernel, setKernel, bucketKernel);
    const warmed = (manifest: unknown, known = kernels) => open(t, {}, gpu).cache.warmup(known, manifest);
    const damaged = [null, undefined, 7, 'text', [], {}, { version: 2, variants: [] }, { version: 1 }, { version: 1, variants: [{}] }];
    for (const manifest of [...damaged, { version: 1, variants: [{ ...keyed, keys: null }] }]) {
      const { compiled: done, skipped } = await warmed(manifest);
      expectEqual([done, skipped.length], [0, 1], `damaged manifest ${JSON.stringify(manifest)}`);
      expect(/damaged/.test(skipped[0]), `reason "${skipped[0]}"`);
    }
    const one = (variant: object) => ({ version: 1, variants: [variant, set] });
    const changed = defineKernel({ ...keyedKernel, source: [`${keyedKernel.source[0]} // changed`] });
    const throwing = defineKernel({
      name: 'throwing',
      source: ['@compute @workgroup_size(1) fn main() {}'],
      prelude: ({ size }) => `const lanes = ${[4, 8][Number(size)].toFixed(0)};`,
      arguments: { output: writeBuffer, size: key('text') },
      workgroups: { x: () => 1 },
    });
    const cases: readonly (readonly [what: string, manifest: unknown, reason: RegExp, known?: readonly Kernel[]])[] = [
      ['foreign kernel', one({ ...keyed, kernel: 'another' }), /^another: no such kernel$/],
      ['changed WGSL', one(keyed), /^keyed: .* changed$/, kernelsOf(changed, setKernel)],
      ['missing key', one({ ...keyed, keys: { a: 1 } }), /^keyed: .* changed$/],
      ['key of another type', one({ ...keyed, keys: { a: 1, b: 'x' } }), /^keyed: .* changed$/],
      ['key that is null', one({ ...keyed, keys: { a: 1, b: null } }), /^keyed: .* changed$/],
      ['key out of range', one({ ...keyed, keys: { a: 1, b: -1 } }), /^keyed: /],
      ['prelude that throws', one({ ...keyed, kernel: 'throwing', keys: { size: 5 } }), /^throwing: /, kernelsOf(throwing, setKernel)],
    ];
    for (const [what, manifest, reason, known] of cases) {
      const { compiled: done, skipped } = await warmed(manifest, known);
      expectEqual([done, skipped.length], [1, 1], `${what}: compiled, skipped`);
      expect(reason.test(skipped[0]), `${what}: reason "${skipped[0]}"`);
    }
    const attempts = compiled(counts)[0]; // those that hold, and the key out of range, of which only the compiler knows
    expectEqual(attempts, cases.length + 1, 'pipelines compiled or tried');
  },
  once,
);

spec(
  'frozen values of an old manifest do not stand in the way of prepare',
  async (t) => {
    const { cache, output } = open(t);
    const before = open(t);
    await before.cache.prepare(frozenKernel, { output, factor: 3, place: 0, value: 0 });
    const old = before.cache.manifest();
    expectEqual(await cache.warmup(kernelsOf(frozenKernel), old), { compiled: 1, skipped: [] }, 'warm-up');
    const site = await cache.prepare(frozenKernel, { output, factor: 5, place: 0, value: 0 });
    submit(cache, (pass) => site.record(pass, { output, factor: 5, place: 0, value: 2 }));
    expectEqual(await firstValues(t.gpu, output, 2), [10, -77], 'result');
    const { compiled: done, skipped } = await cache.warmup(kernelsOf(frozenKernel), old);
    expectEqual([done, skipped.length], [0, 1], 'warm-up with other values than those in use');
    expect(/frozen: .*factor/.test(skipped[0]), `reason "${skipped[0]}"`);
  },
  once,
);

spec(
  'prepares that run at once freeze one value',
  async (t) => {
    const { cache, output } = open(t);
    const outcomes = await Promise.allSettled(
      [2, 3, 2].map((factor) => cache.prepare(frozenKernel, { output, factor, place: 0, value: 0 })),
    );
    expectEqual(
      outcomes.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled'],
      'outcomes for 2, 3 and 2',
    );
    const { sites, pipelines } = cache.stats();
    expectEqual([sites, pipelines], [2, 1], 'sites, pipelines');
    await expectThrows(Error, () => cache.prepare(frozenKernel, { output, factor: 3, place: 0, value: 0 }), /frozen at 2/);
  },
  once,
);
