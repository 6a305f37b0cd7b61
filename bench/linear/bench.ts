import type { Gpu } from 'pagewise';
import { matmulTiles, type Product, productMemory, subgroupTileSize, subgroupTiles, vectorTiles } from '../../src/engine/tiles.ts';
import { type Ceilings, measureCeilings } from '../attention/ceilings.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { passTimer, sampleWarm, timerNote } from '../timestamps.ts';
import { type LinearCase, type LinearShape, OpenLinear, productOf } from './case.ts';

interface Section {
  readonly title: string;
  readonly cases: readonly LinearCase[];
}

/** GPU time of a model's matrix products, and its share of what the memory and the arithmetic allow. Each case is checked in the same run. */
export async function benchLinear(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const { software } = gpu.adapter;
  const small = software || options.quick === true;
  const rounds = options.rounds ?? (options.quick ? 1 : software ? 5 : 11);
  const ceilings = await measureCeilings(gpu, rounds);
  const rows: BenchRow[] = [
    rowOf('read ceiling', {}, 'GB/s', [ceilings.read / 1e9]),
    rowOf('f32 FMA ceiling', {}, 'GFLOP/s', [ceilings.fma / 1e9]),
    ...(ceilings.matrices === undefined ? [] : [rowOf('f16 matrix ceiling', {}, 'GFLOP/s', [ceilings.matrices / 1e9])]),
  ];
  const { filter } = options;
  const all = [...(small ? smallSections(options) : sectionsOf()), ...(gpu.features.subgroupMatrices ? matrixSections(small) : [])];
  // Sweeps take minutes: they are there for whom asks for them.
  const sections = all.filter(({ title }) => (filter === undefined ? small || !title.startsWith('sweep') : title.includes(filter)));
  const { maxComputeWorkgroupStorageSize: memory } = gpu.limits;
  for (const { title, cases } of sections) {
    for (const one of cases.flatMap((one) => bothWays(gpu, one))) {
      if (one.product && productMemory(one.product) > memory) continue;
      try {
        rows.push(...(await measure(gpu, one, title, ceilings, rounds, small)));
      } catch (error) {
        if (!title.startsWith('sweep') || gpu.loss) throw error;
        host.print(`${one.shape.name}, ${kernelName(gpu, one)}: ${error instanceof Error ? error.message.split('\n', 1)[0] : error}`);
      }
    }
    host.print(`${title}: done`);
  }
  const notes = [
    timerNote(gpu),
    `Medians of ${rounds} rounds; each sample is a pass of many products over copies of the matrix that together exceed the cache. A launch waits for the one before it.`,
    'The share is of the longer of two times: of reading and writing everything once, and of the multiply-adds (by matrices: of their products), at the ceilings measured in this run. Every case was checked against float64.',
  ];
  return { rows, notes };
}

async function measure(
  gpu: Gpu,
  one: LinearCase,
  title: string,
  ceilings: Ceilings,
  rounds: number,
  small: boolean,
): Promise<readonly BenchRow[]> {
  const open = await OpenLinear.open(gpu, one, small ? 0 : 256 * 2 ** 20);
  const timer = passTimer(gpu);
  try {
    await open.check();
    const first = await open.time(timer, 2);
    // Some milliseconds a sample, so that neither the clock's steps nor its two ends count.
    const count = small ? 1 : Math.max(2, Math.min(1000, Math.ceil(12 / first)));
    const times = await sampleWarm(rounds, small, (times) => open.time(timer, times * count));
    const { shape, rows, dtype } = one;
    const reading = open.bytes / ceilings.read;
    const arithmetic = open.operations / ((open.byMatrices && ceilings.matrices) || ceilings.fma);
    const kernel = kernelName(gpu, one);
    const params = { matrix: `${shape.name} ${shape.inputs} to ${shape.outputs}`, rows, weights: dtype, kernel };
    const bound = reading > arithmetic ? 'reading' : open.byMatrices ? 'matrices' : 'arithmetic';
    return [
      rowOf(
        title,
        params,
        'us',
        times.map((time) => time * 1000),
      ),
      rowOf(
        `${title}, share of ${bound}`,
        params,
        '%',
        times.map((time) => (100 * Math.max(reading, arithmetic)) / (time / 1000)),
      ),
    ];
  } finally {
    timer.destroy();
    open.destroy();
  }
}

/** Which kernel it was, with its tile in the order of src/engine/tiles.ts. */
function kernelName(gpu: Gpu, one: LinearCase): string {
  const product = productOf(gpu, one);
  return product ? `${product.kernel} ${Object.values(product.tile).join(' ')}` : 'direct';
}

/** A case, and where matrices serve it, what there would be without them. */
function bothWays(gpu: Gpu, one: LinearCase): readonly LinearCase[] {
  const isChosen = !one.product && productOf(gpu, one)?.kernel === 'matmul by matrices';
  return isChosen ? [one, { ...one, subgroupMatrices: false }] : [one];
}

type Model = Readonly<Record<'qkv' | 'output' | 'gateUp' | 'down' | 'head', LinearShape>>;

function modelOf(hidden: number, qkv: number, intermediate: number, vocabulary: number): Model {
  return {
    qkv: { name: 'qkv', inputs: hidden, outputs: qkv, normalized: true },
    output: { name: 'output', inputs: hidden, outputs: hidden, accumulate: true },
    gateUp: { name: 'gate and up', inputs: hidden, outputs: 2 * intermediate, normalized: true, swiglu: true },
    down: { name: 'down', inputs: intermediate, outputs: hidden, accumulate: true },
    head: { name: 'vocabulary', inputs: hidden, outputs: vocabulary, normalized: true, gathered: true },
  };
}

/** Llama 3.2 1B, and the model in demo/model. */
const billion = modelOf(2048, 3072, 8192, 128256);
const shipped = modelOf(320, 768, 768, 4096);

const layerOf = ({ qkv, output, gateUp, down }: Model) => [qkv, output, gateUp, down];
const casesOf = (shapes: readonly LinearShape[], rows: readonly number[], dtype: LinearCase['dtype'] = 'f16') =>
  rows.flatMap((count) => shapes.map((shape): LinearCase => ({ shape, rows: count, dtype })));

/** For few rows every matrix has a tile of its own. */
function sweptShapes(rows: number): readonly LinearShape[] {
  if (rows <= 8) return [...layerOf(billion), billion.head, ...layerOf(shipped), shipped.head];
  if (rows <= 64) return [...layerOf(billion), ...layerOf(shipped), shipped.head];
  return [billion.gateUp, billion.down, ...(rows <= 128 ? [shipped.gateUp] : [])];
}

/** All tiles that make sense for so many rows. */
function sweepOf(shape: LinearShape, rows: number): readonly LinearCase[] {
  const vectors = vectorTiles.filter(({ rowTile }) => rowTile === Math.min(8, rows) || (rows === 8 && rowTile > 1));
  const matrices = matmulTiles.filter(({ rowTile }) => rows > 8 && rowTile <= 2 * rows);
  const products: readonly Product[] = [
    ...vectors.map((tile) => ({ kernel: 'matvec', tile }) as const),
    ...matrices.map((tile) => ({ kernel: 'matmul', tile }) as const),
  ];
  return products.map((product) => ({ shape, rows, dtype: 'f16', product }));
}

function sectionsOf(): readonly Section[] {
  const layer = layerOf(billion);
  return [
    {
      title: 'decode',
      cases: [...casesOf([...layer, billion.head], [1, 8, 64]), ...casesOf([billion.gateUp, billion.down], [2, 4, 16, 32])],
    },
    { title: 'prefill', cases: [...casesOf(layer, [128, 512, 2048]), ...casesOf([billion.head], [512])] },
    { title: 'bf16', cases: casesOf([billion.gateUp, billion.down], [1, 8, 64, 512], 'bf16') },
    { title: 'shipped model', cases: casesOf([...layerOf(shipped), shipped.head], [1, 8, 128]) },
    ...[1, 2, 4, 8, 16, 32, 64, 128, 512, 2048].map((rows) => ({
      title: `sweep, ${rows} rows`,
      cases: sweptShapes(rows).flatMap((shape) => sweepOf(shape, rows)),
    })),
  ];
}

/** All tiles by matrices that make sense for so many rows, beside what there is without them and what is chosen. */
function matrixSweepOf(shape: LinearShape, rows: number): readonly LinearCase[] {
  const tiles = subgroupTiles.filter((tile) => {
    const { rowTile, columnTile } = subgroupTileSize(tile);
    if (rows >= 256) return rowTile >= 64 && columnTile >= 64 && tile.depthGroups === 1;
    return rowTile <= Math.max(32, rows) && 2 * rowTile >= Math.min(64, rows);
  });
  return [
    { shape, rows, dtype: 'f16' },
    ...tiles.map((tile): LinearCase => {
      return { shape, rows, dtype: 'f16', product: { kernel: 'matmul by matrices', tile } };
    }),
  ];
}

function matrixSections(small: boolean): readonly Section[] {
  const model = small ? modelOf(64, 96, 128, 512) : billion;
  return (small ? [33] : [16, 32, 64, 128, 256, 512, 2048]).map((rows) => ({
    title: `sweep by matrices, ${rows} rows`,
    cases: [model.qkv, model.gateUp, model.down].flatMap((shape) => matrixSweepOf(shape, rows)),
  }));
}

/** Of the same kind as on a GPU, with little to do. */
function smallSections({ quick }: BenchOptions): readonly Section[] {
  const tiny = modelOf(64, 96, 128, 512);
  const shapes = quick ? tiny : shipped;
  return [
    { title: 'decode', cases: casesOf([...layerOf(shapes), shapes.head], [1, 8]) },
    { title: 'prefill', cases: casesOf(layerOf(shapes), [quick ? 33 : 128]) },
    { title: 'bf16', cases: casesOf([shapes.gateUp, shapes.down], [1, 8], 'bf16') },
    { title: 'sweep', cases: [1, 8, 33].flatMap((rows) => sweepOf(tiny.gateUp, rows)) },
  ];
}
