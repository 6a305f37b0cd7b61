/** How an engine is opened: options, and what stands for those left out. Pure. */
import { blockBytes, checkLayout, type KvDtype, type KvLayout } from '../attention/layout.ts';
import type { LaunchCacheMode, LaunchEvent } from '../launch/options.ts';
import type { Tracer } from '../launch/trace.ts';
import type { ModelConfig } from './config.ts';
import { checkInteger, checkSpeculation, maxRunAhead } from './options.ts';
import type { LoadProgress, Speculation } from './types.ts';
import { blocksAtOnce } from './window.ts';

export interface EngineOptions {
  /** Storage of keys and values; default `f32`. */
  readonly kvDtype?: KvDtype;
  /** Token slots of a KV block, a multiple of 8; default 16. */
  readonly blockSize?: number;
  /** Longest prompt and answer together; default and most: the model's. */
  readonly contextLength?: number;
  /**
   * KV blocks per layer, the reserved one included. Default: as many as `maxSequences` sequences of `contextLength` need, or as fit into 512 MiB, but no fewer
   * than for one; of a model with a sliding window, one holds no more than the window and a step's tokens.
   */
  readonly numBlocks?: number;
  /** Most requests that run at once; default 8. */
  readonly maxSequences?: number;
  /** Token budget of one step, for all requests in it: longer prompts take several; default 512. */
  readonly maxTokensPerStep?: number;
  /** Most tokens of one prompt in one step, so that a long one leaves room for others; default: the budget. */
  readonly longPrefillThreshold?: number;
  /** Keep blocks of prompts and answers for requests that begin the same; default true. */
  readonly prefixCaching?: boolean;
  /** Most requests that wait, because `maxSequences` run or blocks are short; more are refused with `EngineBusyError`. Default: no limit. */
  readonly maxWaiting?: number;
  /**
   * Compute on a GPU's matrix units where the device has subgroup matrices: prompts' attention over keys of 16 or 8 bits, that of single tokens where
   * more than four query heads share a KV head, and products with 16-bit weights in steps of some 16 to 49 rows and more. Inputs are rounded to f16
   * then, 65,504 at most (a residual stream times its gains must be below), sums are f32. Default true; false: f32 throughout.
   */
  readonly subgroupMatrices?: boolean;
  /** As of `PagedAttention`: decode with KV in 8 bits multiplies in f16 where the device has `shader-f16`. Default true. */
  readonly shaderF16?: boolean;
  /** Default `on`; `verify` holds every launch against its full key. */
  readonly launchCache?: LaunchCacheMode;
  /** What `Engine.manifest` gave at an earlier visit: its pipelines are compiled while the weights are on their way. */
  readonly manifest?: unknown;
  /** What `tune` found on this device for the model's heads; anything else is ignored, and `onTuningProblem` hears why. */
  readonly tuning?: unknown;
  readonly onTuningProblem?: (problem: string) => void;
  /** Hears of false hits, and of a launch cache that stands aside. */
  readonly onLaunchEvent?: (event: LaunchEvent) => void;
  /** Collects where the time of generations goes. Each launch then takes a pass of its own, so that tokens come slower. */
  readonly trace?: Tracer;
  /** Steps submitted before the first readback returns, 1 to 32; default: measured when the engine is loaded. */
  readonly runAhead?: number;
  /** For requests that do not say (`GenerateOptions.speculate`) and can: without penalties and `allowedTokens`. Default none. */
  readonly speculate?: Speculation;
  readonly onProgress?: (progress: LoadProgress) => void;
  readonly signal?: AbortSignal;
}

/** Bytes of all layers' pools where nobody says how many blocks. */
const poolBytes = 512 << 20;

/** Sizes of an engine, complete and checked. */
export interface EngineSizes {
  readonly contextLength: number;
  readonly maxSequences: number;
  readonly maxTokensPerStep: number;
  readonly maxBlocksPerSequence: number;
  readonly numBlocks: number;
}

/** @throws {InvalidArgumentError} for values out of their range. */
export function engineSizes(options: EngineOptions, config: ModelConfig): EngineSizes {
  const { runAhead, maxSequences = 8, blockSize = 16, longPrefillThreshold, maxWaiting, kvDtype = 'f32' } = options;
  if (runAhead !== undefined) checkInteger('runAhead', runAhead, 1, maxRunAhead);
  if (options.speculate) checkSpeculation(options.speculate);
  const contextLength = options.contextLength ?? config.contextLength;
  checkInteger('contextLength', contextLength, 2, config.contextLength);
  checkInteger('maxSequences', maxSequences, 1, 1024);
  const maxTokensPerStep = options.maxTokensPerStep ?? 512;
  checkInteger('maxTokensPerStep', maxTokensPerStep, 1, Number.MAX_SAFE_INTEGER);
  if (longPrefillThreshold !== undefined) checkInteger('longPrefillThreshold', longPrefillThreshold, 1, Number.MAX_SAFE_INTEGER);
  if (maxWaiting !== undefined) checkInteger('maxWaiting', maxWaiting, 0, Number.MAX_SAFE_INTEGER);
  const layout: KvLayout = { ...config, blockSize, dtype: kvDtype };
  checkLayout(layout);
  const maxBlocksPerSequence = Math.ceil(contextLength / blockSize);
  const atOnce = Math.min(maxTokensPerStep, longPrefillThreshold ?? maxTokensPerStep);
  const least = Math.min(maxBlocksPerSequence, blocksAtOnce({ window: config.slidingWindow }, atOnce, blockSize));
  const fitting = Math.floor(poolBytes / (config.numLayers * blockBytes(layout)));
  return {
    contextLength,
    maxSequences,
    maxTokensPerStep: Math.min(maxTokensPerStep, maxSequences * contextLength),
    maxBlocksPerSequence,
    numBlocks: options.numBlocks ?? 1 + Math.max(least, Math.min(fitting, maxSequences * maxBlocksPerSequence)),
  };
}
