/** Declarations of the attention kernels; the WGSL files say what each computes. */
import appendSource from '../../shaders/attention/append.wgsl' with { type: 'text' };
import blocksSource from '../../shaders/attention/blocks.wgsl' with { type: 'text' };
import byteMatrixSource from '../../shaders/attention/byte-matrix.wgsl' with { type: 'text' };
import copySource from '../../shaders/attention/copy.wgsl' with { type: 'text' };
import decodeSource from '../../shaders/attention/decode.wgsl' with { type: 'text' };
import decodeKeysSource from '../../shaders/attention/decode-keys.wgsl' with { type: 'text' };
import decodeMatrixSource from '../../shaders/attention/decode-matrix.wgsl' with { type: 'text' };
import decodePartsSource from '../../shaders/attention/decode-parts.wgsl' with { type: 'text' };
import decodeTeamsSource from '../../shaders/attention/decode-teams.wgsl' with { type: 'text' };
import fp8Source from '../../shaders/attention/fp8.wgsl' with { type: 'text' };
import inputsSource from '../../shaders/attention/inputs.wgsl' with { type: 'text' };
import keysF16Source from '../../shaders/attention/keys-f16.wgsl' with { type: 'text' };
import keysI8Source from '../../shaders/attention/keys-i8.wgsl' with { type: 'text' };
import loadSource from '../../shaders/attention/load.wgsl' with { type: 'text' };
import matrixSource from '../../shaders/attention/matrix.wgsl' with { type: 'text' };
import matrixKeysF16Source from '../../shaders/attention/matrix-keys-f16.wgsl' with { type: 'text' };
import matrixKeysI8Source from '../../shaders/attention/matrix-keys-i8.wgsl' with { type: 'text' };
import mergeSource from '../../shaders/attention/merge.wgsl' with { type: 'text' };
import multiplyF16Source from '../../shaders/attention/multiply-f16.wgsl' with { type: 'text' };
import multiplyF32Source from '../../shaders/attention/multiply-f32.wgsl' with { type: 'text' };
import narrowMatrixSource from '../../shaders/attention/narrow-matrix.wgsl' with { type: 'text' };
import outputSource from '../../shaders/attention/output.wgsl' with { type: 'text' };
import prefillSource from '../../shaders/attention/prefill.wgsl' with { type: 'text' };
import prefillMatrixSource from '../../shaders/attention/prefill-matrix.wgsl' with { type: 'text' };
import queryBytesSource from '../../shaders/attention/query-bytes.wgsl' with { type: 'text' };
import rotarySource from '../../shaders/attention/rotary.wgsl' with { type: 'text' };
import scoreSource from '../../shaders/attention/score.wgsl' with { type: 'text' };
import stateSource from '../../shaders/attention/state.wgsl' with { type: 'text' };
import tileSource from '../../shaders/attention/tile.wgsl' with { type: 'text' };
import updateSource from '../../shaders/attention/update.wgsl' with { type: 'text' };
import packSource from '../../shaders/pack.wgsl' with { type: 'text' };
import { type AnyKernel, defineKernel, frozen, gridCount, perCall, readBuffer, type ScalarType, writeBuffer } from '../launch/kernel.ts';
import { type MatrixFunctions, matrixEnables, subgroupMatrices } from '../matrices.ts';
import { kvFormats } from './layout.ts';
import { noModifications, type PreparedModifications } from './modifications.ts';
import { planPrelude } from './plan.ts';
import { argumentStruct, columnFunctions, constants, float, formatOf, poolPrelude, unitFunctions } from './prelude.ts';
import { decodeMemory } from './tiles/decode.ts';
import { matrixDecodeMemory, matrixPrefillMemory } from './tiles/matrix.ts';
import { prefillGroupsAtOnce, prefillMemory, prefillOutputRowGroups, unrollsPrefillUnits } from './tiles/prefill.ts';

/** The part of a decode kernel that multiplies 8-bit codes in f16: the functions of shaders/attention/multiply-f16.wgsl. */
export interface HalfProducts extends Pick<MatrixFunctions, 'wgsl' | 'enables'> {
  /** Its functions for keys: those of shaders/attention/keys-f16.wgsl. */
  readonly keys: string;
  /** For keys in int8: those of shaders/attention/keys-i8.wgsl and query-bytes.wgsl, or `keys` again. */
  readonly byteKeys: string;
}

/** What multiplies in f16 on a device that has it. */
export const deviceHalves: HalfProducts = {
  wgsl: multiplyF16Source,
  keys: keysF16Source,
  byteKeys: [queryBytesSource, keysI8Source].join('\n'),
  enables: ['f16'],
};

/** Where WGSL has no dot products of bytes. */
export const halvesAlone: HalfProducts = { ...deviceHalves, byteKeys: keysF16Source };

/** f32 values of a partial state: headDim outputs, m, l, and two to keep rows of 16 bytes. */
export const partialWords = (headDim: number) => headDim + 4;

/** The first pool buffer goes by the name that types know; the others are there at run time alone. */
function poolArguments<const B extends typeof readBuffer | typeof writeBuffer>(count: number, buffer: B) {
  const more = Object.fromEntries(Array.from({ length: count - 1 }, (_, i) => [`pool${i + 1}`, buffer]));
  return { first: { pool0: buffer } as const, more: more as Record<never, B> };
}

const layout = {
  blockSize: frozen('u32'),
  numKvHeads: frozen('u32'),
  headDim: frozen('text'),
  kvDtype: frozen('text'),
  tokenScales: frozen('text'),
  loadWords: frozen('text'),
  blocksPerBuffer: frozen('text'),
} as const;
interface LayoutSelectors {
  readonly headDim: number | string;
  readonly kvDtype: number | string;
  readonly tokenScales: number | string;
  readonly loadWords: number | string;
  readonly blocksPerBuffer: number | string;
}
const layoutConstants = ({ headDim, kvDtype, tokenScales, loadWords, blocksPerBuffer }: LayoutSelectors) =>
  [
    constants({ headDim, kvDtype, tokenScales, loadWords, blocksPerBuffer }),
    `const largestCode = ${float(formatOf(Number(kvDtype)).largest)};`,
  ].join('\n');

const heads = { numHeads: frozen('text'), groupSize: frozen('text'), headTile: frozen('text') } as const;

const queryArguments = {
  scale: perCall('f32'),
  softcap: perCall('f32'),
  window: perCall('u32'),
  keepFirst: perCall('u32'),
} as const;
/** What stays the same in a layer. */
const layerArguments = {
  queryStride: perCall('u32'),
  queryOffset: perCall('u32'),
  rotaryHalf: perCall('u32'),
  tableStride: perCall('u32'),
  keyScale: perCall('f32'),
  valueScale: perCall('f32'),
  alibi: perCall('u32'),
  sinks: perCall('u32'),
  logSumExp: perCall('u32'),
} as const;
const attendArguments = { ...queryArguments, ...layerArguments } as const;
/** Names that scalars of a modification cannot have. */
export const attendArgumentNames: readonly string[] = Object.keys(attendArguments);

const appendArguments = {
  rowStride: perCall('u32'),
  keyOffset: perCall('u32'),
  valueOffset: perCall('u32'),
  rotaryHalf: perCall('u32'),
  keyScale: perCall('f32'),
  valueScale: perCall('f32'),
} as const;

export const updateKernel = defineKernel({
  name: 'update block table',
  source: [updateSource],
  prelude: () => planPrelude,
  arguments: { plan: readBuffer, blockTable: writeBuffer, numTableUpdates: gridCount },
  workgroups: { x: ({ numTableUpdates }) => Math.ceil(numTableUpdates / 64) },
  singleVariant: true,
});

const mergeArguments = { logSumExp: perCall('u32') } as const;

export const mergeKernel = defineKernel({
  name: 'merge',
  source: [stateSource, mergeSource],
  prelude: ({ headDim, numHeads, invocations }) =>
    [
      planPrelude,
      argumentStruct(mergeArguments),
      constants({ headDim, numHeads, invocations, PARTIAL_WORDS: partialWords(Number(headDim)) }),
    ].join('\n'),
  arguments: {
    headDim: frozen('text'),
    numHeads: frozen('text'),
    invocations: frozen('text'),
    plan: readBuffer,
    partials: writeBuffer,
    output: writeBuffer,
    ...mergeArguments,
    numRows: gridCount,
  },
  unroll: true,
  workgroups: { x: ({ numRows }) => numRows, y: ({ numHeads }) => Number(numHeads) },
});

/** A workgroup has as many whole rows as eight values an invocation and 64 invocations make, and at least one. */
function appendWorkgroups(numTokens: number, numKvHeads: number, headDim: number): number {
  return Math.ceil((numTokens * numKvHeads) / Math.max(1, Math.floor(64 / (headDim / 8))));
}

/** What computes with matrices. */
export interface AttentionMatrices {
  readonly prefill: MatrixFunctions;
  /** The functions of shaders/attention/narrow-matrix.wgsl. */
  readonly decode: MatrixFunctions;
  /** For keys in int8 as operands of decode: the functions of shaders/attention/byte-matrix.wgsl. */
  readonly bytes: string;
}

const bySubgroups: AttentionMatrices = {
  prefill: subgroupMatrices(matrixSource),
  decode: { wgsl: narrowMatrixSource, enables: matrixEnables, unroll: true },
  bytes: byteMatrixSource,
};

/** Of a work item, a workgroup for each KV head and tile of its query heads. */
interface ItemGrid {
  readonly numItems: number;
  readonly numKvHeads: number;
  readonly groupSize: number | string;
  readonly headTile: number | string;
}
const items = ({ numItems }: ItemGrid) => numItems;
const kvHeads = ({ numKvHeads }: ItemGrid) => numKvHeads;
const headTiles = ({ groupSize, headTile }: ItemGrid) => Math.ceil(Number(groupSize) / Number(headTile));
/** Decode: neighbours are KV heads, whose rows are neighbours in memory. */
const itemsInColumns = { x: kvHeads, y: items, z: headTiles };
/** Prefill: neighbours are items. */
const itemsInRows = { x: items, y: kvHeads, z: headTiles };

/** The kernels that read or write a pool of `poolBuffers` buffers, with a caller's modifications compiled in. */
function definePoolKernels(
  poolBuffers: number,
  modifications: PreparedModifications,
  matrices: AttentionMatrices,
  halfProducts: HalfProducts,
) {
  const written = poolArguments(poolBuffers, writeBuffer);
  const read = poolArguments(poolBuffers, readBuffer);
  const numbers = (first: number) => Array.from({ length: poolBuffers }, (_, i) => first + i);
  const scalars = Object.fromEntries(
    Object.entries(modifications.scalars).map(([name, type]: [string, ScalarType]) => [name, perCall(type)]),
  ) as Record<never, ReturnType<typeof perCall>>;

  const append = defineKernel({
    name: 'append',
    source: [packSource, blocksSource, rotarySource, fp8Source, appendSource],
    prelude: (selectors) =>
      [planPrelude, argumentStruct(appendArguments), layoutConstants(selectors), poolPrelude(numbers(4), 'read_write', 'u32')].join('\n'),
    arguments: {
      ...layout,
      key: readBuffer,
      value: readBuffer,
      plan: readBuffer,
      rotary: readBuffer,
      ...written.first,
      ...written.more,
      ...appendArguments,
      numTokens: gridCount,
    },
    unroll: true,
    workgroups: {
      x: ({ numTokens, numKvHeads, headDim }) => Math.min(appendWorkgroups(numTokens, numKvHeads, Number(headDim)), 65535),
      y: ({ numTokens, numKvHeads, headDim }) => Math.ceil(appendWorkgroups(numTokens, numKvHeads, Number(headDim)) / 65535),
    },
  });

  const copy = defineKernel({
    name: 'copy blocks',
    source: [blocksSource, copySource],
    prelude: (selectors) =>
      [
        planPrelude,
        layoutConstants(selectors),
        '@group(0) @binding(0) var<storage, read> plan: array<u32>;',
        poolPrelude(numbers(1), 'read_write', 'u32'),
      ].join('\n'),
    arguments: { ...layout, plan: readBuffer, ...written.first, ...written.more, blockWords: gridCount, numCopies: gridCount },
    workgroups: { x: ({ blockWords }) => Math.ceil(blockWords / 64), y: ({ numCopies }) => numCopies },
  });

  /** Declared in this order, so that the first eight bindings are those of inputs.wgsl, the pool's first buffer, and output.wgsl. */
  const buffers = {
    query: readBuffer,
    blockTable: readBuffer,
    plan: readBuffer,
    rotary: readBuffer,
    layerData: readBuffer,
    ...read.first,
    output: writeBuffer,
    partials: writeBuffer,
    ...read.more,
  } as const;
  /** What all kernels that attend have beside their tiles. */
  const attended = { ...buffers, ...attendArguments, ...scalars, numItems: gridCount } as const;
  const attendBindings = [5, ...numbers(8).slice(0, poolBuffers - 1)];
  const attendSource = [
    packSource,
    inputsSource,
    blocksSource,
    fp8Source,
    loadSource,
    rotarySource,
    stateSource,
    scoreSource,
    outputSource,
  ];
  const attendPrelude = (
    selectors: LayoutSelectors & { readonly numHeads: number | string; readonly groupSize: number | string },
    halves = false,
  ) => {
    const { headDim, numHeads, groupSize, loadWords, kvDtype } = selectors;
    return [
      planPrelude,
      argumentStruct({ ...attendArguments, ...scalars }),
      layoutConstants(selectors),
      constants({ numHeads, groupSize, PARTIAL_WORDS: partialWords(Number(headDim)) }),
      poolPrelude(attendBindings, 'read', `vec${loadWords}<u32>`),
      unitFunctions(Number(kvDtype), Number(loadWords), halves),
      modifications.wgsl,
    ].join('\n');
  };

  const decodeArguments = {
    ...layout,
    ...heads,
    ...{ invocations: frozen('text'), keyThreads: frozen('text'), keysPerThread: frozen('text'), valueThreads: frozen('text') },
    ...attended,
  } as const;
  const decodeKernel = (name: string, source: string, { subgroups = false, halves = false }) =>
    defineKernel({
      name,
      source: [...attendSource, decodeKeysSource, decodePartsSource, halves ? halfProducts.wgsl : multiplyF32Source, source],
      prelude: (selectors) => {
        const { headTile, keyThreads, keysPerThread, valueThreads, invocations } = selectors;
        const sizes = { headTile, keyThreads, keysPerThread, valueThreads, invocations };
        const padded = 2 ** Math.ceil(Math.log2(Number(keysPerThread) * Number(headTile)));
        const teamSizes = { padded, laneBits: Math.floor(Math.log2(Number(keyThreads))) };
        const keys = formatOf(Number(selectors.kvDtype)) === kvFormats.int8 ? halfProducts.byteKeys : halfProducts.keys;
        return [attendPrelude(selectors, halves), constants({ ...sizes, ...(subgroups ? teamSizes : {}) }), halves ? keys : ''].join('\n');
      },
      enables: () => [...(halves ? halfProducts.enables : []), ...(subgroups ? ['subgroups'] : [])],
      arguments: decodeArguments,
      unroll: true,
      workgroupMemory: ({ headDim, headTile, keyThreads, keysPerThread, valueThreads, invocations, tokenScales }) =>
        decodeMemory(
          {
            headTile: Number(headTile),
            keyThreads: Number(keyThreads),
            keysPerThread: Number(keysPerThread),
            valueThreads: Number(valueThreads),
            invocations: Number(invocations),
            subgroups,
            halves,
          },
          Number(headDim),
          tokenScales === 'true',
        ),
      workgroups: itemsInColumns,
    });
  const decode = decodeKernel('decode', decodeSource, {});
  const decodeHalves = decodeKernel('decode in f16', decodeSource, { halves: true });
  const decodeTeams = decodeKernel('decode by subgroups', decodeTeamsSource, { subgroups: true });
  const decodeTeamsHalves = decodeKernel('decode in f16 by subgroups', decodeTeamsSource, { subgroups: true, halves: true });

  const matrixDecodeKernel = (name: string, keys: readonly string[], byteKeys: boolean) =>
    defineKernel({
      name,
      source: [...attendSource, decodeKeysSource, decodeMatrixSource, ...keys, matrices.decode.wgsl],
      prelude: (selectors) => {
        const { headTile, subgroupCount, keyBlocks } = selectors;
        return [attendPrelude(selectors), constants({ headTile, subgroupCount, keyBlocks })].join('\n');
      },
      enables: () => matrices.decode.enables,
      arguments: {
        ...layout,
        ...heads,
        ...{ subgroupCount: frozen('text'), keyBlocks: frozen('text') },
        ...attended,
      },
      ...(matrices.decode.unroll && { unroll: true }),
      workgroupMemory: ({ subgroupCount, keyBlocks }) =>
        matrixDecodeMemory({ subgroupCount: Number(subgroupCount), keyBlocks: Number(keyBlocks), byteKeys }),
      workgroups: itemsInColumns,
    });
  const matrixDecode = matrixDecodeKernel('decode by matrices', [matrixKeysF16Source], false);
  const byteKeysSource = [queryBytesSource, matrixKeysI8Source, matrices.bytes];
  const matrixDecodeBytes = matrixDecodeKernel('decode by matrices, keys as bytes', byteKeysSource, true);

  const prefill = defineKernel({
    name: 'prefill',
    source: [...attendSource, tileSource, prefillSource],
    prelude: (selectors) => {
      const { headDim, kvDtype, loadWords, headTile, rowTile, keyTile, rowsPerThread, keysPerThread } = selectors;
      const [rows, keys, rowBlock, keyBlock] = [rowTile, keyTile, rowsPerThread, keysPerThread].map(Number);
      const blocks = { rowTile: rows, keyTile: keys, rowsPerThread: rowBlock, keysPerThread: keyBlock };
      const outputRowGroups = prefillOutputRowGroups(blocks, Number(headDim));
      const { bytes } = formatOf(Number(kvDtype));
      const loops = { unrollUnits: unrollsPrefillUnits(blocks, bytes), groupsAtOnce: prefillGroupsAtOnce(blocks, bytes) };
      const types = `alias Weights = vec${keysPerThread}f;${columnFunctions(Number(kvDtype), Number(loadWords))}`;
      return [attendPrelude(selectors), constants({ headTile, ...blocks, outputRowGroups, ...loops }), types].join('\n');
    },
    arguments: {
      ...layout,
      ...heads,
      ...{ rowTile: frozen('text'), keyTile: frozen('text'), rowsPerThread: frozen('text'), keysPerThread: frozen('text') },
      ...attended,
    },
    unroll: true,
    workgroupMemory: ({ headDim, kvDtype, rowTile, keyTile, headTile }) =>
      prefillMemory(Number(headDim), Number(headDim) * formatOf(Number(kvDtype)).bytes, {
        rowTile: Number(rowTile),
        keyTile: Number(keyTile),
        headTile: Number(headTile),
      }),
    workgroups: itemsInRows,
  });

  const matrixPrefill = defineKernel({
    name: 'prefill by matrices',
    source: [...attendSource, tileSource, prefillMatrixSource, matrices.prefill.wgsl],
    prelude: (selectors) => {
      const { headTile, subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage } = selectors;
      return [attendPrelude(selectors), constants({ headTile, subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage })].join('\n');
    },
    enables: () => matrices.prefill.enables,
    arguments: {
      ...layout,
      ...heads,
      ...{ subgroupCount: frozen('text'), rowBlocks: frozen('text'), columnGroups: frozen('text') },
      ...{ keyTile: frozen('text'), sharedStage: frozen('text') },
      ...attended,
    },
    ...(matrices.prefill.unroll && { unroll: true }),
    workgroupMemory: ({ headDim, headTile, subgroupCount, rowBlocks, columnGroups, keyTile, sharedStage }) =>
      matrixPrefillMemory(
        {
          headTile: Number(headTile),
          subgroupCount: Number(subgroupCount),
          rowBlocks: Number(rowBlocks),
          columnGroups: Number(columnGroups),
          keyTile: Number(keyTile),
          sharedStage: sharedStage === 'true',
        },
        Number(headDim),
      ),
    workgroups: itemsInRows,
  });

  return { append, copy, decode, decodeHalves, decodeTeams, decodeTeamsHalves, matrixDecode, matrixDecodeBytes, prefill, matrixPrefill };
}

export type PoolKernels = ReturnType<typeof definePoolKernels>;

const poolKernels = new Map<string, PoolKernels>();

/** What computes parts of kernels; default: the device's own. */
export interface KernelParts {
  readonly matrices?: Partial<AttentionMatrices>;
  readonly halfProducts?: HalfProducts;
}

/** The kernels for so many pool buffers and these modifications; the same ones for the same text, so that pipelines are shared. */
export function poolKernelsFor(poolBuffers: number, modifications = noModifications, parts: KernelParts = {}): PoolKernels {
  const matrices = { ...bySubgroups, ...parts.matrices };
  const { halfProducts = deviceHalves } = parts;
  const key = JSON.stringify([poolBuffers, modifications, matrices.prefill.wgsl, matrices.decode.wgsl, matrices.bytes, halfProducts]);
  const known = poolKernels.get(key) ?? definePoolKernels(poolBuffers, modifications, matrices, halfProducts);
  poolKernels.set(key, known);
  return known;
}

/** The kernels without modifications and with a pool of one buffer, as a warm-up asks for them. */
export const {
  append: appendKernel,
  decode: decodeKernel,
  decodeHalves: decodeHalvesKernel,
  decodeTeams: decodeTeamsKernel,
  decodeTeamsHalves: decodeTeamsHalvesKernel,
  matrixDecode: matrixDecodeKernel,
  matrixDecodeBytes: matrixDecodeBytesKernel,
  prefill: prefillKernel,
  matrixPrefill: matrixPrefillKernel,
  copy: copyKernel,
} = poolKernelsFor(1);
export const attentionKernels: readonly AnyKernel[] = [
  ...[appendKernel, updateKernel, copyKernel],
  ...[decodeKernel, decodeHalvesKernel, decodeTeamsKernel, decodeTeamsHalvesKernel, matrixDecodeKernel, matrixDecodeBytesKernel],
  ...[mergeKernel, prefillKernel, matrixPrefillKernel],
];
