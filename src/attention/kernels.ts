/** Declarations of the attention kernels; the WGSL files say what each computes. */
import appendSource from '../../shaders/attention/append.wgsl' with { type: 'text' };
import blocksSource from '../../shaders/attention/blocks.wgsl' with { type: 'text' };
import decodeSource from '../../shaders/attention/decode.wgsl' with { type: 'text' };
import loadSource from '../../shaders/attention/load.wgsl' with { type: 'text' };
import mergeSource from '../../shaders/attention/merge.wgsl' with { type: 'text' };
import prefillSource from '../../shaders/attention/prefill.wgsl' with { type: 'text' };
import rotarySource from '../../shaders/attention/rotary.wgsl' with { type: 'text' };
import stateSource from '../../shaders/attention/state.wgsl' with { type: 'text' };
import updateSource from '../../shaders/attention/update.wgsl' with { type: 'text' };
import packSource from '../../shaders/pack.wgsl' with { type: 'text' };
import { type AnyKernel, defineKernel, frozen, gridCount, perCall, readBuffer, writeBuffer } from '../launch/kernel.ts';
import { planPrelude } from './plan.ts';
import { decodeMemory, prefillMemory } from './tuning.ts';

/** `name = value` pairs as WGSL constants. */
function constants(values: Readonly<Record<string, number | string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `const ${name} = ${value}u;`)
    .join('\n');
}

/** f32 values of a partial state: headDim outputs, m, l, and two to keep rows of 16 bytes. */
export const partialWords = (headDim: number) => headDim + 4;

const layout = { blockSize: frozen('u32'), numKvHeads: frozen('u32'), headDim: frozen('text'), kvDtype: frozen('text') } as const;
const heads = { numHeads: frozen('text'), groupSize: frozen('text'), headTile: frozen('text') } as const;
const queryArguments = {
  scale: perCall('f32'),
  queryStride: perCall('u32'),
  queryOffset: perCall('u32'),
  rotaryHalf: perCall('u32'),
  tableStride: perCall('u32'),
} as const;

export const appendKernel = defineKernel({
  name: 'append',
  source: [blocksSource, rotarySource, appendSource],
  prelude: ({ headDim, kvDtype }) => `${planPrelude}\n${constants({ headDim, kvDtype })}`,
  arguments: {
    ...layout,
    key: readBuffer,
    value: readBuffer,
    plan: readBuffer,
    rotary: readBuffer,
    pool: writeBuffer,
    rowStride: perCall('u32'),
    keyOffset: perCall('u32'),
    valueOffset: perCall('u32'),
    rotaryHalf: perCall('u32'),
    numTokens: gridCount,
  },
  workgroups: {
    x: ({ numTokens, numKvHeads, headDim }) => Math.min(appendWorkgroups(numTokens, numKvHeads, Number(headDim)), 65535),
    y: ({ numTokens, numKvHeads, headDim }) => Math.ceil(appendWorkgroups(numTokens, numKvHeads, Number(headDim)) / 65535),
  },
});

function appendWorkgroups(numTokens: number, numKvHeads: number, headDim: number): number {
  return Math.ceil((numTokens * numKvHeads * (headDim / 2)) / 64);
}

export const updateKernel = defineKernel({
  name: 'update block table',
  source: [updateSource],
  prelude: () => planPrelude,
  arguments: { plan: readBuffer, blockTable: writeBuffer, numTableUpdates: gridCount },
  workgroups: { x: ({ numTableUpdates }) => Math.ceil(numTableUpdates / 64) },
  singleVariant: true,
});

export const decodeKernel = defineKernel({
  name: 'decode',
  source: [packSource, blocksSource, loadSource, rotarySource, stateSource, decodeSource],
  prelude: ({ headDim, kvDtype, numHeads, groupSize, headTile, keyTile }) =>
    `${planPrelude}\n${constants({ headDim, kvDtype, numHeads, groupSize, headTile, keyTile, PARTIAL_WORDS: partialWords(Number(headDim)) })}`,
  arguments: {
    ...layout,
    ...heads,
    keyTile: frozen('text'),
    query: readBuffer,
    pool: readBuffer,
    blockTable: readBuffer,
    plan: readBuffer,
    rotary: readBuffer,
    output: writeBuffer,
    partials: writeBuffer,
    ...queryArguments,
    numItems: gridCount,
  },
  workgroupMemory: ({ headDim, headTile, keyTile }) => decodeMemory(Number(headDim), Number(headTile), Number(keyTile)),
  workgroups: {
    x: ({ numItems }) => numItems,
    y: ({ numKvHeads }) => numKvHeads,
    z: ({ groupSize, headTile }) => Math.ceil(Number(groupSize) / Number(headTile)),
  },
});

export const mergeKernel = defineKernel({
  name: 'merge',
  source: [stateSource, mergeSource],
  prelude: ({ headDim, numHeads }) => `${planPrelude}\n${constants({ headDim, numHeads, PARTIAL_WORDS: partialWords(Number(headDim)) })}`,
  arguments: {
    headDim: frozen('text'),
    numHeads: frozen('text'),
    partials: readBuffer,
    plan: readBuffer,
    output: writeBuffer,
    numRows: gridCount,
  },
  workgroups: { x: ({ numRows }) => numRows, y: ({ numHeads }) => Number(numHeads) },
});

export const prefillKernel = defineKernel({
  name: 'prefill',
  source: [packSource, blocksSource, loadSource, rotarySource, stateSource, prefillSource],
  prelude: ({ headDim, kvDtype, numHeads, groupSize, headTile, rowTile, keyTile }) =>
    `${planPrelude}\n${constants({ headDim, kvDtype, numHeads, groupSize, headTile, rowTile, keyTile })}`,
  arguments: {
    ...layout,
    ...heads,
    rowTile: frozen('text'),
    keyTile: frozen('text'),
    query: readBuffer,
    pool: readBuffer,
    blockTable: readBuffer,
    plan: readBuffer,
    rotary: readBuffer,
    output: writeBuffer,
    ...queryArguments,
    numItems: gridCount,
  },
  workgroupMemory: ({ headDim, rowTile, keyTile }) => prefillMemory(Number(headDim), Number(rowTile), Number(keyTile)),
  workgroups: {
    x: ({ numItems }) => numItems,
    y: ({ numKvHeads }) => numKvHeads,
    z: ({ groupSize, headTile }) => Math.ceil(Number(groupSize) / Number(headTile)),
  },
});

/** All of the above, as a warm-up asks for them. */
export const attentionKernels: readonly AnyKernel[] = [appendKernel, updateKernel, decodeKernel, mergeKernel, prefillKernel];
