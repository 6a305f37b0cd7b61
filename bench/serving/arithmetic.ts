/**
 * The figures of a serving benchmark, as vLLM's `benchmark_serving` defines them. Pure: times come in, in milliseconds of any one clock.
 */

/** What a client saw of one request. */
export interface RequestTrace {
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Just before sending, after any limit of concurrency of the client's. */
  readonly start: number;
  /** When each piece that carries a choice came. */
  readonly chunks: readonly number[];
}

/** Times of one request, in milliseconds. */
export interface RequestTimes {
  /** To the first token. */
  readonly ttft: number;
  /** Between pieces after the first. */
  readonly itl: readonly number[];
  /** To the last token. */
  readonly latency: number;
  /** Of each token after the first; undefined where there is only one. */
  readonly tpot: number | undefined;
}

/** Limits in milliseconds that a request must keep to be a good one. */
export interface Goodput {
  readonly ttft?: number;
  readonly tpot?: number;
  /** Of the whole request, as vLLM calls it. */
  readonly e2el?: number;
}

/** A distribution. */
export interface Summary {
  readonly mean: number;
  readonly median: number;
  readonly p99: number;
}

/** All figures of a run; times in milliseconds. */
export interface ServingFigures {
  readonly completed: number;
  /** Seconds. */
  readonly duration: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Requests per second. */
  readonly requestThroughput: number;
  /** Good requests per second; undefined where no limits were given. */
  readonly goodput: number | undefined;
  /** Generated tokens per second. */
  readonly outputThroughput: number;
  /** Prompt and generated tokens per second. */
  readonly totalThroughput: number;
  readonly ttft: readonly number[];
  readonly tpot: readonly number[];
  readonly itl: readonly number[];
  readonly latency: readonly number[];
}

export function timesOf({ start, chunks, outputTokens }: RequestTrace): RequestTimes {
  const ttft = chunks[0] - start;
  const latency = chunks[chunks.length - 1] - start;
  return {
    ttft,
    latency,
    itl: chunks.slice(1).map((time, i) => time - chunks[i]),
    tpot: outputTokens > 1 ? (latency - ttft) / (outputTokens - 1) : undefined,
  };
}

/** @param traces of the requests that succeeded @param duration in milliseconds, from just before the first request until all were done */
export function figuresOf(traces: readonly RequestTrace[], duration: number, goodput?: Goodput): ServingFigures {
  const times = traces.map(timesOf);
  const seconds = duration / 1000;
  const sum = (count: (trace: RequestTrace) => number) => traces.reduce((total, trace) => total + count(trace), 0);
  const inputTokens = sum(({ promptTokens }) => promptTokens);
  const outputTokens = sum((trace) => trace.outputTokens);
  return {
    ...{ completed: traces.length, duration: seconds, inputTokens, outputTokens },
    requestThroughput: traces.length / seconds,
    goodput: goodput && times.filter((one) => isGood(one, goodput)).length / seconds,
    outputThroughput: outputTokens / seconds,
    totalThroughput: (inputTokens + outputTokens) / seconds,
    ttft: times.map(({ ttft }) => ttft),
    tpot: times.flatMap(({ tpot }) => tpot ?? []),
    itl: times.flatMap(({ itl }) => itl),
    latency: times.map(({ latency }) => latency),
  };
}

/** A request of one token has kept any limit of the time between tokens. */
function isGood({ ttft, tpot = 0, latency }: RequestTimes, limits: Goodput): boolean {
  const { ttft: mostTtft = Infinity, tpot: mostTpot = Infinity, e2el = Infinity } = limits;
  return ttft <= mostTtft && tpot <= mostTpot && latency <= e2el;
}

/** Of no values all are 0, as in the original. */
export function summaryOf(values: readonly number[]): Summary {
  if (values.length === 0) return { mean: 0, median: 0, p99: 0 };
  const mean = values.reduce((total, value) => total + value, 0) / values.length;
  return { mean, median: percentile(values, 50), p99: percentile(values, 99) };
}

/** Linear interpolation between the nearest ranks, as numpy's default. @param values at least one @param share 0 to 100 */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share / 100) * (sorted.length - 1);
  const below = sorted[Math.floor(at)];
  return below + (sorted[Math.ceil(at)] - below) * (at - Math.floor(at));
}
