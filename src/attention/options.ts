/** What attention is asked with: options of a whole cache, of a layer, and of each sequence in a step. */
import type { BufferArgument } from '../launch/kernel.ts';
import type { Sequence } from './kv-cache.ts';
import type { AttentionModifications } from './modifications.ts';

export interface PagedAttentionOptions {
  /** Query heads; a multiple of the cache's KV heads. */
  readonly numHeads: number;
  /** Most new tokens of one step, over all sequences. */
  readonly maxTokensPerStep: number;
  /** Fewest keys of a part of a decode row that is split among workgroups; default: what suits the adapter (128 on a GPU, 64 where fewer than 128 workgroups would run; rows of up to 256 are not split). */
  readonly minSegmentKeys?: number;
  /** Workgroups that a decode launch aims at when it splits; default 512. */
  readonly targetWorkgroups?: number;
  /** Most invocations of an attention workgroup, up to 256; default: what suits the adapter. */
  readonly maxInvocations?: number;
  /**
   * Prefill, decode of large groups and large batches, by subgroup matrices where the device has them and keys have 16 or 8 bits (docs/tuning.md): queries
   * and weights are rounded to f16. Default true.
   */
  readonly subgroupMatrices?: boolean;
  /** Decode of keys and values in 8 bits multiplies in f16 where the device has `shader-f16`: queries and weights are rounded to f16. Default true. */
  readonly shaderF16?: boolean;
  /** What `tune` found on this device; anything else, of another device too, is ignored. The options above have precedence. */
  readonly tuning?: unknown;
  /** Hears why a tuning, or a part of it, was ignored. */
  readonly onTuningProblem?: (problem: string) => void;
  /** A row's result does not depend, bit by bit, on what else is in the batch: keys are cut every 1,024, and nothing is shared. Default false. */
  readonly deterministic?: boolean;
  /** True (default): single tokens go to the decode kernel, the others to the prefill kernel. False: all go to the prefill kernel. */
  readonly filterByQueryLen?: boolean;
  /** Sequences next to each other in a batch that share their first blocks read these once: `auto` (default) where it saves much, or `off`. */
  readonly cascade?: 'auto' | 'off';
  /** Keeps the log-sum-exp of each row, see `PagedAttention.logSumExp`. Default false. */
  readonly logSumExp?: boolean;
  /** Words that the caller adds to the plan (see `PagedAttention.plan`), query-query biases among them; default 0. */
  readonly extraPlanWords?: number;
}

/** One sequence of a batch, with how many of its last tokens are new in this step. */
export interface BatchEntry {
  readonly sequence: Sequence;
  readonly queryLen: number;
  /** Default true. False: every new token sees the whole sequence, the tokens after it too. */
  readonly causal?: boolean;
  /** Rotary positions of the new tokens; default: their places in the sequence. For the nodes of a tree, of which several have one position. */
  readonly positions?: readonly number[];
  /** Ranges [begin, end) of the sequence, in order and apart, whose tokens see one another in both directions: the parts of an image. */
  readonly bidirectional?: readonly (readonly [begin: number, end: number])[];
  /** f32 [queryLen][queryLen], added to the scores of the new tokens (rows) for the new tokens (columns); -1e30 and less masks. For verifying a tree. */
  readonly queryBias?: ArrayLike<number>;
}

/** What can change from step to step without compiling or binding anything. */
export interface LayerScalars {
  /** Default 1 / sqrt(headDim). */
  readonly scale?: number;
  /** Scores become `softcap * tanh(score / softcap)`, before masks and biases; default: none. */
  readonly softcap?: number | 'none';
  /** Keys that a token sees, itself among them: a sliding window. Blocks before it are not read. Default: none, all are seen. */
  readonly window?: number | 'none';
  /** With a window: the first so many keys stay visible ("attention sinks"). Default 0. */
  readonly keepFirst?: number;
  /** Values of the scalars that `modifications` declares, all of them. */
  readonly scalars?: Readonly<Record<string, number>>;
}

/** Buffers and scalars of one layer's attention. All activations are f32; strides and offsets count f32 values. */
export interface LayerOptions extends LayerScalars {
  /** [maxTokensPerStep, numHeads, headDim], rows `queryStride` apart (default: dense), from `queryOffset` on. */
  readonly query: BufferArgument;
  readonly queryStride?: number;
  readonly queryOffset?: number;
  /** [maxTokensPerStep, numKvHeads, headDim], rows `rowStride` apart (default: dense). May be the buffer of `query`: a packed QKV. */
  readonly key: BufferArgument;
  readonly value: BufferArgument;
  readonly rowStride?: number;
  readonly keyOffset?: number;
  readonly valueOffset?: number;
  /** [maxTokensPerStep, numHeads, headDim], dense. */
  readonly output: BufferArgument;
  /** Turns queries and keys to their positions on the way. Table f32 [positions][half][cos, sin]. */
  readonly rotary?: { readonly table: GPUBuffer; readonly half: number };
  /** With 8-bit dtypes and `scales: 'tensor'`: a stored key times this is the key. Default 1. */
  readonly keyScale?: number;
  readonly valueScale?: number;
  /** A slope for each head, times the (negative) distance of the key; `sqrt`: times minus the root of the distance. */
  readonly alibi?: { readonly slopes: ArrayLike<number>; readonly kind?: 'linear' | 'sqrt' };
  /** A logit for each head that takes part in the softmax and has no value. */
  readonly sinks?: ArrayLike<number>;
  /** WGSL of your own for scores and masks. Layers with the same text share their pipelines. */
  readonly modifications?: AttentionModifications;
  /** f32 values that modifications read as `modData(i)`; see `LayerAttention.writeData`. */
  readonly data?: ArrayLike<number>;
}

/** One layer's launches, to record after `plan`. */
export interface LayerAttention {
  /** Scatters the step's new keys and values into their slots: one launch, and one before it where blocks are copied. */
  append(pass: GPUComputePassEncoder): void;
  /** Attends: a launch for single-token rows, one for longer ones, one to merge split rows; each only where the step has such. */
  attend(pass: GPUComputePassEncoder): void;
  /** Changes scalars from the next launch on; those left out keep their values. Compiles and binds nothing. @throws {InvalidArgumentError} */
  set(scalars: LayerScalars): void;
  /** Overwrites the modifications' data from its value `first` on, before the next submit. @throws {InvalidArgumentError} beyond its end. */
  writeData(values: ArrayLike<number>, first?: number): void;
}
