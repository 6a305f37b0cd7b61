/** A second visit: what the first one compiled is compiled ahead of need, by way of a store. */
import { tuningOrigin } from '../../src/attention/tuned.ts';
import {
  gpuFromDevice,
  indexedDbManifests,
  indexedDbTunings,
  LaunchCache,
  type ManifestStore,
  manifestKey,
  type Tuning,
  textManifests,
} from '../../src/index.ts';
import { emptyBuffer, expect, expectEqual, type SpecContext, spec } from '../harness/harness.ts';
import { keyedKernel, setKernel } from './tiny.ts';

/** Compiles two variants of one kernel and one of another; a later visit finds all three without being asked. */
async function visitTwice(t: SpecContext, store: ManifestStore): Promise<void> {
  const key = manifestKey(t.gpu, 'visits');
  const output = emptyBuffer(t, 16);
  const first = new LaunchCache(t.gpu);
  expectEqual(await store.load(key), undefined, 'what an empty store holds');
  for (const b of [1, 2]) await first.prepare(keyedKernel, { output, a: 7, b, place: 0 });
  await first.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
  await store.save(key, first.manifest());
  first.destroy();

  const second = new LaunchCache(t.gpu);
  const warm = await second.warmup([keyedKernel, setKernel], await store.load(key));
  expectEqual(warm, { compiled: 3, skipped: [] }, 'warm-up');
  for (const b of [1, 2]) await second.prepare(keyedKernel, { output, a: 7, b, place: 0 });
  expectEqual(second.stats().pipelines, 3, 'pipelines');
  second.destroy();
  const other = gpuFromDevice(t.gpu.device, { ...plainInfo, vendor: 'another' });
  expectEqual(await store.load(manifestKey(other, 'visits')), undefined, 'what another adapter finds');
}

const plainInfo = { vendor: '', architecture: '', device: '', description: '' } as GPUAdapterInfo;

spec(
  'a manifest in IndexedDB, and beside it a tuning of the same key',
  (t) =>
    inDatabase(t, async (_, manifests, problems, name) => {
      await visitTwice(t, manifests);
      const tuning: Tuning = { version: 1, origin: tuningOrigin(t.gpu), entries: [] };
      const tunings = indexedDbTunings(name);
      await manifests.save('key', { version: 1, variants: [] });
      await tunings.save('key', tuning);
      expectEqual([await tunings.load('key'), await manifests.load('key')], [tuning, { version: 1, variants: [] }]);
      expectEqual([await tunings.load('other'), problems], [undefined, []]);
    }),
  { requires: ['indexedDB'], devices: 'granted' },
);

spec(
  'what is damaged in IndexedDB is ignored, with a reason',
  (t) =>
    inDatabase(t, async (_, store, problems) => {
      await store.save('key', JSON.parse('{"version": 1, "variants": [{}]}'));
      expectEqual([await store.load('key'), problems.length], [undefined, 1]);
      expect(/no launch manifest of this version; it is ignored/.test(problems[0]), problems[0]);
    }),
  { requires: ['indexedDB'], devices: 'granted' },
);

async function inDatabase(
  t: SpecContext,
  body: (t: SpecContext, store: ManifestStore, problems: readonly string[], name: string) => Promise<void>,
) {
  const name = `pagewise spec ${performance.now()}`;
  t.defer(() => void indexedDB.deleteDatabase(name));
  const problems: string[] = [];
  await body(t, indexedDbManifests(name, { onProblem: (problem) => problems.push(problem) }), problems, name);
}

spec(
  'a manifest in texts',
  async (t) => {
    const texts = new Map<string, string>();
    const write = async (name: string, text: string) => void texts.set(name, text);
    await visitTwice(t, textManifests({ read: async (name) => texts.get(name), write }));
    expectEqual(texts.size, 1, 'texts');
  },
  { devices: 'granted' },
);
