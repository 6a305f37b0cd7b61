import type { Random } from '../../test/harness/random.ts';

/**
 * When each request is sent, in milliseconds after the first. Intervals are Gamma distributed with shape `burstiness` and scale
 * 1 / (rate * burstiness): 1 is a Poisson process, less comes in bursts, more comes evenly.
 *
 * @param rate requests per second; infinite: all at once.
 */
export function arrivalTimes(count: number, rate: number, burstiness: number, random: Random): number[] {
  let time = 0;
  return Array.from({ length: count }, (_, i) => {
    if (i > 0 && rate !== Number.POSITIVE_INFINITY) time += (1000 * gamma(burstiness, random)) / (rate * burstiness);
    return time;
  });
}

/** A Gamma variate of scale 1 (Marsaglia and Tsang, A simple method for generating gamma variables, 2000). */
export function gamma(shape: number, random: Random): number {
  // Below 1: one of shape + 1, times a power of a uniform one.
  if (shape < 1) return gamma(shape + 1, random) * (1 - random.uniform()) ** (1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal();
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - random.uniform()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}
