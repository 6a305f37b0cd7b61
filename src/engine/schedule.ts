/** What the scheduler is told and what it says. Pure. */
import type { Sequence } from '../attention/block-tables.ts';
import type { PagewiseError } from '../errors.ts';
import type { Request } from './request.ts';
import type { KeyWindow } from './window.ts';

/** With a window, which all layers have, blocks that fell out are given up. */
export interface SchedulerOptions extends KeyWindow {
  /** Token budget of one step. */
  readonly maxTokensPerStep: number;
  /** Requests that run at once. */
  readonly maxSequences: number;
  /** Most tokens that one request gets of a step, so that a long prompt leaves room for others; default: no limit. */
  readonly longPrefillThreshold?: number;
  /** Rows of logits of one step, at least `maxSequences`; drafts share what is left. Default: no limit. */
  readonly maxLogitRows?: number;
}

/** One request's part of a step. */
export interface ScheduledTokens {
  readonly request: Request;
  readonly sequence: Sequence;
  readonly count: number;
  /** Undefined: the one token that the step before sampled for this sequence, which the host does not know yet. */
  readonly tokens: readonly number[] | undefined;
  /** Rows to sample after: 0, the last one, or that and those before the tokens of a draft. */
  readonly samples: number;
  /** The first sampling of this sequence. */
  readonly first: boolean;
}

/** What one step computes. Its slots are reserved; it must be submitted before the next is scheduled. */
export interface ScheduledStep {
  readonly entries: readonly ScheduledTokens[];
  readonly numTokens: number;
  /** Requests that can never run, with the reason. They have ended. */
  readonly failed: readonly { readonly request: Request; readonly error: PagewiseError }[];
}

export interface SchedulerStats {
  readonly running: number;
  readonly waiting: number;
  readonly preemptions: number;
  /** Of requests that have run, a prompt of several samples once. */
  readonly promptTokens: number;
  /** Prompt tokens looked up in the prefix cache, and found there. */
  readonly prefixQueries: number;
  readonly prefixHits: number;
}
