/** How far ahead of its readbacks an engine submits steps. Pure. */
import { maxRunAhead } from './options.ts';

const leastDepth = 2;

/** A timer's smallest step, in milliseconds: nothing shorter was measured. */
const leastStep = 0.02;

/**
 * Milliseconds that a step takes, from the time of one step, and of `steps` submitted at once: the wait for the host is in both of them.
 *
 * @returns undefined for fewer than two steps, which tell nothing.
 */
export function stepTime(one: number, many: number, steps: number): number | undefined {
  return steps < 2 ? undefined : Math.max((many - one) / (steps - 1), leastStep);
}

/**
 * The depth at which waiting for the host no longer holds the GPU up: wait / step, rounded up, plus 1.
 *
 * @param wait milliseconds between the end of a step and the moment when the host has its result.
 * @param step milliseconds of a step on the GPU; undefined: unknown.
 */
export function runAheadDepth(wait: number, step: number | undefined): number {
  if (step === undefined) return leastDepth;
  return Math.min(maxRunAhead, Math.max(leastDepth, Math.ceil(Math.max(0, wait) / step) + 1));
}
