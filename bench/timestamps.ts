/** Times passes by the GPU's own clock where there is one, else by the host's. */
import type { Gpu } from 'pagewise';

export { type PassTimer, passTimer } from '../src/launch/pass-timer.ts';

/** The note to print beside the times. */
export function timerNote({ features }: Gpu): string {
  return features.timestampQuery
    ? "Times are the GPU's own, by timestamps at either end of a pass."
    : 'Times are wall-clock times until the GPU was done.';
}

/** Milliseconds of work after which a GPU that was idle, while the host checked results, runs at its full clock again. */
const rampUp = 400;
/** Passes of the warm-up are longer by so much: a GPU that has to wait for the host between short ones (11 ms in Deno) stays slow. */
const rampUpTimes = 24;

/**
 * Medians are of what comes after this: keeps the GPU busy until it is at its full clock, then takes samples.
 * @param sample does the work so many times over, in one pass; gives the time of one
 */
export async function sampleWarm(rounds: number, software: boolean, sample: (times: number) => Promise<number>): Promise<number[]> {
  const start = performance.now();
  do await sample(software ? 1 : rampUpTimes);
  while (!software && performance.now() - start < rampUp);
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) times.push(await sample(1));
  return times;
}
