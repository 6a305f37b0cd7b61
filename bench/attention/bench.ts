import type { Gpu, KvDtype } from 'pagewise';
import { hasTokenScales, rowBytes } from '../../src/attention/layout.ts';
import { type DecodeTile, decodeMemory } from '../../src/attention/tiles/decode.ts';
import { isMatrixTile, type MatrixDecodeTile, type MatrixPrefillTile, matrixPrefillMemory } from '../../src/attention/tiles/matrix.ts';
import { type AttentionShape, chooseKernels, tileSpace } from '../../src/attention/tuned.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { passTimer, sampleWarm, timerNote } from '../timestamps.ts';
import { type AppendCase, measureAppend } from './append.ts';
import { type AttentionCase, OpenCase, type Shape } from './case.ts';
import { type Ceilings, measureCeilings } from './ceilings.ts';

interface Section {
  readonly title: string;
  /** What bounds it: reading keys and values, or arithmetic. */
  readonly bound: 'read' | 'fma';
  /** What is not as in the others. */
  readonly shape?: Partial<Shape>;
  readonly cases: readonly AttentionCase[];
}

/** GPU time of attention over a paged cache, and its share of what the memory or the arithmetic allows. Each case is checked in the same run. */
export async function benchAttention(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const { software } = gpu.adapter;
  const rounds = options.rounds ?? (options.quick ? 1 : software ? 5 : 11);
  const shape: Shape = software
    ? { numHeads: 8, numKvHeads: 2, headDim: 64, blockSize: 16 }
    : { numHeads: 32, numKvHeads: 8, headDim: 128, blockSize: 16 };
  const ceilings = await measureCeilings(gpu, rounds);
  const rows: BenchRow[] = [
    rowOf('read ceiling', {}, 'GB/s', [ceilings.read / 1e9]),
    rowOf('f32 FMA ceiling', {}, 'GFLOP/s', [ceilings.fma / 1e9]),
    ...(ceilings.matrices === undefined ? [] : [rowOf('f16 matrix ceiling', {}, 'GFLOP/s', [ceilings.matrices / 1e9])]),
  ];
  const { filter } = options;
  const all = sectionsOf(gpu, shape, options);
  // The sweep takes minutes: it is there for whom asks for it.
  const sections = all.filter(({ title }) => (filter === undefined ? !title.startsWith('sweep') : title.includes(filter)));
  for (const { title, bound, cases, shape: change } of sections) {
    const ofSection = { ...shape, ...change };
    for (const one of cases) {
      try {
        rows.push(...(await measure(gpu, ofSection, one, title, ceilings, bound, rounds, options.quick === true)));
      } catch (error) {
        if (!title.startsWith('sweep') || gpu.loss) throw error;
        host.print(`${one.name}, ${kernelOf(gpu, ofSection, one)}: ${error instanceof Error ? error.message.split('\n', 1)[0] : error}`);
      }
    }
    host.print(`${title}: done`);
  }
  if ('append'.includes(options.filter ?? '')) {
    for (const one of appendCases(software || options.quick === true)) {
      rows.push(...(await measureAppend(gpu, shape, one, rounds, options.quick === true)));
    }
    host.print('append: done');
  }
  const notes = [
    timerNote(gpu),
    `Heads ${shape.numHeads}/${shape.numKvHeads}, head dim ${shape.headDim}, block size ${shape.blockSize}, blocks in random order. Medians of ${rounds} rounds; each sample is a pass of many attentions over layers that together exceed the cache.`,
    'The share is of the ceiling measured in this run: of reading (decode), of f32 multiply-adds (prefill), or of f16 matrices (prefill by matrices). Every case was checked against float64.',
  ];
  return { rows, notes };
}

async function measure(
  gpu: Gpu,
  shape: Shape,
  one: AttentionCase,
  title: string,
  ceilings: Ceilings,
  bound: 'read' | 'fma',
  rounds: number,
  quick: boolean,
): Promise<readonly BenchRow[]> {
  const open = await OpenCase.open(gpu, shape, one, gpu.adapter.software || quick ? 0 : 256 * 2 ** 20);
  const timer = passTimer(gpu);
  try {
    await open.check();
    const first = await open.time(timer, 2);
    // Some milliseconds a sample, so that neither the clock's steps nor its two ends count.
    const count = quick ? 1 : Math.max(2, Math.min(400, Math.ceil(12 / first)));
    const times = await sampleWarm(rounds, gpu.adapter.software || quick, (times) => open.time(timer, times * count));
    const kernel = kernelOf(gpu, shape, one);
    const params = {
      case: one.name,
      kv: one.dtype,
      ...(one.prefill && { kernel }),
      ...(one.decode && { tile: describeDecode(one.decode) }),
    };
    const ceiling = bound === 'fma' && kernel !== 'plain' ? ceilings.matrices : ceilings[bound];
    const work = bound === 'read' ? open.keyValueBytes : open.operations;
    return [
      rowOf(
        title,
        params,
        'us',
        times.map((time) => time * 1000),
      ),
      rowOf(
        `${title}, share`,
        params,
        '%',
        times.map((time) => (100 * work) / (time / 1000) / (ceiling ?? Number.NaN)),
      ),
      ...(bound === 'fma'
        ? [
            rowOf(
              `${title}, rate`,
              params,
              'GFLOP/s',
              times.map((time) => work / (time / 1000) / 1e9),
            ),
          ]
        : []),
    ];
  } finally {
    timer.destroy();
    open.destroy();
  }
}

const all = (count: number, queryLen: number, seqLen: number) => Array.from({ length: count }, () => [queryLen, seqLen] as const);
const decode = (batch: number, seqLen: number, dtype: KvDtype = 'f16'): AttentionCase => ({
  name: `${batch} x ${seqLen}`,
  lengths: all(batch, 1, seqLen),
  dtype,
});
const prefill = (batch: number, queryLen: number, seqLen: number, dtype: KvDtype = 'f16'): AttentionCase => ({
  name: `${batch} x ${queryLen}${seqLen > queryLen ? ` on ${seqLen - queryLen}` : ''}`,
  lengths: all(batch, queryLen, seqLen),
  dtype,
});

const dtypes: readonly KvDtype[] = ['f32', 'f16', 'int8', 'fp8_e4m3', 'fp8_e5m2'];

/** 64 sequences of 4,096 keys; in f32 half as many, which are as many bytes as in f16. */
const longDecode = (dtype: KvDtype): AttentionCase => decode(dtype === 'f32' ? 32 : 64, 4096, dtype);

function appendCases(small: boolean): readonly AppendCase[] {
  const sizes = small
    ? [[4, 8]]
    : [
        [64, 1],
        [1, 2048],
      ];
  return sizes.flatMap(([batch, tokens]) => (['f16', 'int8'] as const).map((dtype) => ({ batch, tokens, dtype })));
}

/**
 * Of a decode tile: invocations that share a key and a value, keys, invocations, u32 of a load, and `b` where it is by barriers; of one by matrices:
 * subgroups, and matrices of keys, and whether keys are operands as bytes.
 */
function describeDecode(tile: DecodeTile | MatrixDecodeTile | 'plain'): string {
  if (tile === 'plain') return tile;
  if (isMatrixTile(tile)) return `matrices ${tile.subgroupCount}.${tile.keyBlocks}${tile.byteKeys ? ', bytes' : ''}`;
  const { keyThreads, keysPerThread, valueThreads, invocations, loadWords, subgroups } = tile;
  return `${[keyThreads, valueThreads, keysPerThread, invocations, loadWords].join('.')}${subgroups ? '' : 'b'}`;
}

/** The prefill kernel of a case, in words: `plain`, or subgroups, blocks of rows, column groups and keys, and `t` where keys and values take turns. */
function kernelOf(gpu: Gpu, shape: Shape, { prefill, dtype, options }: AttentionCase): string {
  const tile = prefill ?? chooseKernels(gpu, { ...shape, dtype }, options).prefill;
  if (tile === 'plain' || !isMatrixTile(tile)) return 'plain';
  const { subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage } = tile;
  return `matrices ${[subgroupCount, rowBlocks, columnGroups, keyTile].join('.')}${sharedStage ? 't' : ''}`;
}

/** Each case by the plain kernel, and by matrices where the device has them: in the tile that would be chosen. */
function byBothKernels(gpu: Gpu, shape: Shape, cases: readonly AttentionCase[]): readonly AttentionCase[] {
  return cases.flatMap((one) => {
    const { prefill } = chooseKernels(gpu, { ...shape, dtype: one.dtype }, one.options);
    return [...(isMatrixTile(prefill) ? [{ ...one, prefill }] : []), { ...one, prefill: 'plain' as const }];
  });
}

/** Each dtype of less than four bytes by the plain kernel, and by all tiles by matrices where the device has them. */
function groupCases(gpu: Gpu, shape: Shape): readonly AttentionCase[] {
  return dtypes
    .filter((dtype) => dtype !== 'f32')
    .flatMap((dtype) => {
      const byMatrices = tileSpace(gpu, { ...shape, dtype }).decode.filter((tile) => isMatrixTile(tile));
      return [...byMatrices, 'plain' as const].map((tile) => ({ ...decode(64, 4096, dtype), decode: tile }));
    });
}

/** All tiles by matrices that the device takes. */
function matrixSweep({ limits, features }: Gpu, { numHeads, numKvHeads, headDim }: Shape): readonly MatrixPrefillTile[] {
  if (!features.subgroupMatrices) return [];
  const grids = [
    [1, 1],
    [2, 1],
    [2, 2],
    [4, 2],
    [4, 4],
  ] as const;
  const sizes = combinations({ subgroupCount: [4, 8, 16], grid: grids, keyTile: [16, 32, 64, 128], sharedStage: [false, true] });
  return sizes.flatMap(({ subgroupCount, grid: [rowBlocks, columnGroups], keyTile, sharedStage }) => {
    const rowTile = (subgroupCount / columnGroups) * rowBlocks * 16;
    const headTile = Math.min(numHeads / numKvHeads, rowTile);
    const tile = { subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage, headTile, tokens: Math.floor(rowTile / headTile) };
    const isWhole = (keyTile / 16) % columnGroups === 0 && (headDim / 16) % columnGroups === 0;
    const fits = matrixPrefillMemory(tile, headDim) <= limits.maxComputeWorkgroupStorageSize;
    return isWhole && fits && 32 * subgroupCount <= limits.maxComputeInvocationsPerWorkgroup ? [tile] : [];
  });
}

/** Tiles of the decode kernel: by subgroups where the device has them. */
function decodeSweep(gpu: Gpu, shape: Shape, dtype: KvDtype): readonly DecodeTile[] {
  const { limits, features, subgroupMinSize } = gpu;
  const { subgroups } = features;
  const { numHeads, numKvHeads, headDim } = shape;
  const layout = { ...shape, dtype };
  const { halves, byteKeys } = chooseKernels(gpu, layout).plainDecode;
  const headTile = Math.min(8, numHeads / numKvHeads);
  const loadWords = hasTokenScales(layout) ? 2 : 4;
  const units = rowBytes(layout) / (4 * loadWords);
  const sizes = combinations({
    keyThreads: [2, 4, 8, 16, 32],
    valueThreads: [8, 16, 32],
    keysPerThread: [2, 4, 8],
    invocations: [64, 128, 256],
  });
  return sizes.flatMap((size) => {
    const { keyThreads, valueThreads, keysPerThread, invocations } = size;
    const tile = { headTile, ...size, loadWords, subgroups, halves, byteKeys };
    const isRow = units % valueThreads === 0 && valueThreads >= keyThreads && invocations >= valueThreads;
    const isWhole = isRow && keysPerThread <= keyThreads && (!subgroups || valueThreads <= subgroupMinSize);
    // What an invocation has in flight, and sums of: registers are what there is least of.
    const loads = ((keysPerThread * units) / keyThreads) * loadWords;
    const isSmall = loads >= 8 && loads <= 32 && (headTile * headDim) / valueThreads <= 64;
    const fits = decodeMemory(tile, headDim, hasTokenScales(layout)) <= limits.maxComputeWorkgroupStorageSize;
    return isWhole && isSmall && fits ? [tile] : [];
  });
}

/** Batches by the kernel of all others and by that of large ones, where the device has it. */
function largeSweep(gpu: Gpu, shape: AttentionShape, ragged: AttentionCase): readonly AttentionCase[] {
  const { large } = chooseKernels(gpu, shape);
  if (!large) return [];
  const sizes = [
    [1, 16384],
    [1, 65536],
    [2, 16384],
    [2, 32768],
    [8, 1024],
    [8, 4096],
    [8, 8192],
    [32, 512],
    [32, 1024],
    [32, 2048],
    [64, 512],
    [64, 1024],
    [64, 2048],
    [64, 4096],
  ] as const;
  const { targetWorkgroups, minSegmentKeys } = large.split;
  return [...sizes.map(([batch, keys]) => decode(batch, keys, shape.dtype)), ragged].flatMap((one) => [
    { ...one, decode: 'plain' as const },
    { ...one, decode: large.tile, options: { targetWorkgroups, minSegmentKeys } },
  ]);
}

/** Each value of each name with each of the others. */
function combinations<T extends Readonly<Record<string, readonly unknown[]>>>(values: T): { [K in keyof T]: T[K][number] }[] {
  const all = Object.entries(values).reduce<Record<string, unknown>[]>(
    (some, [name, list]) => some.flatMap((one) => list.map((value) => ({ ...one, [name]: value }))),
    [{}],
  );
  return all as { [K in keyof T]: T[K][number] }[];
}

/** Numbers of workgroups to cut a batch for, as far as there are pieces of 64 keys. */
function splitTargets(batch: number, keys: number, { numKvHeads }: Shape): readonly number[] {
  return [32, 64, 128, 256, 512, 1024, 2048, 4096].filter((target) => target <= (batch * numKvHeads * keys) / 64);
}

function sectionsOf(gpu: Gpu, shape: Shape, { quick }: BenchOptions): readonly Section[] {
  if (gpu.adapter.software || quick) {
    const keys = quick ? 64 : 512;
    return [
      { title: 'decode', bound: 'read', cases: [decode(1, keys), decode(4, keys)] },
      { title: 'KV dtypes', bound: 'read', cases: dtypes.map((dtype) => decode(4, keys, dtype)) },
      { title: 'prefill', bound: 'fma', cases: byBothKernels(gpu, shape, [prefill(1, keys / 4, keys / 4)]) },
    ];
  }
  const raggedLengths = Array.from({ length: 32 }, (_, i) => [1, i === 0 ? 16384 : 200 + 37 * i] as const);
  const ragged = (dtype: KvDtype): AttentionCase => ({ name: '32 ragged, one of 16384', lengths: raggedLengths, dtype });
  const mixed = [...all(4, 512, 512), ...all(60, 1, 2048)];
  const sweep = [
    [1, 512],
    [1, 1024],
    [1, 2048],
    [1, 4096],
    [1, 65536],
    [8, 1024],
    [8, 4096],
    [32, 2048],
  ] as const;
  const groupsOf8 = { numHeads: 8 * shape.numKvHeads };
  return [
    {
      title: 'decode',
      bound: 'read',
      cases: [
        ...[1024, 4096, 16384, 65536].map((keys) => decode(1, keys)),
        ...[1024, 4096].map((keys) => decode(8, keys)),
        decode(32, 2048),
        decode(64, 4096),
        ragged('f16'),
      ],
    },
    { title: 'KV dtypes', bound: 'read', cases: dtypes.map(longDecode) },
    { title: 'head dim 64', bound: 'read', shape: { headDim: 64 }, cases: dtypes.map(longDecode) },
    { title: 'groups of 8', bound: 'read', shape: groupsOf8, cases: groupCases(gpu, { ...shape, ...groupsOf8 }) },
    {
      title: 'splits',
      bound: 'read',
      cases: sweep.flatMap(([batch, keys]) =>
        splitTargets(batch, keys, shape).map((targetWorkgroups) => ({
          ...decode(batch, keys),
          name: `${batch} x ${keys}, ${targetWorkgroups} workgroups`,
          options: { targetWorkgroups, minSegmentKeys: 64 },
        })),
      ),
    },
    {
      title: 'prefill',
      bound: 'fma',
      cases: byBothKernels(gpu, shape, [
        ...[prefill(1, 512, 512), prefill(1, 2048, 2048), prefill(1, 8192, 8192), prefill(8, 1024, 1024), prefill(1, 512, 4608)],
        ...(['f32', 'int8', 'fp8_e4m3'] as const).map((dtype) => prefill(1, 2048, 2048, dtype)),
      ]),
    },
    {
      title: 'sweep of tiles',
      bound: 'fma',
      cases: matrixSweep(gpu, shape).flatMap((tile) =>
        [prefill(1, 512, 512), prefill(1, 8192, 8192)].map((one) => ({ ...one, prefill: tile })),
      ),
    },
    ...[shape, { ...shape, headDim: 64 }].flatMap((swept) =>
      dtypes.map((dtype) => ({
        title: `sweep of single tokens, ${swept === shape ? '' : 'head dim 64, '}${dtype}`,
        bound: 'read' as const,
        shape: swept,
        cases: decodeSweep(gpu, swept, dtype).flatMap((tile) =>
          [longDecode(dtype), decode(8, 1024, dtype)].map((one) => ({ ...one, decode: tile })),
        ),
      })),
    ),
    ...dtypes.map((dtype) => ({
      title: `sweep of large batches, ${dtype}`,
      bound: 'read' as const,
      cases: largeSweep(gpu, { ...shape, dtype }, ragged(dtype)),
    })),
    {
      title: 'mixed',
      bound: 'read',
      cases: [
        { name: '4 prefills of 512 and 60 decodes at 2048', lengths: mixed, dtype: 'f16' },
        { name: 'its prefills', lengths: mixed.slice(0, 4), dtype: 'f16' },
        { name: 'its decodes', lengths: mixed.slice(4), dtype: 'f16' },
        { name: '4 prefills of 512 and 60 decodes at 2048', lengths: mixed, dtype: 'f16', prefill: 'plain' },
      ],
    },
  ];
}
