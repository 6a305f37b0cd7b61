/**
 * Decode tiles in which more invocations read a value together than a key: every value in float64 beside it, in a poisoned pool. On a device without
 * shader-f16 products in f16 are those in f32 by the same text, so that all but their range and rounding is tested anywhere.
 */
import { deviceHalves, type HalfProducts } from '../../src/attention/attend-kernels.ts';
import type { KernelChoice } from '../../src/attention/tuned.ts';
import { type SpecContext, spec } from '../harness/harness.ts';
import { type GridCase, plainCase } from './grid.ts';
import { aligned, type CaseChange, largeValues } from './grid-inputs.ts';
import { GridTotals, runCases } from './grid-run.ts';

interface CrewLayout extends Pick<GridCase, 'heads' | 'headDim' | 'storage'> {
  readonly keyThreads: number;
  readonly keysPerThread: number;
  readonly valueThreads: number;
  readonly crews: number;
  readonly headTile: number;
  readonly loadWords: number;
  readonly halves?: boolean;
  readonly byteKeys?: boolean;
}

const cases: readonly (readonly [Partial<GridCase>, CaseChange?])[] = [
  [{ alibi: 'linear', softcap: 30 }],
  [{ window: 64, keepFirst: 70, sinks: 'normal' }],
  [{ splits: 7, sinks: '+-40' }],
  // Every key raises the reference.
  [{}, { adapt: aligned((place) => place - 500, 16) }],
];

const inF32 = (text: string) =>
  text
    .replace(/vec([24])<f16>/g, 'vec$1f')
    .replace(/\bf16\b/g, 'f32')
    .replace(/(\d)h\b/g, '$1f');
const { values, keys } = deviceHalves;
const emulated: HalfProducts = { values: inF32(values), keys: inF32(keys), directives: [] };

async function run(t: SpecContext, layout: CrewLayout, subgroups: boolean): Promise<void> {
  const { keyThreads, keysPerThread, valueThreads, crews, headTile, loadWords, halves = false, byteKeys = false, ...shape } = layout;
  const threads = { headTile, keyThreads, keysPerThread, valueThreads, invocations: crews * valueThreads, loadWords };
  const decode = { ...threads, subgroups, halves, byteKeys };
  const halfProducts = t.gpu.features.shaderF16 ? deviceHalves : emulated;
  const kernels = {
    name: JSON.stringify(decode),
    of: (choice: KernelChoice) => ({ ...choice, decode, parts: { halfProducts } }),
  };
  const hasScales = layout.storage.endsWith('by token');
  for (const [change, more] of halves && hasScales ? [...cases, [{}, { adapt: largeValues }] as const] : cases) {
    const of = { ...plainCase, ...shape, device: t.variant, maxInvocations: 8, ...change } as GridCase;
    await runCases(t, t.gpu, [[0, of]], new GridTotals(), { ...more, kernels });
  }
}

const byBarriers: Readonly<Record<string, CrewLayout>> = {
  'f16, crews of four teams': {
    ...{ heads: '8/2', headDim: 64, storage: 'f16' },
    ...{ keyThreads: 2, keysPerThread: 2, valueThreads: 8, crews: 2, headTile: 4, loadWords: 4 },
  },
  'int8, one crew of two teams': {
    ...{ heads: '14/2', headDim: 64, storage: 'int8 by token' },
    ...{ keyThreads: 2, keysPerThread: 2, valueThreads: 4, crews: 1, headTile: 4, loadWords: 2 },
  },
  'e4m3, keys of one invocation, a row of five loads': {
    ...{ heads: '5/1', headDim: 80, storage: 'e4m3 by tensor' },
    ...{ keyThreads: 1, keysPerThread: 1, valueThreads: 5, crews: 3, headTile: 3, loadWords: 4 },
  },
};

for (const [name, layout] of Object.entries(byBarriers)) {
  spec(`by barriers: ${name}`, (t) => run(t, layout, false), { devices: 'default', hostIndependent: true });
}

/** How codes are multiplied: all in f16; keys as bytes, values in f16 or f32. */
const inHalves = { halves: true, byteKeys: false } as const;
const byBytes = { halves: true, byteKeys: true } as const;
const bytesAndFloats = { halves: false, byteKeys: true } as const;
const inWords = ({ halves, byteKeys }: Pick<CrewLayout, 'halves' | 'byteKeys'>) => {
  if (byteKeys) return `, keys as bytes, values in ${halves ? 'f16' : 'f32'}`;
  return halves ? ' in f16' : '';
};

const codes = [
  ...(['int8 by token', 'e4m3 by token', 'e5m2 by token', 'e5m2 by tensor'] as const).map((storage) => [storage, inHalves] as const),
  ...[byBytes, bytesAndFloats].flatMap((products) =>
    (['int8 by token', 'int8 by tensor'] as const).map((storage) => [storage, products] as const),
  ),
];
for (const [storage, products] of codes) {
  spec(
    `by barriers${inWords(products)}: ${storage}`,
    async (t) => {
      const tile = { keyThreads: 2, keysPerThread: 2, valueThreads: 8, crews: 2, headTile: 4, loadWords: 2, ...products };
      await run(t, { heads: '14/2', headDim: 64, storage, ...tile }, false);
    },
    { devices: 'default', hostIndependent: true },
  );
}

for (const [storage, teams, products] of [
  ['int8 by token', 2, {}],
  ['e5m2 by tensor', 4, {}],
  ['f16', 4, {}],
  ...codes.map(([storage, products]) => [storage, products.byteKeys ? 2 : 4, products] as const),
] as const) {
  spec(
    `by subgroups${inWords(products)}: ${storage}, crews of ${teams} teams`,
    async (t) => {
      const valueThreads = Math.min(8, t.gpu.subgroupMinSize);
      const keyThreads = valueThreads / teams;
      const tile = { keyThreads, keysPerThread: keyThreads, valueThreads, crews: 2, headTile: 2 };
      await run(t, { heads: '8/2', headDim: 64, storage, ...tile, loadWords: storage === 'f16' ? 4 : 2, ...products }, true);
    },
    { devices: 'default', requires: ['subgroups'] },
  );
}
