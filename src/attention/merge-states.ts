import mergeStatesSource from '../../shaders/attention/merge-states.wgsl' with { type: 'text' };
import stateSource from '../../shaders/attention/state.wgsl' with { type: 'text' };
import { CapacityExceededError, InvalidArgumentError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import { type ArgumentsOf, type BufferArgument, defineKernel, perCall, readBuffer, writeBuffer } from '../launch/kernel.ts';
import { bufferOf } from '../launch/watch.ts';
import { checkPositive } from './layout.ts';

/**
 * The result of attention over some of a row's keys, as far as merging needs it: the outputs, f32 [maxTokens][numHeads][headDim], and the
 * log-sum-exps of the scores, f32 [maxTokens][numHeads]; -3e38 for a row that saw no key, whose output is then not read.
 */
export interface AttentionState {
  readonly output: BufferArgument;
  readonly logSumExp: BufferArgument;
}

export interface MergeStatesOptions {
  readonly numHeads: number;
  /** A multiple of 4. */
  readonly headDim: number;
  /** Most tokens of one launch. */
  readonly maxTokens: number;
  readonly a: AttentionState;
  readonly b: AttentionState;
  /** Where the merged state goes. Its buffers are none of those of `a` and `b`. */
  readonly into: AttentionState;
}

/** A merge, ready to be recorded. */
export interface StateMerge {
  /** Merges the first `numTokens` tokens: one launch, none for 0. @throws {InvalidArgumentError} {CapacityExceededError} beyond `maxTokens`. */
  record(pass: GPUComputePassEncoder, numTokens: number): void;
}

/** An invocation for every four values, in rows of as many workgroups as a dimension takes. */
const workgroupsOf = ({ numRows, columns }: { readonly numRows: number; readonly columns: number }) => Math.ceil((numRows * columns) / 64);
const widest = 65535;

export const mergeStatesKernel = defineKernel({
  name: 'merge states',
  source: [stateSource, mergeStatesSource],
  arguments: {
    outputA: readBuffer,
    logSumExpA: readBuffer,
    outputB: readBuffer,
    logSumExpB: readBuffer,
    output: writeBuffer,
    logSumExpOut: writeBuffer,
    numRows: perCall('u32'),
    columns: perCall('u32'),
  },
  workgroups: { x: (args) => Math.min(workgroupsOf(args), widest), y: (args) => Math.ceil(workgroupsOf(args) / widest) },
  singleVariant: true,
});

/**
 * Prepares the merge of two attention states by their log-sum-exps: the state of the union of their keys, which must have none in common.
 * Merging is associative, so that any number of parts can be merged in turn. One pipeline serves every shape.
 *
 * @throws {InvalidArgumentError} for a shape that makes no sense, a buffer that is too small, or one that is both read and written.
 */
export async function prepareMergeStates(cache: LaunchCache, options: MergeStatesOptions): Promise<StateMerge> {
  const { numHeads, headDim, maxTokens, a, b, into } = options;
  checkPositive('numHeads', numHeads);
  checkPositive('maxTokens', maxTokens);
  if (!Number.isInteger(headDim) || headDim < 4 || headDim % 4 !== 0)
    throw new InvalidArgumentError('headDim', headDim, 'a positive multiple of 4');
  const alignment = cache.gpu.limits.minStorageBufferOffsetAlignment;
  const read = [a.output, a.logSumExp, b.output, b.logSumExp].map(bufferOf);
  for (const [name, state] of Object.entries({ a, b, into })) {
    checkRange(`${name}.output`, state.output, 4 * maxTokens * numHeads * headDim, alignment);
    checkRange(`${name}.logSumExp`, state.logSumExp, 4 * maxTokens * numHeads, alignment);
  }
  for (const name of ['output', 'logSumExp'] as const) {
    if (read.includes(bufferOf(into[name])))
      throw new InvalidArgumentError(`into.${name}`, 'a buffer of a or b', 'another buffer: a launch cannot read and write the same one');
  }
  const args: ArgumentsOf<typeof mergeStatesKernel.arguments> = {
    outputA: a.output,
    logSumExpA: a.logSumExp,
    outputB: b.output,
    logSumExpB: b.logSumExp,
    output: into.output,
    logSumExpOut: into.logSumExp,
    numRows: 0,
    columns: headDim / 4,
  };
  const site = await cache.prepare(mergeStatesKernel, args);
  return {
    record: (pass, numTokens) => {
      if (!Number.isInteger(numTokens) || numTokens < 0) throw new InvalidArgumentError('numTokens', numTokens, 'an integer from 0');
      if (numTokens > maxTokens) throw new CapacityExceededError('tokens of one merge', numTokens, maxTokens, 'maxTokens');
      args.numRows = numTokens * numHeads;
      site.record(pass, args);
    },
  };
}

function checkRange(name: string, argument: BufferArgument, bytes: number, alignment: number): void {
  if (argument.size < bytes) throw new InvalidArgumentError(name, `${argument.size} bytes`, `at least ${bytes} bytes for maxTokens`);
  const offset = 'buffer' in argument ? argument.offset : 0;
  if (offset % alignment !== 0) throw new InvalidArgumentError(`${name}.offset`, offset, `a multiple of ${alignment}, to be bound`);
}
