import { expectClose, random, spec } from '../harness/harness.ts';
import { type PagedCase, runPaged } from './paged.ts';

const base: PagedCase = {
  lengths: [
    [1, 37],
    [5, 18],
    [129, 163],
  ],
  numHeads: 8,
  numKvHeads: 2,
  headDim: 64,
  blockSize: 16,
  dtype: 'f32',
};

/** atol and rtol by storage, as the project promises. */
const eight = { atol: 2e-3, rtol: 1e-2 };
const tolerances = { int8: eight, fp8_e4m3: eight, fp8_e5m2: eight, f32: { atol: 1e-5, rtol: 1e-4 }, f16: { atol: 2e-3, rtol: 1e-2 } };

const decodeSplit = { options: { minSegmentKeys: 64, targetWorkgroups: 64 } };

/** One axis at a time round the base case. */
const cases: Readonly<Record<string, Partial<PagedCase>>> = {
  'mixed batch': {},
  'mixed batch, f16': { dtype: 'f16' },
  'decode only': {
    lengths: [
      [1, 523],
      [1, 37],
      [1, 1],
    ],
  },
  'decode on tile and block edges': {
    lengths: [
      [1, 15],
      [1, 16],
      [1, 17],
      [1, 63],
      [1, 64],
      [1, 65],
    ],
  },
  'decode, split and merged': {
    lengths: [
      [1, 523],
      [1, 37],
      [1, 700],
    ],
    ...decodeSplit,
  },
  'decode, split and merged, f16': {
    lengths: [
      [1, 523],
      [1, 37],
      [1, 700],
    ],
    ...decodeSplit,
    dtype: 'f16',
  },
  'prefill from nothing': {
    lengths: [
      [7, 7],
      [33, 33],
    ],
  },
  'chunked prefill': {
    lengths: [
      [16, 240],
      [65, 130],
    ],
  },
  'an empty query in the middle': {
    lengths: [
      [1, 20],
      [0, 9],
      [4, 12],
    ],
  },
  'many short sequences': { lengths: Array.from({ length: 100 }, () => [1, 1] as const) },
  'one head per KV head': { numHeads: 4, numKvHeads: 4 },
  'group of 5': { numHeads: 5, numKvHeads: 1 },
  'group of 7': { numHeads: 14, numKvHeads: 2 },
  'group of 64': {
    numHeads: 64,
    numKvHeads: 1,
    lengths: [
      [1, 70],
      [3, 9],
    ],
    headDim: 32,
  },
  'head dim 24': { headDim: 24 },
  'head dim 80, f16': { headDim: 80, dtype: 'f16' },
  'head dim 128': {
    headDim: 128,
    lengths: [
      [1, 90],
      [40, 50],
    ],
  },
  'head dim 256': {
    headDim: 256,
    lengths: [
      [1, 90],
      [20, 50],
    ],
  },
  'block size 8': { blockSize: 8 },
  'block size 64, f16': { blockSize: 64, dtype: 'f16' },
};

/** Shapes of which the grid has each in every run. */
const inGrid: ReadonlySet<string> = new Set(['one head per KV head', 'group of 5', 'group of 64', 'head dim 128', 'block size 64, f16']);

/** More shapes, of which Chromium has those of the grid. */
const furtherShapes: ReadonlySet<string> = new Set(['group of 7', 'head dim 24', 'head dim 80, f16', 'head dim 256', 'block size 8']);

/** What is compiled into kernels. Such cases take one device, where pipelines take most of the time: that with the smaller limits. */
const compiled = ['numHeads', 'numKvHeads', 'headDim', 'blockSize', 'dtype'] as const;

for (const [name, change] of Object.entries(cases)) {
  spec(
    name,
    async (t) => {
      const testCase = { ...base, ...change };
      const { actual, expected } = await runPaged(t, testCase, random(7));
      expectClose(actual, expected, tolerances[testCase.dtype]);
    },
    {
      devices: compiled.some((key) => key in change) ? 'default' : 'both',
      full: inGrid.has(name),
      hostIndependent: furtherShapes.has(name),
    },
  );
}

/** The other head sizes, each with another group and block size; the smallest workgroup memory is the hardest. The grid has the last two in every run. */
const headSizes: Readonly<Record<string, Partial<PagedCase>>> = {
  'head dim 8, block size 24': { headDim: 8, blockSize: 24 },
  'head dim 96, group of 3, f16': { headDim: 96, numHeads: 6, dtype: 'f16' },
  'head dim 120, block size 32': { headDim: 120, blockSize: 32, numHeads: 4, numKvHeads: 1 },
  'head dim 192, group of 2': { headDim: 192, numHeads: 4 },
};

for (const [name, change] of Object.entries(headSizes)) {
  const testCase = { ...base, ...change };
  spec(
    name,
    async (t) => {
      const { actual, expected } = await runPaged(t, testCase, random(8));
      expectClose(actual, expected, tolerances[testCase.dtype]);
    },
    { devices: 'default', full: testCase.headDim > 96 },
  );
}
