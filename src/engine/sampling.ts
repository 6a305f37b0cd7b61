/** How the next token is chosen: what a request may ask for, checked, and what each row of logits is sampled with. Pure: needs no GPU. */
import { InvalidArgumentError } from '../errors.ts';

/** Most likeliest tokens that come back with a token. */
export const maxTopLogprobs = 20;
/** Most tokens with a bias of their own. */
export const maxLogitBiases = 1024;
/** Most tokens that end a sequence. */
export const maxStopTokens = 128;

/**
 * How to choose the next token of a sequence. Steps come in this order: allowed tokens, bias, stop tokens banned, penalties; then the
 * largest logit, or temperature, min-p, top-k, top-p and a random one of what is left.
 */
export interface SamplingParameters {
  /** 0 = greedy. */
  readonly temperature: number;
  /** 0 = all. */
  readonly topK: number;
  /** 1 = all. */
  readonly topP: number;
  /** u32. */
  readonly seed: number;
  /** Tokens that end the sequence. Sequences that share one list (the same object) send it once. */
  readonly stopTokens: readonly number[];
  /** Tokens less likely than this part of the likeliest are left out; default 0 = none. */
  readonly minP?: number;
  /** Logits of tokens in prompt or output are divided by it, negative ones multiplied (Keskar et al. 2019); default 1. */
  readonly repetitionPenalty?: number;
  /** Taken from the logits of tokens in the output; default 0. */
  readonly presencePenalty?: number;
  /** Taken from a token's logit for each time that it is in the output; default 0. */
  readonly frequencyPenalty?: number;
  /** (token, added to its logit), tokens ascending. */
  readonly logitBias?: readonly (readonly [token: number, bias: number])[];
  /** Stop tokens are not chosen: the output has not its fewest tokens yet. Does nothing where no other token is allowed. */
  readonly banStopTokens?: boolean;
  /** Bit `token % 32` of word `token / 32` set: may be chosen. u32 [ceil(vocabSize / 32)], read while the step is planned. */
  readonly allowedTokens?: Uint32Array;
  /** Undefined: no log-probabilities; 0: of the chosen token; k: and the k likeliest. Of the model's distribution, before all of the above. */
  readonly logprobs?: number;
}

/** What a request may say about sampling. */
export interface SamplingOptions {
  readonly minTokens?: number;
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias?: Readonly<Record<number, number>>;
  readonly seed?: number;
  readonly stopTokens?: readonly number[];
  readonly ignoreEos?: boolean;
  readonly logprobs?: number;
}

/** What counts where a request says nothing. */
export interface SamplingDefaults {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  /** The model's own stop tokens; `ignoreEos` leaves them out. */
  readonly eosTokenIds?: readonly number[];
}

const neutral: SamplingDefaults = { temperature: 1, topK: 0, topP: 1 };

/**
 * Checks what a request says about sampling.
 *
 * @returns the parameters of its first row; a seed that the request leaves out is random.
 * @throws {InvalidArgumentError} that names the option.
 */
export function checkSampling(options: SamplingOptions, vocabSize: number, defaults: SamplingDefaults = neutral): SamplingParameters {
  const { temperature = defaults.temperature, topK = defaults.topK, topP = defaults.topP, minP = 0 } = options;
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, minTokens = 0, maxTokens, logprobs } = options;
  checkNumber('temperature', temperature, temperature >= 0 && temperature < Number.POSITIVE_INFINITY, 'a number from 0 (greedy) up');
  checkInteger('topK', topK, 0, 2 ** 31);
  checkNumber('topP', topP, topP > 0 && topP <= 1, 'a number above 0, at most 1');
  checkNumber('minP', minP, minP >= 0 && minP <= 1, 'a number from 0 to 1');
  checkNumber('repetitionPenalty', repetitionPenalty, repetitionPenalty >= 0.01 && repetitionPenalty <= 100, 'a number from 0.01 to 100');
  checkNumber('presencePenalty', presencePenalty, Math.abs(presencePenalty) <= 2, 'a number from -2 to 2');
  checkNumber('frequencyPenalty', frequencyPenalty, Math.abs(frequencyPenalty) <= 2, 'a number from -2 to 2');
  if (maxTokens !== undefined) checkInteger('maxTokens', maxTokens, 1, Number.MAX_SAFE_INTEGER);
  checkInteger('minTokens', minTokens, 0, maxTokens ?? Number.MAX_SAFE_INTEGER);
  if (logprobs !== undefined) checkInteger('logprobs', logprobs, 0, maxTopLogprobs);
  const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  checkInteger('seed', seed, 0, 2 ** 32 - 1);
  const own = options.stopTokens ?? [];
  for (const token of own) checkInteger('stopTokens', token, 0, vocabSize - 1);
  const eos = options.ignoreEos ? [] : (defaults.eosTokenIds ?? []);
  const stopTokens = own.length === 0 ? eos : [...new Set([...eos, ...own])];
  if (stopTokens.length > maxStopTokens)
    throw new InvalidArgumentError(
      'stopTokens',
      `${stopTokens.length} tokens`,
      `at most ${maxStopTokens} tokens, the model's own among them`,
    );
  const logitBias = checkLogitBias(options.logitBias ?? {}, vocabSize);
  return {
    ...{ temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty },
    ...{ seed, stopTokens, logitBias, banStopTokens: minTokens > 0, logprobs },
  };
}

/** Whether a row needs the counts of the tokens before it. */
export function usesPenalties({ repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 }: SamplingParameters): boolean {
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
}

/**
 * The seed of the `index`-th of several samples of one prompt: the request's own for the first, and another for each one after. Samples are
 * independent, since the seed is hashed with position and token.
 */
export function deriveSeed(seed: number, index: number): number {
  return (seed + Math.imul(index, 0x9e3779b9)) >>> 0; // an odd factor: no two alike among 2^32
}

function checkLogitBias(biases: Readonly<Record<number, number>>, vocabSize: number): readonly (readonly [number, number])[] {
  const pairs = Object.entries(biases).map(([token, bias]) => [Number(token), bias] as const);
  if (pairs.length > maxLogitBiases)
    throw new InvalidArgumentError('logitBias', `of ${pairs.length} tokens`, `of at most ${maxLogitBiases} tokens`);
  for (const [token, bias] of pairs) {
    checkInteger('logitBias token', token, 0, vocabSize - 1);
    checkNumber(`logitBias of token ${token}`, bias, Math.abs(bias) <= 100, 'a number from -100 to 100');
  }
  return pairs.sort(([a], [b]) => a - b);
}

function checkNumber(argument: string, value: number, good: boolean, expected: string): void {
  if (typeof value !== 'number' || !good) throw new InvalidArgumentError(argument, value, expected);
}

function checkInteger(argument: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new InvalidArgumentError(argument, value, `an integer from ${least} to ${most}`);
}
