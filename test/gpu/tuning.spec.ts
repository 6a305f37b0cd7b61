/** Tuning on the device: what wins is right, what is kept is restored without a dispatch, and nothing stays behind. */

import type { DecodeTile } from '../../src/attention/tiles/decode.ts';
import { isMatrixTile } from '../../src/attention/tiles/matrix.ts';
import type { PrefillTile } from '../../src/attention/tiles/prefill.ts';
import { tileSpace, tuningOrigin } from '../../src/attention/tuned.ts';
import { tuneAmong } from '../../src/attention/tuner.ts';
import { type AttentionShape, type Gpu, type TuneProgress, type Tuning, textTunings, tune, tuneOnce } from '../../src/index.ts';
import { expect, expectClose, expectEqual, expectThrows, random, spec } from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { invocationsFor, runPaged } from './paged.ts';

const shape: AttentionShape = { numHeads: 4, numKvHeads: 2, headDim: 32, blockSize: 16, dtype: 'f32' };

const workloads = { decode: [{ sequences: 2, keys: 100 }], prefill: [{ tokens: 20, keys: 50 }] };

/** SwiftShader takes seconds to compile a larger one. */
const smallTile: PrefillTile = { rowTile: 4, keyTile: 4, rowsPerThread: 2, keysPerThread: 2, headTile: 2, tokens: 2 };

spec(
  'a faulty tile does not win, and tuning leaves nothing behind',
  async (t) => {
    const gpu = await t.openGpu();
    const counts = countObjects(t, gpu);
    // A team of three does not divide the eight loads of a row: some are never read. It has less to do than the others.
    const threads = { keyThreads: 3, keysPerThread: 1, valueThreads: 3 };
    const wrong: DecodeTile = { headTile: 2, ...threads, invocations: 6, loadWords: 4, subgroups: false, halves: false, byteKeys: false };
    const broken: DecodeTile = { ...wrong, invocations: 0 };
    const seen: TuneProgress[] = [];
    const { tuning, parts, leftOut } = await tuneAmong(gpu, { shape, ...workloads, onProgress: (one) => seen.push(one) }, () => {
      const [first, other] = tileSpace(gpu, shape).decode;
      return { decode: [first, wrong, broken, other], prefill: [smallTile] };
    });
    expectEqual(leftOut, []);
    const [decode, splits, prefill] = parts;
    expectEqual([decode.part, splits.part, prefill.part], ['decode', 'splits', 'prefill']);
    expectEqual(
      decode.leftOut.map(({ candidate }) => candidate),
      [wrong, broken],
    );
    expect(/output differs from the default's/.test(decode.leftOut[0].reason), decode.leftOut[0].reason);
    expectEqual([decode.tried, prefill.tried, prefill.leftOut], [2, 1, []]);
    for (const { defaultTimes, bestTimes } of parts)
      expect(
        [...defaultTimes, ...bestTimes].every((time) => time > 0),
        `times of ${defaultTimes}, ${bestTimes}`,
      );
    const [entry, ...others] = tuning.entries;
    expectEqual([entry.shape, others], [shape, []]);
    expectEqual([entry.decode, entry.prefill], [decode.best, prefill.best]);
    expectEqual(entry.splits?.length, 1);
    expectEqual(seen.at(-1), { part: 'prefill', done: 1, total: 1 });
    expectEqual(counts.liveBuffers(), 0, 'buffers left');
  },
  { devices: 'granted' },
);

spec(
  'what was found, by the clock of the host, is restored without a dispatch',
  async (t) => {
    const opened = await t.openGpu();
    const features = { ...opened.features, timestampQuery: false };
    const gpu: Gpu = Object.assign(Object.create(opened), { features });
    const texts = new Map<string, string>();
    const store = textTunings({ read: async (name) => texts.get(name), write: async (name, text) => void texts.set(name, text) });
    // The budget is spent when the default is compiled: nothing else is timed.
    const options = { shape, ...workloads, prefill: [], budget: 1 };
    const first = await tuneOnce(gpu, store, options);
    expectEqual(
      first.entries.map(({ decode }) => decode),
      [tileSpace(gpu, shape).decode[0]],
    );
    const counts = countObjects(t, gpu);
    expectEqual(await tuneOnce(gpu, store, options), first);
    expectEqual([counts.created, counts.submits, counts.writes, counts.readBytes], [{}, 0, 0, 0], 'work of a restored tuning');
  },
  { devices: 'granted' },
);

spec(
  'an abort ends tuning with its reason, and leaves nothing behind',
  async (t) => {
    const gpu = await t.openGpu();
    const counts = countObjects(t, gpu);
    const controller = new AbortController();
    const onProgress = () => controller.abort(new RangeError('enough'));
    await expectThrows(RangeError, () => tune(gpu, { shape, ...workloads, onProgress, signal: controller.signal }));
    expectEqual(counts.liveBuffers(), 0, 'buffers left');
  },
  { devices: 'granted' },
);

spec(
  'tuned tiles and splits compute what the reference does',
  async (t) => {
    const maxInvocations = invocationsFor(t); // as runPaged asks for
    const other = { ...shape, numHeads: 6, headDim: 16 };
    const space = tileSpace(t.gpu, other, { maxInvocations });
    const decode = space.decode[space.decode.length - 1];
    const size = ({ rowTile, keyTile }: PrefillTile) => rowTile * keyTile;
    const plain = space.prefill.filter((tile): tile is PrefillTile => !isMatrixTile(tile));
    const prefill = plain.reduce((small, tile) => (size(tile) < size(small) ? tile : small));
    const splits = [{ sequences: 1, keys: 100, targetWorkgroups: 512, minSegmentKeys: 32 }];
    const tuning: Tuning = { version: 1, origin: tuningOrigin(t.gpu), entries: [{ shape: other, decode, prefill, splits }] };
    const problems: string[] = [];
    const options = { tuning, onTuningProblem: (problem: string) => void problems.push(problem) };
    const lengths = [
      [1, 130],
      [20, 33],
      [1, 7],
    ] as const;
    const { actual, expected } = await runPaged(t, { ...other, lengths, options }, random(7));
    expectEqual(problems, []);
    expectClose(actual, expected, { atol: 1e-5, rtol: 1e-4, label: 'output' });
  },
  { devices: 'granted' },
);
