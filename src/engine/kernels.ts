/** Declarations of the model's kernels; the WGSL files say what each computes. */
import stateSource from '../../shaders/attention/state.wgsl' with { type: 'text' };
import adjustedSource from '../../shaders/model/adjusted.wgsl' with { type: 'text' };
import directSource from '../../shaders/model/direct.wgsl' with { type: 'text' };
import embedSource from '../../shaders/model/embed.wgsl' with { type: 'text' };
import linearSource from '../../shaders/model/linear.wgsl' with { type: 'text' };
import logitsSource from '../../shaders/model/logits.wgsl' with { type: 'text' };
import matmulSource from '../../shaders/model/matmul.wgsl' with { type: 'text' };
import matmulMatrixSource from '../../shaders/model/matmul-matrix.wgsl' with { type: 'text' };
import matrixSource from '../../shaders/model/matrix.wgsl' with { type: 'text' };
import matvecSource from '../../shaders/model/matvec.wgsl' with { type: 'text' };
import sampleSource from '../../shaders/model/sample.wgsl' with { type: 'text' };
import weightsSource from '../../shaders/model/weights.wgsl' with { type: 'text' };
import packSource from '../../shaders/pack.wgsl' with { type: 'text' };
import { planPrelude } from '../attention/plan.ts';
import { type AnyKernel, defineKernel, frozen, gridCount, key, perCall, readBuffer, writeBuffer } from '../launch/kernel.ts';
import { type MatrixFunctions, subgroupMatrices } from '../matrices.ts';
import type { WeightDtype } from './safetensors.ts';
import { samplingPrelude } from './sampling-plan.ts';
import {
  type MatmulTile,
  matmulMemory,
  type SubgroupTile,
  subgroupMemory,
  unrollsDepth,
  type VectorTile,
  vectorHelpers,
  vectorMemory,
} from './tiles.ts';

/** The WGSL constants of shaders/model/weights.wgsl. */
export const weightDtypeCodes: Readonly<Record<WeightDtype, number>> = { f32: 0, f16: 1, bf16: 2 };

/** WebGPU's default limit of workgroups per dimension. */
const maxWorkgroups = 65535;

export const embedKernel = defineKernel({
  name: 'embed',
  source: [packSource, weightsSource, embedSource],
  prelude: () => planPrelude,
  arguments: {
    weightDtype: key('u32'),
    weights: readBuffer,
    plan: readBuffer,
    sampled: readBuffer,
    hidden: writeBuffer,
    hiddenSize: perCall('u32'),
    numTokens: gridCount,
  },
  workgroups: { x: ({ hiddenSize }) => Math.ceil(hiddenSize / 8 / 64), y: ({ numTokens }) => numTokens },
});

/** What all matrix products take, beside their tiles. */
export const linearArguments = {
  weightDtype: key('u32'),
  normalized: key('bool'),
  swiglu: key('bool'),
  accumulate: key('bool'),
  gathered: key('bool'),
  biased: key('bool'),
  input: readBuffer,
  weights: readBuffer,
  gain: readBuffer,
  bias: readBuffer,
  plan: readBuffer,
  output: writeBuffer,
  inputSize: perCall('u32'),
  outputSize: perCall('u32'),
  inputStride: perCall('u32'),
  outputStride: perCall('u32'),
  gainOffset: perCall('u32'),
  biasOffset: perCall('u32'),
  epsilon: perCall('f32'),
  numRows: gridCount,
} as const;

/** The sizes of a tile, as numbers. */
type Sizes<T> = { readonly [Name in keyof T]: number | string };

const numbers = <T extends Sizes<T>>(sizes: T): Record<keyof T, number> =>
  Object.fromEntries(Object.entries(sizes).map(([name, value]) => [name, Number(value)])) as Record<keyof T, number>;

/** The plan's constants, and the sizes of a tile as constants. */
function tilePrelude(tile: Readonly<Record<string, number>>): string {
  return [planPrelude, ...Object.entries(tile).map(([name, value]) => `const ${name} = ${value}u;`)].join('\n');
}

const vectorSizes = ({ rowTile, columnsPerThread, lanes, teams, steps, partRows }: Sizes<VectorTile>) =>
  numbers({ rowTile, columnsPerThread, lanes, teams, steps, partRows });

const vectorColumns = ({ columnsPerThread, teams }: Sizes<Pick<VectorTile, 'columnsPerThread' | 'teams'>>) =>
  Number(columnsPerThread) * Number(teams);

export const matvecKernel = defineKernel({
  name: 'matvec',
  source: [packSource, weightsSource, linearSource, matvecSource],
  prelude: (selectors) => {
    const sizes = vectorSizes(selectors);
    return tilePrelude({ ...sizes, helpers: vectorHelpers(sizes) });
  },
  arguments: {
    rowTile: key('text'),
    columnsPerThread: key('text'),
    lanes: key('text'),
    teams: key('text'),
    steps: key('text'),
    partRows: key('text'),
    ...linearArguments,
  },
  unroll: true,
  workgroupMemory: (selectors) => vectorMemory(vectorSizes(selectors)),
  workgroups: {
    x: ({ numRows, rowTile }) => Math.ceil(numRows / Number(rowTile)),
    y: (args) => Math.min(Math.ceil(args.outputSize / vectorColumns(args)), maxWorkgroups),
    z: (args) => Math.ceil(args.outputSize / vectorColumns(args) / maxWorkgroups),
  },
});

const matmulSizes = ({ rowTile, columnTile, rowsPerThread, columnsPerThread, depth, stages }: Sizes<MatmulTile>) =>
  numbers({ rowTile, columnTile, rowsPerThread, columnsPerThread, depth, stages });

export const matmulKernel = defineKernel({
  name: 'matmul',
  source: [packSource, weightsSource, linearSource, matmulSource],
  prelude: (selectors) => {
    const sizes = matmulSizes(selectors);
    return `${tilePrelude(sizes)}\nconst unrollDepth = ${unrollsDepth(sizes)};`;
  },
  arguments: {
    rowTile: key('text'),
    columnTile: key('text'),
    rowsPerThread: key('text'),
    columnsPerThread: key('text'),
    depth: key('text'),
    stages: key('text'),
    ...linearArguments,
  },
  unroll: true,
  workgroupMemory: (selectors) => matmulMemory(matmulSizes(selectors)),
  workgroups: {
    x: ({ numRows, rowTile }) => Math.ceil(numRows / Number(rowTile)),
    y: ({ outputSize, columnTile }) => Math.ceil(outputSize / Number(columnTile)),
  },
});

const subgroupSizes = (sizes: Sizes<SubgroupTile>): SubgroupTile => {
  const { rowGroups, columnGroups, depthGroups, rowBlocks, columnBlocks, depth, stages } = sizes;
  return numbers({ rowGroups, columnGroups, depthGroups, rowBlocks, columnBlocks, depth, stages });
};

/** The kernel by matrices. @param matrices what computes with them */
export const defineMatrixProduct = (matrices: MatrixFunctions) =>
  defineKernel({
    name: 'matmul by matrices',
    source: [packSource, weightsSource, linearSource, matmulMatrixSource, matrices.wgsl],
    prelude: (selectors) => tilePrelude({ ...subgroupSizes(selectors) }),
    directives: () => matrices.directives,
    arguments: {
      rowGroups: key('text'),
      columnGroups: key('text'),
      depthGroups: key('text'),
      rowBlocks: key('text'),
      columnBlocks: key('text'),
      depth: key('text'),
      stages: key('text'),
      ...linearArguments,
    },
    ...(matrices.unroll && { unroll: true }),
    workgroupMemory: (selectors) => subgroupMemory(subgroupSizes(selectors)),
    workgroups: {
      x: ({ numRows, rowGroups, rowBlocks }) => Math.ceil(numRows / (16 * Number(rowGroups) * Number(rowBlocks))),
      y: ({ outputSize, columnGroups, columnBlocks }) => Math.ceil(outputSize / (16 * Number(columnGroups) * Number(columnBlocks))),
    },
  });

export const matmulMatrixKernel = defineMatrixProduct(subgroupMatrices(matrixSource));

export const directKernel = defineKernel({
  name: 'matrix product, direct',
  source: [packSource, weightsSource, linearSource, directSource],
  prelude: () => planPrelude,
  arguments: linearArguments,
  workgroups: {
    x: ({ outputSize }) => Math.min(Math.ceil(outputSize / 32), maxWorkgroups),
    y: ({ numRows }) => Math.ceil(numRows / 4),
    z: ({ outputSize }) => Math.ceil(outputSize / 32 / maxWorkgroups),
  },
});

/**
 * Invocations of a workgroup that samples; see `decodeKeyTile` for adapters that compute on the CPU. One of them, lavapipe, ends loops after 65,536
 * rounds of an invocation, so that large vocabularies need more: sampling goes over a row up to 16 times.
 */
export function sampleInvocations({ software }: { readonly software: boolean }, vocabSize: number): number {
  if (!software) return 256;
  let invocations = 16;
  while (invocations < 256 && 20 * vocabSize > 65536 * invocations) invocations *= 2;
  return invocations;
}

const samplePrelude = ({ invocations }: { readonly invocations: number | string }) =>
  [planPrelude, samplingPrelude, `const invocations = ${invocations}u;`].join('\n');

const sampleArguments = {
  invocations: frozen('text'),
  logits: readBuffer,
  plan: readBuffer,
  sampled: writeBuffer,
  results: writeBuffer,
} as const;

/** For steps in which no row has an extension. */
export const sampleKernel = defineKernel({
  name: 'sample',
  source: [stateSource, logitsSource, sampleSource],
  prelude: samplePrelude,
  arguments: { ...sampleArguments, vocabSize: perCall('u32'), numRows: gridCount },
  workgroups: { x: ({ numRows }) => numRows },
});

/** The same for steps in which a row has. */
export const sampleAdjustedKernel = defineKernel({
  name: 'sample, adjusted',
  source: [stateSource, adjustedSource, sampleSource],
  prelude: samplePrelude,
  arguments: {
    ...sampleArguments,
    extensions: readBuffer,
    counts: writeBuffer,
    vocabSize: perCall('u32'),
    resultWords: perCall('u32'),
    numRows: gridCount,
  },
  workgroups: { x: ({ numRows }) => numRows },
});

/** All of the above, as a warm-up asks for them. */
export const modelKernels: readonly AnyKernel[] = [
  embedKernel,
  matvecKernel,
  matmulKernel,
  matmulMatrixKernel,
  directKernel,
  sampleKernel,
  sampleAdjustedKernel,
];
