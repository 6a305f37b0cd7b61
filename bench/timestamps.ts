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
const rampUp = 150;

/** Medians are of what comes after this: runs `sample` until the GPU is at its full clock, then so many times more. @returns the times of these */
export async function sampleWarm(rounds: number, software: boolean, sample: () => Promise<number>): Promise<number[]> {
  const start = performance.now();
  do await sample();
  while (!software && performance.now() - start < rampUp);
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) times.push(await sample());
  return times;
}
