/**
 * The decode kernel by matrices: every value in float64 beside it, in a poisoned pool. On a device without subgroup matrices plain code takes
 * their place (attention-narrow-emulation.wgsl, attention-byte-emulation.wgsl), so that all but the products themselves is tested anywhere.
 */

import type { KernelParts } from '../../src/attention/kernels.ts';
import type { MatrixDecodeTile } from '../../src/attention/tiles/matrix.ts';
import type { KernelChoice } from '../../src/attention/tuned.ts';
import type { MatrixFunctions } from '../../src/matrices.ts';
import { type SpecContext, spec } from '../harness/harness.ts';
import bytes from './attention-byte-emulation.wgsl' with { type: 'text' };
import emulation from './attention-narrow-emulation.wgsl' with { type: 'text' };
import { type GridCase, plainCase } from './grid.ts';
import { aligned, type CaseChange, hardScores, largeValues } from './grid-inputs.ts';
import { GridTotals, runCases } from './grid-run.ts';

const emulated: MatrixFunctions = { wgsl: emulation, directives: [], unroll: false };

/** What is compiled in, by a name that cases refer to. All fit into 16 KiB of workgroup memory. */
interface NarrowLayout extends Pick<GridCase, 'headDim' | 'storage'> {
  readonly heads: GridCase['heads'] | '6/2';
  readonly tile: readonly [subgroupCount: number, keyBlocks: number];
  readonly byteKeys?: boolean;
  readonly blockSize?: 8 | 32;
  readonly modified?: boolean;
  readonly buffers?: 3;
}

const layouts = {
  'f16, group of 8': { heads: '16/2', headDim: 128, storage: 'f16', tile: [2, 1] },
  'int8, group of 7, several buffers': { heads: '14/2', headDim: 128, storage: 'int8 by token', blockSize: 32, tile: [2, 2], buffers: 3 },
  'e4m3, group of 5, four subgroups': { heads: '5/1', headDim: 64, storage: 'e4m3 by tensor', blockSize: 8, tile: [4, 1] },
  'e5m2, group of 64, one subgroup': { heads: '64/1', headDim: 64, storage: 'e5m2 by token', tile: [1, 2], modified: true },
  'int8, group of 4, keys as bytes': { heads: '8/2', headDim: 128, storage: 'int8 by token', tile: [1, 2], byteKeys: true },
  'int8, group of 3, keys as bytes, one scale': { heads: '6/2', headDim: 64, storage: 'int8 by tensor', tile: [1, 2], byteKeys: true },
  'e4m3, group of 4, one subgroup': { heads: '8/2', headDim: 128, storage: 'e4m3 by token', tile: [1, 2] },
} as const satisfies Readonly<Record<string, NarrowLayout>>;

/** The device's own where it has both kinds of matrices. */
function partsFor({ gpu: { features } }: SpecContext): KernelParts {
  return features.narrowMatrices && features.byteMatrices ? {} : { matrices: { decode: emulated, bytes } };
}

async function run(t: SpecContext, name: keyof typeof layouts, change: Partial<GridCase>, more: CaseChange = {}): Promise<void> {
  const { tile, byteKeys = false, ...layout }: NarrowLayout = layouts[name];
  const [subgroupCount, keyBlocks] = tile;
  const [numHeads, numKvHeads] = layout.heads.split('/').map(Number);
  const decode: MatrixDecodeTile = { headTile: Math.min(8, numHeads / numKvHeads), subgroupCount, keyBlocks, byteKeys };
  const kernels = { name: `matrices ${tile}`, of: (choice: KernelChoice) => ({ ...choice, decode, parts: partsFor(t) }) };
  const of = { ...plainCase, ...layout, device: t.variant, maxInvocations: 8, ...change } as GridCase; // heads in no grid, too
  await runCases(t, t.gpu, [[0, of]], new GridTotals(), { ...more, kernels });
}

/** One option after another. */
const cases: Readonly<Record<string, readonly [Partial<GridCase>, CaseChange?]>> = {
  'three long ones': [{}],
  'on edges of blocks, tiles and pieces': [{ lengths: 'on edges of blocks, tiles and pieces' }],
  'a window': [{ window: 64 }],
  'a window of one key': [{ window: 1 }],
  'a window and kept keys': [{ window: 16, keepFirst: 70 }],
  'a window with blocks before it given up': [{ window: 33, keepFirst: 5 }, { release: true }],
  softcap: [{ softcap: 30 }],
  'ALiBi, linear': [{ alibi: 'linear' }],
  'ALiBi, by roots, with sinks': [{ alibi: 'sqrt', sinks: '+-40' }],
  sinks: [{ sinks: 'normal' }],
  'pieces, merged': [{ splits: 7, sinks: 'normal' }],
  'a prefix shared': [{ prefix: 'told', lengths: 'six over one prefix' }],
  'bit-equal alone': [{ deterministic: true, lengths: '64 mixed' }],
  'rotary, packed': [{ rotary: 'whole', operands: 'packed' }],
  ...hardScores,
  'scores that rise, pieces and sinks': [{ splits: 7, sinks: '+-40' }, { adapt: aligned((place) => place) }],
};

for (const [name, [change, more]] of Object.entries(cases)) {
  // Tile and memory are the same on either device; the layouts below have devices with default limits.
  spec(`${name}`, (t) => run(t, 'f16, group of 8', change, more), { devices: 'granted' });
}

// As `layouts` has it, beside a kernel for all other batches.
spec(
  'a kernel for large batches',
  async (t) => {
    const tile = { headTile: 4, subgroupCount: 1, keyBlocks: 2, byteKeys: true };
    const split = { targetWorkgroups: 1, minSegmentKeys: 4096, leastKeys: 1000, leastWholeKeys: 1000 };
    const kernels = {
      name: 'large',
      of: (choice: KernelChoice) => ({ ...choice, large: { tile, split }, parts: { ...choice.parts, ...partsFor(t) } }),
    };
    const of = { ...plainCase, heads: '8/2', headDim: 128, storage: 'int8 by token', device: t.variant, maxInvocations: 8 } as const;
    for (const lengths of ['three single tokens', 'on edges of blocks, tiles and pieces', '64 mixed'] as const)
      await runCases(t, t.gpu, [[0, { ...of, lengths }]], new GridTotals(), { kernels });
  },
  { devices: 'default', hostIndependent: true },
);

const some = ['on edges of blocks, tiles and pieces', 'a window and kept keys', 'pieces, merged', 'scores rising with each key'] as const;

for (const layout of Object.keys(layouts).slice(1) as (keyof typeof layouts)[]) {
  spec(
    layout,
    async (t) => {
      for (const name of some) await run(t, layout, ...cases[name]);
      await run(t, layout, { softcap: 30, sinks: 'normal', alibi: 'linear' });
      if (layouts[layout].storage.endsWith('by token')) await run(t, layout, {}, { adapt: largeValues });
    },
    { devices: layout === 'int8, group of 7, several buffers' ? 'granted' : 'default', hostIndependent: true },
  );
}
