/** What is hard on attention, beyond the pairs of the grid; every value in float64 beside it, in a poisoned pool. All on two layouts. */
import { spec } from '../harness/harness.ts';
import { type GridCase, plainCase } from './grid.ts';
import { aligned, type CaseChange } from './grid-inputs.ts';
import { GridTotals, runCases } from './grid-run.ts';
import { invocationsFor } from './paged.ts';

const base = { ...plainCase, heads: '8/2', headDim: 64 } as const;

const cases: Readonly<Record<string, readonly [Partial<GridCase>, CaseChange?]>> = {
  'scores near -300 in a window': [{ window: 40 }, { adapt: aligned(() => -300) }],
  'scores near -300 in a window, split': [{ window: 40, splits: 7 }, { adapt: aligned((place) => -300 + (place % 3)) }],
  'scores near -300 in a window with kept keys at +300': [
    { window: 5, keepFirst: 5, splits: 7 },
    { adapt: aligned((place) => (place < 3 ? 300 : -300)) },
  ],
  'scores of -1000 behind the window, which must not count': [
    { window: 16 },
    { adapt: aligned((place) => (place % 100 < 60 ? 1000 : -1000)) },
  ],
  'scores hundreds of times the softcap': [{ softcap: 1 }, { adapt: aligned((place) => (place % 2 === 0 ? 400 : -400)) }],
  // None near 0: what is left of sums of thousands there is up to f32.
  'scores up to thousands of times the softcap, in a window, split': [
    { softcap: 1, window: 100, splits: 7 },
    { adapt: aligned((place) => (place % 3 === 0 ? -1 : 1) * (100 + 3 * place)) },
  ],
  'lengths on the edges of blocks, tiles and pieces': [{ lengths: 'on edges of blocks, tiles and pieces', splits: 8 }],
  'lengths on the edges, in a window of a tile': [{ lengths: 'on edges of blocks, tiles and pieces', splits: 8, window: 64 }],
  'lengths on the edges, through the prefill kernel': [{ lengths: 'on edges of blocks, tiles and pieces', route: 'prefill' }],
  'sinks of 40 and -40 with ALiBi, split': [{ sinks: '+-40', alibi: 'linear', splits: 7 }],
  'sinks with ALiBi by roots in a window, in pieces of which some see no key': [{ sinks: 'normal', alibi: 'sqrt', splits: 16, window: 20 }],
  'sinks with scores near -300': [{ sinks: 'normal', splits: 7 }, { adapt: aligned(() => -300) }],
  'blocks before the window given up': [{ window: 33 }, { release: true }],
  'blocks before the window given up, but for the kept keys, split': [{ window: 33, keepFirst: 20, splits: 7 }, { release: true }],
  'blocks before the window given up, through the prefill kernel': [{ window: 33, keepFirst: 5, route: 'prefill' }, { release: true }],
};

const quantised: typeof cases = {
  'blocks before the window given up': [{ window: 33, keepFirst: 20 }, { release: true }],
  'keys and values all zero': [{ splits: 7 }, { adapt: ({ key, value }) => [key.fill(0), value.fill(0)] }],
  'rows of very different size': [
    {},
    // Keys are no larger than usual: among scores in the thousands, f32 itself would decide which key wins. Weights in f16 are too coarse for values in
    // the thousands whose sum is small.
    {
      kernels: { name: 'weights in f32', options: { shaderF16: false, subgroupMatrices: false } },
      adapt: ({ key, value }, place) => {
        key.set(key.map((x) => x * 10 ** ((place % 7) - 6)));
        value.set(value.map((x) => x * 10 ** ((place % 7) - 3)));
      },
    },
  ],
};

for (const [storage, list] of [
  ['f32', cases],
  ['e4m3 by token', quantised],
] as const) {
  for (const [name, [change, more]] of Object.entries(list)) {
    spec(`${name}, ${storage}`, async (t) => {
      const of = { ...base, storage, device: t.variant, maxInvocations: invocationsFor(t), ...change } as const;
      await runCases(t, t.gpu, [[0, of]], new GridTotals(), more);
    });
  }
}
