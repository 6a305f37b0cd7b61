/**
 * The prefill kernel by matrices: every value in float64 beside it, in a poisoned pool. On a device without subgroup matrices plain code takes
 * their place (matrix-emulation.wgsl), so that all but the products themselves is tested anywhere.
 */

import type { MatrixPrefillTile } from '../../src/attention/tiles/matrix.ts';
import type { KernelChoice } from '../../src/attention/tuned.ts';
import type { MatrixFunctions } from '../../src/matrices.ts';
import { type SpecContext, spec } from '../harness/harness.ts';
import emulation from './attention-matrix-emulation.wgsl' with { type: 'text' };
import { type GridCase, plainCase } from './grid.ts';
import { aligned, type CaseChange, hardScores } from './grid-inputs.ts';
import { GridTotals, runCases } from './grid-run.ts';
import products from './matrix-emulation.wgsl' with { type: 'text' };

const emulated: MatrixFunctions = { wgsl: `${products}\n${emulation}`, directives: [], unroll: false };

type Tile = readonly [subgroupCount: number, rowBlocks: number, columnGroups: number, keyTile: number, sharedStage: boolean];

/** What is compiled in, by a name that cases refer to. All fit into 16 KiB of workgroup memory. */
interface MatrixLayout extends Pick<GridCase, 'heads' | 'headDim' | 'storage'> {
  readonly tile: Tile;
  readonly blockSize?: number;
  readonly modified?: boolean;
  readonly buffers?: 3;
}

const layouts = {
  'f16, 64 rows': { heads: '8/2', headDim: 64, storage: 'f16', tile: [4, 1, 1, 16, true] },
  'f16, group of 5, shared columns': { heads: '5/1', headDim: 64, storage: 'f16', tile: [2, 2, 2, 32, true] },
  'int8, group of 7, head dim 128': { heads: '14/2', headDim: 128, storage: 'int8 by token', tile: [1, 1, 1, 32, true] },
  'e4m3, head dim 80, two stages': { heads: '4/4', headDim: 80, storage: 'e4m3 by tensor', blockSize: 8, tile: [2, 1, 1, 16, false] },
  'e5m2, group of 64, two passes': { heads: '64/1', headDim: 32, storage: 'e5m2 by token', tile: [2, 2, 1, 16, true], modified: true },
  'f16, several buffers': { heads: '16/2', headDim: 96, storage: 'f16', blockSize: 32, tile: [1, 2, 1, 32, false], buffers: 3 },
} as const satisfies Readonly<Record<string, MatrixLayout>>;

const base = { ...plainCase, lengths: 'decode, draft and prompt' } as const;

function matrixKernels(t: SpecContext, layout: MatrixLayout): NonNullable<CaseChange['kernels']> {
  const [subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage] = layout.tile;
  const [numHeads, numKvHeads] = layout.heads.split('/').map(Number);
  const rowTile = (subgroupCount / columnGroups) * rowBlocks * 16;
  const headTile = Math.min(numHeads / numKvHeads, rowTile);
  const tokens = Math.floor(rowTile / headTile);
  const prefill: MatrixPrefillTile = { subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage, headTile, tokens };
  const parts = t.gpu.features.subgroupMatrices ? {} : { matrices: { prefill: emulated } };
  return { name: `matrices ${layout.tile}`, of: (choice: KernelChoice) => ({ ...choice, prefill, parts }) };
}

async function run(t: SpecContext, name: keyof typeof layouts, change: Partial<GridCase>, more: CaseChange = {}): Promise<void> {
  const { tile, ...layout }: MatrixLayout = layouts[name];
  const of = { ...base, ...layout, device: t.variant, maxInvocations: 8, ...change } as GridCase;
  await runCases(t, t.gpu, [[0, of]], new GridTotals(), { ...more, kernels: matrixKernels(t, { tile, ...layout }) });
}

/** One option after another. */
const cases: Readonly<Record<string, readonly [Partial<GridCase>, CaseChange?]>> = {
  'a draft and a chunk': [{}],
  'a prompt of 7': [{ lengths: 'a prompt of 7' }],
  'on edges of blocks and tiles, single tokens too': [{ lengths: 'on edges of blocks, tiles and pieces', route: 'prefill' }],
  'a window': [{ window: 64 }],
  'a window of one key': [{ window: 1 }],
  'a window and kept keys': [{ window: 16, keepFirst: 70 }],
  'a window with blocks before it given up': [
    { lengths: 'three long and a draft', window: 33, keepFirst: 5, route: 'prefill' },
    { release: true },
  ],
  softcap: [{ softcap: 30 }],
  'ALiBi, linear': [{ alibi: 'linear' }],
  'ALiBi, by roots, with sinks': [{ alibi: 'sqrt', sinks: '+-40' }],
  sinks: [{ sinks: 'normal', route: 'prefill' }],
  'every key seen': [{ order: 'full' }],
  'ranges seen in both directions': [{ order: 'ranges' }],
  'a tree with biases': [{ order: 'tree', lengths: 'no query in the middle' }],
  'pieces, merged': [{ splits: 7, lengths: 'three long and a draft', route: 'prefill', sinks: 'normal' }],
  'a prefix shared': [{ prefix: 'told', lengths: 'six over one prefix' }],
  'bit-equal alone': [{ deterministic: true, lengths: '64 mixed' }],
  'rotary, packed': [{ rotary: 'whole', operands: 'packed' }],
  ...hardScores,
  'scores that rise, pieces and sinks': [
    { splits: 7, lengths: 'three long and a draft', route: 'prefill', sinks: '+-40' },
    { adapt: aligned((place) => place) },
  ],
};

for (const [name, [change, more]] of Object.entries(cases)) {
  // Tile and memory are the same on either device; the layouts below have devices with default limits.
  spec(`${name}`, (t) => run(t, 'f16, 64 rows', change, more), { devices: 'granted' });
}

/** Keys that e4m3 holds by a scale of 200: 448 times as much is more than f16 holds, none of these is. */
const wideKeys: NonNullable<CaseChange['adapt']> = ({ query, key }) => {
  for (let i = 0; i < query.length; i++) query[i] /= 500;
  for (let i = 0; i < key.length; i++) key[i] *= 500;
};

/** The first key as well, whose weight is all there is, whether as it is or as the largest value of f16. */
const giantKey: CaseChange['adapt'] = (rows, place) => {
  wideKeys(rows, place);
  for (let i = 3; i < rows.query.length; i += 80) rows.query[i] = 0.04;
  for (let i = 3; i < rows.key.length; i += 80) rows.key[i] = place === 0 ? 70000 : 0;
};

spec(
  'a key that f16 does not hold',
  (t) => run(t, 'e4m3, head dim 80, two stages', { logSumExp: false }, { adapt: giantKey, keyScale: 200 }),
  { devices: 'default', hostIndependent: true },
);

spec(
  'a scale whose largest value f16 does not hold',
  (t) => run(t, 'e4m3, head dim 80, two stages', {}, { adapt: wideKeys, keyScale: 200 }),
  { devices: 'default', hostIndependent: true },
);

const some = [
  'a draft and a chunk',
  'on edges of blocks and tiles, single tokens too',
  'a window and kept keys',
  'pieces, merged',
] as const;

for (const layout of Object.keys(layouts).slice(1) as (keyof typeof layouts)[]) {
  spec(
    layout,
    async (t) => {
      for (const name of some) await run(t, layout, ...cases[name]);
      await run(t, layout, { softcap: 30, sinks: 'normal', order: 'full', lengths: 'a prompt of 7' });
    },
    { devices: layout === 'f16, several buffers' ? 'granted' : 'default', hostIndependent: layout !== 'e4m3, head dim 80, two stages' },
  );
}
