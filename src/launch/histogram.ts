/** Counts of durations by powers of two: bucket n holds those below 2^n microseconds, and not below half of that; the last all longer ones. */
export class Histogram {
  readonly #buckets = new Array<number>(20).fill(0);

  /** @param milliseconds a duration */
  add(milliseconds: number): void {
    const microseconds = milliseconds * 1000;
    const bucket = microseconds < 1 ? 0 : Math.floor(Math.log2(microseconds)) + 1;
    this.#buckets[Math.min(bucket, this.#buckets.length - 1)]++;
  }

  /** [upper bound in microseconds, count] of the buckets that hold something. */
  entries(): readonly (readonly [microseconds: number, count: number])[] {
    return this.#buckets.flatMap((count, n) => (count > 0 ? [[2 ** n, count] as const] : []));
  }
}
