/**
 * Figures for Prometheus, in its text format 0.0.4, under the names that vLLM gives them with another prefix. The counters are the
 * engine's own, so that they count what does not come through this server as well; the histograms are of this server's requests.
 */
import type { Generation, GenerationResult } from '../engine/index.ts';
import type { ServingEngine } from './types.ts';

export const metricsContentType = 'text/plain; version=0.0.4; charset=utf-8';

/** Collects the figures of requests. */
export interface Metrics {
  /** Takes the figures of a generation when it has ended. */
  watch(generation: Generation): void;
  /** For one request: times between tokens of a choice, as they are handed over. */
  latencies(): { token(choice: number): void };
  /** What Prometheus scrapes. */
  text(): string;
}

const prefix = 'pagewise:';
const tenths = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
const gaps = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80];
const durations = [0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
const lengths = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];

type FinishedReason = GenerationResult['finishReason'] | 'error';

/** @param now a clock in milliseconds; default `performance.now`. */
export function createMetrics(engine: ServingEngine, modelName: string, now = () => performance.now()): Metrics {
  const label = `model_name="${escapeLabel(modelName)}"`;
  const histogram = (name: string, help: string, bounds: readonly number[]) => new Histogram(prefix + name, help, label, bounds);
  const firstToken = histogram('time_to_first_token_seconds', 'Time to first token in seconds.', tenths);
  const interToken = histogram('inter_token_latency_seconds', 'Time between tokens in seconds.', gaps);
  const queueTime = histogram('request_queue_time_seconds', 'Time until a request ran in seconds.', durations);
  const latency = histogram('e2e_request_latency_seconds', 'Time of a whole request in seconds.', durations);
  const promptLength = histogram('request_prompt_tokens', 'Prompt tokens of a request.', lengths);
  const outputLength = histogram('request_generation_tokens', 'Generated tokens of a request.', lengths);
  const histograms = [firstToken, interToken, queueTime, latency, promptLength, outputLength];
  const finished: Record<FinishedReason, number> = { stop: 0, length: 0, abort: 0, error: 0 };

  function take({ choices, stats }: GenerationResult, started: number): void {
    for (const { finishReason, ids } of choices) {
      finished[finishReason]++;
      outputLength.observe(ids.length);
    }
    promptLength.observe(stats.promptTokens);
    latency.observe((now() - started) / 1000);
    if (stats.timeToFirstToken > 0) firstToken.observe(stats.timeToFirstToken / 1000);
    if (stats.queueTime !== undefined) queueTime.observe(stats.queueTime / 1000);
  }

  function single(type: 'counter' | 'gauge', name: string, help: string, samples: readonly (readonly [labels: string, value: number])[]) {
    const lines = samples.map(([labels, value]) => `${prefix}${name}{${[label, labels].filter(Boolean).join()}} ${value}\n`);
    return `# HELP ${prefix}${name} ${help}\n# TYPE ${prefix}${name} ${type}\n${lines.join('')}`;
  }

  return {
    watch(generation) {
      const started = now();
      generation.result.then(
        (result) => take(result, started),
        () => void finished.error++,
      );
    },

    latencies() {
      const last = new Map<number, number>();
      return {
        token(choice) {
          const time = now();
          const before = last.get(choice);
          if (before !== undefined) interToken.observe((time - before) / 1000);
          last.set(choice, time);
        },
      };
    },

    text() {
      const stats = engine.stats();
      const one = (value: number) => [['', value]] as const;
      const reasons = Object.entries(finished).map(([reason, value]) => [`finished_reason="${reason}"`, value] as const);
      return [
        single('gauge', 'num_requests_running', 'Requests that run.', one(stats.running)),
        single('gauge', 'num_requests_waiting', 'Requests that wait.', one(stats.waiting)),
        single('gauge', 'kv_cache_usage_perc', 'Share of the KV blocks in use, 1 is all.', one(stats.kvUsage)),
        single('counter', 'prefix_cache_queries_total', 'Prompt tokens looked for in the prefix cache.', one(stats.prefixQueries)),
        single('counter', 'prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.', one(stats.prefixHits)),
        single('counter', 'num_preemptions_total', 'Requests that lost their blocks and began again.', one(stats.preemptions)),
        single('counter', 'prompt_tokens_total', 'Prompt tokens computed or found.', one(stats.promptTokens)),
        single('counter', 'generation_tokens_total', 'Generated tokens.', one(stats.generatedTokens)),
        single('counter', 'spec_decode_num_draft_tokens_total', 'Tokens that were guessed.', one(stats.draftedTokens)),
        single('counter', 'spec_decode_num_accepted_tokens_total', 'Guessed tokens that turned out right.', one(stats.acceptedTokens)),
        single('counter', 'request_success_total', 'Choices that ended, by why.', reasons),
        ...histograms.map(String),
      ].join('');
    },
  };
}

/** Counts of values up to each bound, as Prometheus has them. */
export class Histogram {
  readonly #name: string;
  readonly #help: string;
  readonly #label: string;
  readonly #bounds: readonly number[];
  readonly #counts: number[];
  #sum = 0;

  /** @param bounds rising; infinity is not among them. */
  constructor(name: string, help: string, label: string, bounds: readonly number[]) {
    this.#name = name;
    this.#help = help;
    this.#label = label;
    this.#bounds = bounds;
    this.#counts = new Array(bounds.length + 1).fill(0);
  }

  observe(value: number): void {
    const at = this.#bounds.findIndex((bound) => value <= bound);
    this.#counts[at < 0 ? this.#bounds.length : at]++;
    this.#sum += value;
  }

  toString(): string {
    const name = this.#name;
    let total = 0;
    const buckets = this.#counts.map((count, at) => {
      total += count;
      return `${name}_bucket{${this.#label},le="${this.#bounds[at] ?? '+Inf'}"} ${total}\n`;
    });
    const sums = `${name}_sum{${this.#label}} ${this.#sum}\n${name}_count{${this.#label}} ${total}\n`;
    return `# HELP ${name} ${this.#help}\n# TYPE ${name} histogram\n${buckets.join('')}${sums}`;
  }
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
