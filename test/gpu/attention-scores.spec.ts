/** Scores that are hard on an online softmax, and where the operands lie. All on one set of pipelines. */
import { expectClose, random, spec } from '../harness/harness.ts';
import { type PagedCase, runPaged, type TokenRows } from './paged.ts';

const base: PagedCase = {
  lengths: [
    [1, 300],
    [1, 1],
    [70, 200],
    [1, 129],
    [2, 2],
  ],
  numHeads: 8,
  numKvHeads: 2,
  headDim: 64,
  blockSize: 16,
  dtype: 'f32',
};

/** So that rows above 64 keys are split among workgroups and merged. */
const split = { minSegmentKeys: 64, targetWorkgroups: 1000 };

/** Every query and key along one direction: the score of a key is `strength(its position)` times the default scale of 1 / 8. */
const aligned = (strength: (position: number) => number) => (rows: TokenRows, position: number) => {
  const along = (row: Float32Array, value: number) => row.set(row.map((_, i) => (i % 64 === 3 ? value : 0)));
  along(rows.query, 8);
  along(rows.key, strength(position));
};

const scores: Readonly<Record<string, (rows: TokenRows, position: number) => void>> = {
  'large, of both signs': ({ query }) => query.set(query.map((value) => value * 30)),
  'all equal, keys the same': ({ key }) => key.fill(0.25),
  'all zero, queries zero': ({ query }) => query.fill(0),
  'near -200': aligned(() => -200),
  'near +200': aligned(() => 200),
  'rising by 3 with each key': aligned((position) => 3 * position - 500),
  'falling by 3 with each key': aligned((position) => 500 - 3 * position),
  'a giant first': aligned((position) => (position === 0 ? 1000 : -1000)),
  'a giant now and then': aligned((position) => (position % 67 === 66 ? 800 : -800)),
  'a hole in the middle': aligned((position) => (position > 60 && position < 190 ? -2e4 : 0)),
};

for (const [name, adapt] of Object.entries(scores)) {
  for (const [how, options] of Object.entries({ whole: {}, split })) {
    spec(`scores ${name}, ${how}`, async (t) => {
      const { actual, expected } = await runPaged(t, { ...base, adapt, options }, random(9));
      expectClose(actual, expected, { atol: name.startsWith('large') ? 2e-4 : 1e-5, rtol: 1e-4 });
    });
  }
}

const layers: Readonly<Record<string, Partial<PagedCase>>> = {
  'a scale of its own': { scale: 0.31 },
  'a scale of zero': { scale: 0 },
  'a negative scale': { scale: -0.2 },
  'queries, keys and values packed in one buffer': { packed: true },
  'rotary over whole heads': { rotary: { theta: 10_000, half: 32 } },
  'rotary over a part of each head, packed, scaled': { rotary: { theta: 500, half: 9 }, packed: true, scale: 0.2 },
};

for (const [name, change] of Object.entries(layers)) {
  spec(name, async (t) => {
    const { actual, expected } = await runPaged(t, { ...base, options: split, ...change }, random(4));
    expectClose(actual, expected, { atol: 1e-5, rtol: 1e-4 });
  });
}

spec(
  'rotary, packed, f16',
  async (t) => {
    const testCase: PagedCase = { ...base, dtype: 'f16', rotary: { theta: 10_000, half: 32 }, packed: true };
    const { actual, expected } = await runPaged(t, testCase, random(5));
    expectClose(actual, expected, { atol: 2e-3, rtol: 1e-2 });
  },
  { devices: 'default' },
);
