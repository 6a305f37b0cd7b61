/** How far ahead of its readbacks an engine submits steps. Pure, but for the host that is asked for by default. */
import { hostName } from '../host.ts';
import { maxRunAhead } from './options.ts';

const leastDepth = 2;

/** More save little, and come later. */
const mostPerRead = 8;

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
 * Steps whose results are mapped together, of `depth` in flight. Deno's `mapAsync` holds the host up until the GPU has done all that was submitted, before it
 * waits by a timer: a call for each step would have host and GPU take turns. So half of those in flight share one there, eight at most.
 */
export function stepsPerRead(depth: number, host = hostName()): number {
  return host === 'deno' ? Math.max(1, Math.min(mostPerRead, Math.floor(depth / 2))) : 1;
}

/**
 * The depth at which waiting for the host no longer holds the GPU up: wait / step, rounded up, and as many as are read together.
 *
 * @param wait milliseconds between the end of a step and the moment when the host has its result.
 * @param step milliseconds of a step on the GPU; undefined: unknown.
 */
export function runAheadDepth(wait: number, step: number | undefined, host = hostName()): number {
  if (step === undefined) return leastDepth;
  const waited = Math.ceil(Math.max(0, wait) / step);
  let depth = leastDepth;
  while (depth < maxRunAhead && depth - stepsPerRead(depth, host) < waited) depth++;
  return depth;
}
