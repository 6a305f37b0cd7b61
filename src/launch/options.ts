/** What a launch cache is asked with, and what it tells. */
import type { KernelCompileError } from '../errors.ts';
import type { ArgumentPath, SelectorValue } from './kernel.ts';
import type { FalseHit } from './verify.ts';

/**
 * `on`: launches go through prepared sites. `off`: what a careful program does without a launch cache: the full key is built from all
 * arguments, the pipeline comes from a Map, the uniform from a pool, and every launch makes a bind group; nothing is compiled twice.
 * `verify` and `verify-sample`: as `on`, but every launch, or one in 64, is held against its full key; one that differs is reported as a
 * false hit and takes the uncached path, so that its result is right.
 */
export type LaunchCacheMode = 'on' | 'off' | 'verify' | 'verify-sample';

/** What a frozen cache does about a variant that nobody prepared. */
export type MissPolicy = 'throw' | 'uncached' | 'compile';

/** Something worth telling a developer. */
export type LaunchEvent =
  | ({ readonly type: 'false-hit' } & FalseHit)
  | { readonly type: 'miss'; readonly kernel: string; readonly keys: Readonly<Record<string, SelectorValue>> }
  | { readonly type: 'eviction'; readonly kernel: string; readonly keys: Readonly<Record<string, SelectorValue>> }
  | { readonly type: 'pass-through'; readonly reason: string }
  /** A variant that a launch could not wait for does not compile. The launch is lost with its command buffer, and the next one throws the error. */
  | { readonly type: 'compile-error'; readonly kernel: string; readonly error: KernelCompileError }
  /** `prepareFitting` passed over a set of arguments; or another kernel took the place of this one (index 0). */
  | { readonly type: 'fallback'; readonly kernel: string; readonly index: number; readonly reason: unknown };

export interface LaunchCacheOptions {
  readonly mode?: LaunchCacheMode;
  /** Launches whose per-call values fit into one buffer before another is made; default 512 (128 KiB). */
  readonly argumentSlots?: number;
  /** How per-call values travel; default `arena`. `LaunchCache.open` measures which is faster here. */
  readonly argumentPath?: ArgumentPath;
  /** Pipelines kept, over all kernels; the one unused for longest goes. The uncached path keeps as many of its own. Default 256. */
  readonly maxPipelines?: number;
  /** Combinations of swappable buffers kept per site; default 16. */
  readonly maxBindings?: number;
  readonly onEvent?: (event: LaunchEvent) => void;
}

/** Counts since the cache was made. */
export interface LaunchCounts {
  /** Launches recorded. */
  readonly launches: number;
  /** Launches whose keys were those of the site's last launch, or of another prepared variant. */
  readonly hits: number;
  /** Launches that found no prepared variant. */
  readonly misses: number;
  /** Calls of `prepare`. */
  readonly prepares: number;
  readonly sites: number;
  readonly pipelines: number;
  readonly bindGroups: number;
  readonly falseHits: number;
  readonly evictions: number;
  /** Launches that took the uncached path. */
  readonly uncached: number;
}

export interface LaunchStats extends LaunchCounts {
  /** Why the cache stands aside, where it does. */
  readonly passThrough: string | undefined;
  readonly argumentPath: ArgumentPath;
  /** Host time of one launch in each 64: [below so many microseconds, count]. */
  readonly encodeTime: readonly (readonly [microseconds: number, count: number])[];
}
