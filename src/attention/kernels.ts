/** Declarations of the attention kernels, of those that attend in attend-kernels.ts; the WGSL files say what each computes. */
import appendSource from '../../shaders/attention/append.wgsl' with { type: 'text' };
import blocksSource from '../../shaders/attention/blocks.wgsl' with { type: 'text' };
import copySource from '../../shaders/attention/copy.wgsl' with { type: 'text' };
import fp8Source from '../../shaders/attention/fp8.wgsl' with { type: 'text' };
import mergeSource from '../../shaders/attention/merge.wgsl' with { type: 'text' };
import rotarySource from '../../shaders/attention/rotary.wgsl' with { type: 'text' };
import stateSource from '../../shaders/attention/state.wgsl' with { type: 'text' };
import updateSource from '../../shaders/attention/update.wgsl' with { type: 'text' };
import packSource from '../../shaders/pack.wgsl' with { type: 'text' };
import { type AnyKernel, defineKernel, frozen, gridCount, perCall, readBuffer, writeBuffer } from '../launch/kernel.ts';
import { type AttentionMatrices, bySubgroups, defineAttendKernels, deviceHalves, type HalfProducts } from './attend-kernels.ts';
import { layout, layoutConstants, partialWords, poolArguments } from './declarations.ts';
import { noModifications, type PreparedModifications } from './modifications.ts';
import { planPrelude } from './plan.ts';
import { argumentStruct, constants, poolPrelude } from './prelude.ts';

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

/** The kernels that read or write a pool of `poolBuffers` buffers, with a caller's modifications compiled in. */
function definePoolKernels(
  poolBuffers: number,
  modifications: PreparedModifications,
  matrices: AttentionMatrices,
  halfProducts: HalfProducts,
) {
  const written = poolArguments(poolBuffers, writeBuffer);
  const numbers = (first: number) => Array.from({ length: poolBuffers }, (_, i) => first + i);

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

  return { append, copy, ...defineAttendKernels(poolBuffers, modifications, matrices, halfProducts) };
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
  decode: decodeKernelOf,
  decodes: decodeKernels,
  matrixDecode: matrixDecodeKernel,
  matrixDecodeBytes: matrixDecodeBytesKernel,
  prefill: prefillKernel,
  matrixPrefill: matrixPrefillKernel,
  copy: copyKernel,
} = poolKernelsFor(1);
export const attentionKernels: readonly AnyKernel[] = [
  ...[appendKernel, updateKernel, copyKernel],
  ...[...decodeKernels, matrixDecodeKernel, matrixDecodeBytesKernel],
  ...[mergeKernel, prefillKernel, matrixPrefillKernel],
];
