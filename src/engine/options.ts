/** What `generate` is asked for, checked. Pure. */
import { ContextLengthError, InvalidArgumentError } from '../errors.ts';
import type { PromptLookup } from './prompt-lookup.ts';
import { checkSampling, deriveSeed, type SamplingDefaults, type SamplingParameters, usesPenalties } from './sampling.ts';
import type { AllowedTokens, GenerateOptions, Speculation } from './types.ts';

/** Most steps in flight, and staging buffers made. */
export const maxRunAhead = 32;
const maxSamples = 128;
const maxStops = 16;
/** With the token before it, a query whose rows attention splits over a long context. */
const maxDraft = 15;
const maxNgramLength = 32;

/** One generation, complete and checked. */
export interface GenerationSpec {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  readonly minTokens: number;
  /** For each of the samples. */
  readonly sampling: readonly SamplingParameters[];
  readonly stops: readonly string[];
  readonly runAhead: number;
  readonly priority: number;
  readonly cacheSalt: string;
  readonly allowedTokens: AllowedTokens | undefined;
  readonly speculate: PromptLookup | undefined;
  readonly signal: AbortSignal | undefined;
}

/** What the options are checked against. */
export interface GenerationLimits {
  readonly vocabSize: number;
  readonly contextLength: number;
  /** Tokens that the whole pool holds, where these are fewer. A prompt that is longer fails when its turn comes, alone. */
  readonly maxSequenceLength?: number;
  /** Depth where the request names none. */
  readonly runAhead: number;
  /** For requests that name none, and can. */
  readonly speculate?: Speculation;
  readonly hasTokenizer: boolean;
  readonly defaults: SamplingDefaults;
}

/** @throws {InvalidArgumentError} for bad options or token ids. @throws {ContextLengthError} when the prompt leaves no room. */
export function checkOptions(promptIds: readonly number[], options: GenerateOptions, limits: GenerationLimits): GenerationSpec {
  const { vocabSize, contextLength, maxSequenceLength = contextLength, hasTokenizer, defaults } = limits;
  checkTokens(promptIds, vocabSize);
  if (promptIds.length >= contextLength) throw new ContextLengthError(promptIds.length, contextLength);
  const most = Math.max(1, Math.min(contextLength, maxSequenceLength) - promptIds.length);
  const { n = 1, runAhead = limits.runAhead, priority = 0, cacheSalt = '', allowedTokens, signal, minTokens = 0 } = options;
  const first = checkSampling(options, vocabSize, defaults);
  checkInteger('n', n, 1, maxSamples);
  checkInteger('runAhead', runAhead, 1, maxRunAhead);
  if (!Number.isFinite(priority)) throw new InvalidArgumentError('priority', priority, 'a number; lower goes first');
  if (typeof cacheSalt !== 'string') throw new InvalidArgumentError('cacheSalt', cacheSalt, 'a text');
  if (allowedTokens !== undefined && typeof allowedTokens !== 'function')
    throw new InvalidArgumentError('allowedTokens', allowedTokens, 'a function from the ids so far to a mask');
  const needsEachToken = allowedTokens !== undefined || usesPenalties(first);
  const guess = options.speculate ?? (needsEachToken ? undefined : limits.speculate);
  const speculate = guess ? checkSpeculation(guess) : undefined;
  if (speculate && needsEachToken)
    throw new InvalidArgumentError('speculate', 'given', 'left out with penalties or allowedTokens: they need each token before the next');
  return {
    promptIds,
    maxTokens: Math.min(options.maxTokens ?? most, most),
    minTokens,
    sampling: Array.from({ length: n }, (_, i) => ({ ...first, seed: deriveSeed(first.seed, i) })),
    stops: checkStops(options.stop ?? [], hasTokenizer),
    runAhead: allowedTokens || speculate ? 1 : runAhead,
    ...{ priority, cacheSalt, allowedTokens, speculate, signal },
  };
}

/** @throws {InvalidArgumentError} */
export function checkSpeculation({ numTokens, maxNgram = 3, minNgram = 1 }: Speculation): PromptLookup {
  checkInteger('speculate.numTokens', numTokens, 1, maxDraft);
  checkInteger('speculate.maxNgram', maxNgram, 1, maxNgramLength);
  checkInteger('speculate.minNgram', minNgram, 1, maxNgram);
  return { numTokens, maxNgram, minNgram };
}

function checkStops(stop: string | readonly string[], hasTokenizer: boolean): readonly string[] {
  const stops = typeof stop === 'string' ? [stop] : stop;
  if (stops.length > maxStops) throw new InvalidArgumentError('stop', `${stops.length} texts`, `at most ${maxStops} texts`);
  const bad = stops.find((text) => typeof text !== 'string' || text === '');
  if (bad !== undefined) throw new InvalidArgumentError('stop', bad, 'a text that is not empty, or several');
  if (stops.length > 0 && !hasTokenizer)
    throw new InvalidArgumentError('stop', stops[0], 'left out: without tokenizer.json there is no text. Use stopTokens');
  return stops;
}

/** @throws {InvalidArgumentError} for no tokens, or ids that the model lacks. */
export function checkTokens(ids: readonly number[], vocabSize: number): void {
  if (ids.length === 0) throw new InvalidArgumentError('prompt', 'empty', 'at least one token');
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined) throw new InvalidArgumentError('token id', bad, `an integer from 0 to ${vocabSize - 1}`);
}

/** @throws {InvalidArgumentError} */
export function checkInteger(argument: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new InvalidArgumentError(argument, value, `an integer from ${least} to ${most}`);
}
