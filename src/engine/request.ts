/** What the scheduler knows of one request. Pure. */
import type { Sequence } from '../attention/block-tables.ts';
import { InvalidArgumentError } from '../errors.ts';
import type { PrefixChain } from './prefix-cache.ts';

export interface RequestOptions {
  readonly promptIds: readonly number[];
  /** Most tokens to sample. */
  readonly maxTokens: number;
  /** Lower goes first; default 0. */
  readonly priority?: number;
  /** Requests with different salts share no blocks. */
  readonly cacheSalt?: string;
  /** Most steps in flight that sample for this request. 1 for one that needs the host's opinion of each token. Default: no limit. */
  readonly maxInFlight?: number;
  /** Another request with the same prompt: this one waits for its prompt and then forks it. */
  readonly forkOf?: Request;
}

/**
 * A request on its way: the scheduler moves it, its owner reads it. A request catches up to its tokens: those known, those in flight and a draft; how many it
 * has slots for is its sequence's length.
 */
export interface Request {
  readonly promptLength: number;
  readonly maxTokens: number;
  readonly priority: number;
  readonly cacheSalt: string;
  readonly maxInFlight: number;
  readonly forkOf: Request | undefined;
  /** Prompt and output, as far as the host knows them. */
  readonly tokens: number[];
  /** Sampling steps whose tokens are not known yet. */
  inFlight: number;
  /** Tokens that the host guesses come next: the next step verifies them, if it has room. For requests with `maxInFlight` 1. */
  draft: readonly number[];
  /** Not scheduled while true: its reader has fallen behind. */
  paused: boolean;
  status: 'waiting' | 'running' | 'ended';
  /** While running. */
  sequence: Sequence | undefined;
  /** Nothing was sampled since the request got its sequence. */
  isFresh: boolean;
  /** The step in which the last of the prompt was scheduled, since the request got its sequence. */
  promptStep: number | undefined;
  /** Prompt tokens found in the prefix cache, when the request first got a sequence. */
  cachedTokens: number | undefined;
  chain: PrefixChain | undefined;
}

/** @throws {InvalidArgumentError} for an empty prompt or limits below 1. */
export function createRequest(options: RequestOptions): Request {
  const { promptIds, maxTokens, priority = 0, cacheSalt = '', maxInFlight = Number.POSITIVE_INFINITY, forkOf } = options;
  if (promptIds.length === 0) throw new InvalidArgumentError('prompt', 'empty', 'at least one token');
  if (!(maxTokens >= 1)) throw new InvalidArgumentError('maxTokens', maxTokens, 'at least 1');
  if (!(maxInFlight >= 1)) throw new InvalidArgumentError('maxInFlight', maxInFlight, 'at least 1');
  return {
    ...{ promptLength: promptIds.length, maxTokens, priority, cacheSalt, maxInFlight, forkOf },
    ...{ tokens: [...promptIds], inFlight: 0, draft: [], paused: false, status: 'waiting' },
    ...{ sequence: undefined, isFresh: true, promptStep: undefined, cachedTokens: undefined, chain: undefined },
  };
}

/** Tokens sampled so far, as far as the host knows them. */
export function outputLength({ tokens, promptLength }: Request): number {
  return tokens.length - promptLength;
}
