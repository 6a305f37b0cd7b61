/** Declarations of the kernels that attend; the WGSL files say what each computes. */
import blocksSource from '../../shaders/attention/blocks.wgsl' with { type: 'text' };
import byteMatrixSource from '../../shaders/attention/byte-matrix.wgsl' with { type: 'text' };
import decodeSource from '../../shaders/attention/decode.wgsl' with { type: 'text' };
import decodeKeysSource from '../../shaders/attention/decode-keys.wgsl' with { type: 'text' };
import decodeMatrixSource from '../../shaders/attention/decode-matrix.wgsl' with { type: 'text' };
import decodePartsSource from '../../shaders/attention/decode-parts.wgsl' with { type: 'text' };
import decodeTeamsSource from '../../shaders/attention/decode-teams.wgsl' with { type: 'text' };
import fp8Source from '../../shaders/attention/fp8.wgsl' with { type: 'text' };
import inputsSource from '../../shaders/attention/inputs.wgsl' with { type: 'text' };
import keysF16Source from '../../shaders/attention/keys-f16.wgsl' with { type: 'text' };
import keysF32Source from '../../shaders/attention/keys-f32.wgsl' with { type: 'text' };
import keysI8Source from '../../shaders/attention/keys-i8.wgsl' with { type: 'text' };
import loadSource from '../../shaders/attention/load.wgsl' with { type: 'text' };
import matrixSource from '../../shaders/attention/matrix.wgsl' with { type: 'text' };
import matrixKeysF16Source from '../../shaders/attention/matrix-keys-f16.wgsl' with { type: 'text' };
import matrixKeysI8Source from '../../shaders/attention/matrix-keys-i8.wgsl' with { type: 'text' };
import narrowMatrixSource from '../../shaders/attention/narrow-matrix.wgsl' with { type: 'text' };
import outputSource from '../../shaders/attention/output.wgsl' with { type: 'text' };
import prefillSource from '../../shaders/attention/prefill.wgsl' with { type: 'text' };
import prefillMatrixSource from '../../shaders/attention/prefill-matrix.wgsl' with { type: 'text' };
import queryBytesSource from '../../shaders/attention/query-bytes.wgsl' with { type: 'text' };
import queryStepsSource from '../../shaders/attention/query-steps.wgsl' with { type: 'text' };
import rotarySource from '../../shaders/attention/rotary.wgsl' with { type: 'text' };
import scoreSource from '../../shaders/attention/score.wgsl' with { type: 'text' };
import stateSource from '../../shaders/attention/state.wgsl' with { type: 'text' };
import tileSource from '../../shaders/attention/tile.wgsl' with { type: 'text' };
import valuesF16Source from '../../shaders/attention/values-f16.wgsl' with { type: 'text' };
import valuesF32Source from '../../shaders/attention/values-f32.wgsl' with { type: 'text' };
import packSource from '../../shaders/pack.wgsl' with { type: 'text' };
import { subgroupDirectives } from '../gpu.ts';
import { defineKernel, frozen, gridCount, perCall, readBuffer, type ScalarType, writeBuffer } from '../launch/kernel.ts';
import { type MatrixFunctions, matrixDirectives, subgroupMatrices } from '../matrices.ts';
import { type LayoutSelectors, layout, layoutConstants, partialWords, poolArguments } from './declarations.ts';
import type { PreparedModifications } from './modifications.ts';
import { planPrelude } from './plan.ts';
import { argumentStruct, columnFunctions, constants, formatOf, poolPrelude, unitFunctions } from './prelude.ts';
import { type DecodeWays, decodeMemory } from './tiles/decode.ts';
import { matrixDecodeMemory, matrixPrefillMemory } from './tiles/matrix.ts';
import { prefillGroupsAtOnce, prefillMemory, prefillOutputRowGroups, unrollsPrefillUnits } from './tiles/prefill.ts';

/** The parts of a decode kernel that multiply 8-bit codes in f16. */
export interface HalfProducts extends Pick<MatrixFunctions, 'directives'> {
  /** The functions of shaders/attention/values-f16.wgsl. */
  readonly values: string;
  /** Those of shaders/attention/keys-f16.wgsl and query-steps.wgsl. */
  readonly keys: string;
}

/** What multiplies in f16 on a device that has it. */
export const deviceHalves: HalfProducts = {
  values: valuesF16Source,
  keys: [queryStepsSource, keysF16Source].join('\n'),
  directives: ['enable f16'],
};

const byteKeyProducts = [queryStepsSource, queryBytesSource, keysI8Source].join('\n');

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

/** What computes with matrices. */
export interface AttentionMatrices {
  readonly prefill: MatrixFunctions;
  /** The functions of shaders/attention/narrow-matrix.wgsl. */
  readonly decode: MatrixFunctions;
  /** For keys in int8 as operands of decode: the functions of shaders/attention/byte-matrix.wgsl. */
  readonly bytes: string;
}

export const bySubgroups: AttentionMatrices = {
  prefill: subgroupMatrices(matrixSource),
  decode: { wgsl: narrowMatrixSource, directives: matrixDirectives, unroll: true },
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

/** The kernels that attend over a pool of `poolBuffers` buffers, with a caller's modifications compiled in. */
export function defineAttendKernels(
  poolBuffers: number,
  modifications: PreparedModifications,
  matrices: AttentionMatrices,
  halfProducts: HalfProducts,
) {
  const read = poolArguments(poolBuffers, readBuffer);
  const scalars = Object.fromEntries(
    Object.entries(modifications.scalars).map(([name, type]: [string, ScalarType]) => [name, perCall(type)]),
  ) as Record<never, ReturnType<typeof perCall>>;

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
  const attendBindings = [5, ...Array.from({ length: poolBuffers - 1 }, (_, i) => 8 + i)];
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
  const decodeKernel = ({ subgroups, halves, byteKeys }: DecodeWays) => {
    const [keys, values] = halves ? [halfProducts.keys, halfProducts.values] : [keysF32Source, valuesF32Source];
    const products = [byteKeys ? byteKeyProducts : keys, values];
    return defineKernel({
      name: `decode${halves ? ' in f16' : ''}${subgroups ? ' by subgroups' : ''}${byteKeys ? ', keys as bytes' : ''}`,
      source: [...attendSource, decodeKeysSource, decodePartsSource, ...products, subgroups ? decodeTeamsSource : decodeSource],
      prelude: (selectors) => {
        const { headTile, keyThreads, keysPerThread, valueThreads, invocations } = selectors;
        const sizes = { headTile, keyThreads, keysPerThread, valueThreads, invocations };
        const padded = 2 ** Math.ceil(Math.log2(Number(keysPerThread) * Number(headTile)));
        const teamSizes = { padded, laneBits: Math.floor(Math.log2(Number(keyThreads))) };
        return [attendPrelude(selectors, halves), constants({ ...sizes, ...(subgroups ? teamSizes : {}) })].join('\n');
      },
      directives: () => [...(halves ? halfProducts.directives : []), ...(subgroups ? subgroupDirectives : [])],
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
            ...{ subgroups, halves, byteKeys },
          },
          Number(headDim),
          tokenScales === 'true',
        ),
      workgroups: itemsInColumns,
    });
  };
  const eachFlag = <T>(of: (flag: boolean) => T): readonly T[] => [of(false), of(true)];
  const decodes = eachFlag((subgroups) => eachFlag((halves) => eachFlag((byteKeys) => decodeKernel({ subgroups, halves, byteKeys }))));
  /** The one that a tile runs with. */
  const decode = ({ subgroups, halves, byteKeys }: DecodeWays) => decodes[Number(subgroups)][Number(halves)][Number(byteKeys)];

  const matrixDecodeKernel = (name: string, keys: readonly string[], byteKeys: boolean) =>
    defineKernel({
      name,
      source: [...attendSource, decodeKeysSource, decodeMatrixSource, ...keys, matrices.decode.wgsl],
      prelude: (selectors) => {
        const { headTile, subgroupCount, keyBlocks } = selectors;
        return [attendPrelude(selectors), constants({ headTile, subgroupCount, keyBlocks })].join('\n');
      },
      directives: () => matrices.decode.directives,
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
    directives: () => matrices.prefill.directives,
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

  return { decode, decodes: decodes.flat(2), matrixDecode, matrixDecodeBytes, prefill, matrixPrefill };
}
