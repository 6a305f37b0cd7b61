/** The matrix products, in every tile, against a float64 reference. */
import {
  type MatmulTile,
  matmulMemory,
  matmulTiles,
  type ProductFrom,
  productsFor,
  type VectorTile,
  vectorMemory,
  vectorTiles,
} from '../../src/engine/tiles.ts';
import { type Gpu, LaunchCache } from '../../src/index.ts';
import { expectClose, random, type SpecContext, spec } from '../harness/harness.ts';
import { type LinearKernel, type LinearOptions, type LinearSize, runLinear } from './linear-case.ts';

const matvec = (tile: VectorTile): LinearKernel => ({ kernel: 'matvec', tile });
const matmul = (tile: MatmulTile): LinearKernel => ({ kernel: 'matmul', tile });

/** Each option alone, those that models combine, and all at once. A combination is a pipeline, sizes are not. */
const combinations: Readonly<Record<string, LinearOptions>> = {
  'f32, plain': { dtype: 'f32' },
  'f16, normalized': { dtype: 'f16', normalized: true },
  'f16, accumulate': { dtype: 'f16', accumulate: true },
  'bf16, gathered': { dtype: 'bf16', gathered: true },
  'bf16, biased': { dtype: 'bf16', biased: true },
  'f32, swiglu': { dtype: 'f32', swiglu: true },
  'bf16, normalized swiglu biased': { dtype: 'bf16', normalized: true, swiglu: true, biased: true },
  'f16, normalized gathered': { dtype: 'f16', normalized: true, gathered: true },
  'f32, all': { dtype: 'f32', normalized: true, swiglu: true, accumulate: true, gathered: true, biased: true },
};

const sizes: readonly LinearSize[] = [
  { inputs: 8, outputs: 1, rows: 1 },
  { inputs: 24, outputs: 2, rows: 3 },
  { inputs: 72, outputs: 3, rows: 5 },
  { inputs: 320, outputs: 65, rows: 64 },
  { inputs: 24, outputs: 130, rows: 65 },
  { inputs: 8, outputs: 66, rows: 130 },
  { inputs: 72, outputs: 4096, rows: 2 },
  { inputs: 136, outputs: 64, rows: 4 },
];

/** Every number of rows up to more than two tiles of eight. */
const fewRows: readonly LinearSize[] = Array.from({ length: 17 }, (_, i) => {
  return { inputs: 8 * (1 + ((5 * i) % 9)), outputs: 34 + 2 * i, rows: i + 1 };
});

/** For the n-th tile: columns that no tile divides, few rows and many, and more than a round of all lanes. */
const tileSizes = (n: number): readonly LinearSize[] => [
  { inputs: 24, outputs: 44, rows: 1 + (n % 17) },
  { inputs: 1048, outputs: 38, rows: 3 + (n % 8) },
  { inputs: 88, outputs: 134, rows: 65 },
];

async function compare(t: SpecContext, kernel: LinearKernel, options: LinearOptions, all: readonly LinearSize[]): Promise<void> {
  const hardware: Gpu = Object.create(t.gpu, { adapter: { value: { ...t.gpu.adapter, software: false } } });
  const cache = new LaunchCache(hardware);
  t.defer(() => cache.destroy());
  for (const size of all) {
    if (options.swiglu && size.outputs % 2 !== 0) continue;
    const { actual, expected } = await runLinear(t, cache, kernel, options, size, random(size.outputs));
    expectClose(actual, expected, { atol: 1e-5, rtol: 1e-4, label: `${size.rows} rows, ${size.inputs} to ${size.outputs}` });
  }
}

const kernels: Readonly<Record<string, LinearKernel>> = {
  matvec: matvec({ rowTile: 4, columnsPerThread: 2, lanes: 16, teams: 3, steps: 2, partRows: 2 }),
  matmul: matmul({ rowTile: 32, columnTile: 32, rowsPerThread: 4, columnsPerThread: 4, depth: 16, stages: 1 }),
  direct: 'direct',
};

for (const [kernelName, kernel] of Object.entries(kernels)) {
  for (const [name, options] of Object.entries(combinations)) {
    const devices = name === 'f32, all' ? 'granted' : 'default';
    spec(`${kernelName}, ${name}`, (t) => compare(t, kernel, options, sizes), { devices });
  }
}

for (const name of ['matvec', 'matmul']) {
  spec(`${name}, up to 17 rows`, (t) => compare(t, kernels[name], combinations['f16, normalized'], fewRows), { devices: 'default' });
}

spec(
  'a product takes the kernel for its number of rows',
  (t) => {
    const sizes = [1, 3, 7, 100].map((rows) => ({ inputs: 8, outputs: 2048, rows }));
    // Inputs that f16 holds: where there are matrices, the last size is by them.
    return compare(t, 'chosen', { dtype: 'f16', normalized: true, inputs: 'halves' }, sizes);
  },
  { devices: 'default', hostIndependent: true },
);

/** A tile's sizes, for the name of a spec. */
const named = (tile: ProductFrom['tile']) => Object.values(tile).join(' ');

/** In turn, so that each option meets many tiles. */
const optionsOf = (index: number): LinearOptions => {
  const all = Object.values(combinations);
  return all[(index * 2 + 1) % all.length];
};

const defaultMemory = 16384;
/** What models use; the other tiles are there to be measured. */
const used = new Set(
  [320, 2048]
    .flatMap((inputs) => [64, 3072, 8192, 2 ** 20].map((outputs) => ({ inputs, outputs })))
    .flatMap((size) => [defaultMemory, 49152].flatMap((memory) => productsFor(size, 2 ** 20, memory)))
    .map(({ tile }) => named(tile)),
);

for (const [i, tile] of vectorTiles.entries()) {
  const devices = vectorMemory(tile) > defaultMemory ? 'granted' : 'default';
  spec(`matvec, tile ${named(tile)}`, (t) => compare(t, matvec(tile), optionsOf(i), tileSizes(i)), {
    devices,
    full: !used.has(named(tile)),
    hostIndependent: true,
  });
}
for (const [i, tile] of matmulTiles.entries()) {
  const devices = matmulMemory(tile) > defaultMemory ? 'granted' : 'default';
  spec(`matmul, tile ${named(tile)}`, (t) => compare(t, matmul(tile), optionsOf(i), tileSizes(i)), {
    devices,
    full: !used.has(named(tile)),
    hostIndependent: true,
  });
}

spec(
  'matvec, more columns than a dimension of the grid has workgroups for',
  async (t) => {
    const tile = { rowTile: 1, columnsPerThread: 1, lanes: 8, teams: 4, steps: 1, partRows: 1 };
    await compare(t, matvec(tile), { dtype: 'f16', normalized: true }, [{ inputs: 8, outputs: 4 * 65535 + 9, rows: 1 }]);
  },
  { devices: 'default' },
);
