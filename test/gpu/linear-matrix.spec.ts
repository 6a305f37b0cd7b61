/**
 * The matrix product by subgroup matrices against a float64 reference, among poison. On a device without them plain code takes their place
 * (matrix-emulation.wgsl), so that all but the products themselves is tested anywhere.
 *
 * Most inputs are such that f16 holds them exactly: then the tolerance is that of f32 sums, and a term that is missed or taken twice shows.
 */
import { productsFor, type SubgroupTile, subgroupMemory, subgroupTiles } from '../../src/engine/tiles.ts';
import { LaunchCache } from '../../src/index.ts';
import { expectClose, random, type SpecContext, spec } from '../harness/harness.ts';
import { type LinearKernel, type LinearOptions, type LinearSize, runLinear } from './linear-case.ts';

const byMatrices = (tile: SubgroupTile): LinearKernel => ({ kernel: 'matmul by matrices', tile });

/** As models combine them, and all at once. */
const combinations: Readonly<Record<string, LinearOptions>> = {
  'f16, plain': { dtype: 'f16' },
  'f16, normalized biased': { dtype: 'f16', normalized: true, biased: true },
  'f16, accumulate biased': { dtype: 'f16', accumulate: true, biased: true },
  'f16, swiglu': { dtype: 'f16', swiglu: true },
  'f16, normalized swiglu': { dtype: 'f16', normalized: true, swiglu: true },
  'bf16, normalized gathered': { dtype: 'bf16', normalized: true, gathered: true },
  'bf16, all': { dtype: 'bf16', normalized: true, swiglu: true, accumulate: true, gathered: true, biased: true },
};

/** Rows, outputs and inputs of which hardly one is a multiple of a tile, or of 16. */
const sizes: readonly LinearSize[] = [
  { inputs: 8, outputs: 2, rows: 1 },
  { inputs: 24, outputs: 34, rows: 15 },
  { inputs: 72, outputs: 16, rows: 16 },
  { inputs: 136, outputs: 130, rows: 33 },
  { inputs: 64, outputs: 64, rows: 64 },
  { inputs: 328, outputs: 66, rows: 65 },
];

/** For the n-th tile: more than one in each direction, and many rounds. */
const tileSizes = (n: number): readonly LinearSize[] => [
  { inputs: 24, outputs: 44, rows: 1 + (n % 17) },
  { inputs: 1048, outputs: 38, rows: 3 + (n % 8) },
  { inputs: 88, outputs: 262, rows: 130 },
];

async function eachSize(
  t: SpecContext,
  tile: SubgroupTile,
  options: LinearOptions,
  all: readonly LinearSize[],
  check: (run: Awaited<ReturnType<typeof runLinear>>, label: string) => void,
): Promise<void> {
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  for (const size of all) {
    const run = await runLinear(t, cache, byMatrices(tile), options, size, random(size.outputs));
    check(run, `${size.rows} rows, ${size.inputs} to ${size.outputs}`);
  }
}

function compare(t: SpecContext, tile: SubgroupTile, options: LinearOptions, all: readonly LinearSize[]): Promise<void> {
  return eachSize(t, tile, { inputs: 'halves', ...options }, all, ({ actual, expected }, label) => {
    expectClose(actual, expected, { atol: 3e-5, rtol: 1e-4, label });
  });
}

const tile: SubgroupTile = { rowGroups: 2, columnGroups: 1, depthGroups: 2, rowBlocks: 1, columnBlocks: 1, depth: 32, stages: 2 };

for (const [name, options] of Object.entries(combinations)) {
  spec(name, (t) => compare(t, tile, options, sizes), { devices: name === 'bf16, all' ? 'granted' : 'default' });
}

for (const name of ['f16, plain', 'bf16, all']) {
  spec(
    `inputs rounded to f16: ${name}`,
    (t) =>
      eachSize(t, tile, combinations[name], sizes, ({ actual, expected, rounding }, label) => {
        // In units of what rounding can do, beside f32 sums.
        const off = Float64Array.from(expected, (value, i) => (actual[i] - value) / (rounding[i] + 3e-5 + 1e-4 * Math.abs(value)));
        expectClose(off, new Float64Array(off.length), { atol: 1, label });
      }),
    { devices: 'default' },
  );
}

spec(
  'inputs beyond f16 become the largest that it can hold',
  (t) =>
    eachSize(t, tile, { dtype: 'f16', inputs: 'giants' }, sizes.slice(1), ({ actual, expected }, label) => {
      expectClose(actual, expected, { atol: 0.1, rtol: 1e-4, label });
    }),
  { devices: 'default' },
);

spec(
  'inputs beyond f16 become the largest that it can hold, with their gains, before they are divided by the root mean square',
  (t) =>
    eachSize(t, tile, { dtype: 'f16', normalized: true, inputs: 'giants' }, sizes.slice(1), ({ actual, expected }, label) => {
      expectClose(actual, expected, { atol: 1e-4, rtol: 1e-3, label });
    }),
  { devices: 'default' },
);

/** In turn, so that each option meets many tiles. */
const optionsOf = (index: number): LinearOptions => {
  const all = Object.values(combinations);
  return all[(index * 2 + 1) % all.length];
};

const named = (sizes: object) => Object.values(sizes).join(' ');

/** What models use; the other tiles are there to be measured. */
const used = new Set(
  [64, 2048, 16384, 2 ** 20]
    .flatMap((outputs) => [16384, 32768, 49152].flatMap((memory) => productsFor({ inputs: 2048, outputs }, 2 ** 20, memory, true)))
    .map((product) => named(product.tile)),
);

/**
 * Of a tile that is too large for a device, what fits: the same but for how much of the operands is in workgroup memory, and by how many subgroups that
 * share a block.
 */
function fitting(t: SpecContext, one: SubgroupTile): SubgroupTile {
  let fit = one;
  for (let depthGroups = one.depthGroups; subgroupMemory(fit) > t.gpu.limits.maxComputeWorkgroupStorageSize; depthGroups /= 2) {
    fit = { ...one, depthGroups, depth: Math.max(32, 16 * depthGroups), stages: 1 };
  }
  if (fit !== one) t.log(`in one stage, ${fit.depthGroups} groups of depth ${fit.depth}: the device lacks workgroup memory`);
  return fit;
}

for (const [i, one] of subgroupTiles.entries()) {
  spec(`tile ${named(one)}`, (t) => compare(t, fitting(t, one), optionsOf(i), tileSizes(i)), {
    devices: subgroupMemory(one) > 16384 ? 'granted' : 'default',
    full: !used.has(named(one)),
    hostIndependent: true,
  });
}
