import type { Constraint } from '../constrained/index.ts';
import type { GenerateOptions, Generation, GenerationChunk, GenerationResult } from '../engine/index.ts';
import { ContextLengthError } from '../errors.ts';
import { ApiError } from './errors.ts';
import type { Metrics } from './metrics.ts';
import type { ServingEngine } from './types.ts';

/** A piece of one of a request's choices; they are numbered prompt by prompt. */
export interface ChoiceChunk extends GenerationChunk {
  readonly choice: number;
  readonly prompt: number;
}

/** The generations of one request. */
export interface RunningRequest {
  readonly promptIds: readonly (readonly number[])[];
  /** Pieces of all choices, as they come. To be iterated once; ending it early aborts the request. */
  chunks(): AsyncGenerator<ChoiceChunk, void>;
  /** One result for each prompt; after the chunks. */
  results(): Promise<readonly GenerationResult[]>;
  abort(): void;
}

/**
 * Starts a generation for each prompt. They end when `signal` aborts; `constraint` is destroyed when all have ended.
 *
 * @throws what `ServingEngine.generate` throws, {ContextLengthError} for a prompt that fills all KV blocks, and {ApiError} for more prompts than
 * the engine ever takes; nothing runs then.
 */
export function startRequest(
  engine: ServingEngine,
  metrics: Metrics,
  prompts: readonly (string | readonly number[])[],
  options: GenerateOptions,
  signal: AbortSignal,
  constraint?: Constraint,
): RunningRequest {
  const generations: Generation[] = [];
  const abort = () => generations.forEach((one) => void one.abort());
  const all = { ...options, ...(constraint && { allowedTokens: constraint.allowedTokens }) };
  // One listener, however many prompts: Node warns of more than ten.
  const ends = prompts.map(() => new AbortController());
  signal.addEventListener('abort', () => ends.forEach((end) => void end.abort(signal.reason)), { once: true });
  const samples = options.n ?? 1;
  try {
    signal.throwIfAborted();
    checkCount(engine, prompts.length, samples);
    for (const [i, prompt] of prompts.entries()) {
      const generation = engine.generate(prompt, { ...all, signal: ends[i].signal });
      generations.push(generation);
      const { length } = generation.promptIds;
      if (length >= engine.maxSequenceLength) throw new ContextLengthError(length, engine.maxSequenceLength);
    }
  } catch (error) {
    abort();
    throw error;
  } finally {
    if (constraint) void Promise.allSettled(generations.map((one) => one.result)).then(() => constraint.destroy());
  }
  for (const one of generations) metrics.watch(one);
  return {
    promptIds: generations.map((one) => one.promptIds),
    async *chunks() {
      const latencies = metrics.latencies();
      try {
        for await (const [prompt, chunk] of merge(generations)) {
          const choice = prompt * samples + chunk.index;
          if (chunk.ids.length > 0) latencies.token(choice);
          yield { ...chunk, prompt, choice };
        }
      } finally {
        abort();
      }
    },
    results: () => Promise.all(generations.map((one) => one.result)),
    abort,
  };
}

/** Refuses what would find even an idle engine busy: to try again later is no use then. */
function checkCount({ maxSequences, maxWaiting }: ServingEngine, prompts: number, samples: number): void {
  // The engine refuses a generation when those before it, of which `maxSequences` run, leave it too many that wait.
  if ((prompts - 1) * samples - maxSequences < maxWaiting) return;
  const most = Math.ceil((maxSequences + maxWaiting) / samples);
  const message = `${prompts} prompts with n = ${samples} are more than this server takes at once, even with nothing else to do. Send at most ${most} in a request.`;
  throw new ApiError(400, { message, param: 'prompt', code: 'too_many_prompts' });
}

/** The items of several sources with their numbers, each as soon as it is there and in its source's order. */
export async function* merge<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<readonly [number, T], void> {
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const next = async (at: number) => ({ at, result: await iterators[at].next() });
  const pending = new Map(iterators.map((_, at) => [at, next(at)]));
  try {
    while (pending.size > 0) {
      const { at, result } = await Promise.race(pending.values());
      // To the end of the line, so that no source that always has something keeps the others waiting.
      pending.delete(at);
      if (result.done) continue;
      pending.set(at, next(at));
      yield [at, result.value];
    }
  } finally {
    // Nobody waits for them: one that stands in a `next` ends when its generation does.
    for (const promise of pending.values()) promise.catch(() => {});
    for (const iterator of iterators) iterator.return?.()?.catch(() => {});
  }
}

/** As the API counts tokens. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details?: { readonly cached_tokens: number };
}

export function usageOf(results: readonly GenerationResult[]): Usage {
  const sum = (count: (result: GenerationResult) => number) => results.reduce((total, result) => total + count(result), 0);
  const completion = sum(({ choices }) => choices.reduce((total, { ids }) => total + ids.length, 0));
  const usage = countUsage(
    sum(({ promptIds }) => promptIds.length),
    completion,
  );
  return { ...usage, prompt_tokens_details: { cached_tokens: sum(({ cachedTokens }) => cachedTokens) } };
}

export function countUsage(prompt: number, completion: number): Usage {
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}
