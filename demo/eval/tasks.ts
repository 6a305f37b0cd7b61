/** The two measurements, each as a function of an open engine, and how their results are compared and shown. */
import { InvalidArgumentError, PagewiseError } from 'pagewise';
import type { Engine } from 'pagewise/engine';
import {
  cutAtStop,
  drawShots,
  extractAnswer,
  type Filter,
  filters,
  isCorrect,
  type Problem,
  promptOf,
  type Score,
  scoreOf,
} from './gsm8k.ts';
import type { Gsm8kTask, PerplexityTask } from './options.ts';
import { type Document, measurePerplexity, type PerplexityResult } from './perplexity.ts';

/** What of an engine a task uses. */
export type EvaluatedEngine = Pick<Engine, 'generate' | 'score' | 'tokenizer' | 'contextLength'>;

/** A result that can be held against the same of another run. */
export interface Outcome {
  /** What must be the same in every mode: a text or likelihoods for each answer. */
  readonly answers: readonly string[];
  /** The object of `--json`. */
  readonly report: Record<string, unknown>;
  /** Lines for a person. */
  readonly lines: readonly string[];
}

export interface TaskContext {
  readonly concurrency: number;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number, total: number) => void;
}

/** A measurement, its files read and checked. */
export type Task = (engine: EvaluatedEngine, context: TaskContext) => Promise<Outcome>;

/** Modes of the launch cache gave different answers. */
export class AnswersDifferError extends PagewiseError {
  override readonly name = 'AnswersDifferError';
  constructor(
    readonly modes: readonly [string, string],
    readonly answer: number,
  ) {
    super(
      `With the launch cache ${modes[0]} and ${modes[1]}, answer ${answer + 1} differs. A value that changes may be declared as frozen: see "verify" in docs/launch-cache.md.`,
    );
  }
}

/** @throws {AnswersDifferError} for the first answer that is not the same in all runs. */
export function checkSameAnswers(runs: readonly { readonly mode: string; readonly answers: readonly string[] }[]): void {
  const [first, ...others] = runs;
  for (const other of others) {
    const length = Math.max(first.answers.length, other.answers.length);
    for (let i = 0; i < length; i++) if (first.answers[i] !== other.answers[i]) throw new AnswersDifferError([first.mode, other.mode], i);
  }
}

/** A question's answer. */
export interface Sample {
  readonly question: string;
  readonly response: string;
  readonly target: string;
  readonly extracted: Readonly<Record<Filter, string>>;
  readonly correct: Readonly<Record<Filter, boolean>>;
}

/** GSM8K over `problems`, worked examples from `train`. @throws {InvalidArgumentError} when there are fewer of these than shots. */
export function gsm8kTask(options: Gsm8kTask, problems: readonly Problem[], train: readonly Problem[]): Task {
  const { shots, maxTokens, shotSeed, limit = problems.length } = options;
  if (train.length < shots)
    throw new InvalidArgumentError('--shots', shots, `at most ${train.length}, the worked examples in ${options.train}`);
  const asked = problems.slice(0, limit);
  const worked = drawShots(train, shots, asked.length, shotSeed);
  return async (engine, { concurrency, signal, onProgress }) => {
    const { tokenizer, contextLength } = engine;
    if (!tokenizer) throw new InvalidArgumentError('--model', 'a model without tokenizer.json', 'one with its tokenizer');
    if (maxTokens >= contextLength)
      throw new InvalidArgumentError('--max-tokens', maxTokens, `less than the model's context, ${contextLength}`);
    let truncated = 0;
    let done = 0;
    let generated = 0;
    const start = performance.now();

    async function ask(problem: Problem, index: number): Promise<Sample> {
      const ids = tokenizer?.encode(promptOf(worked[index], problem)) ?? [];
      // As the harness: a prompt that leaves no room loses its beginning.
      const prompt = ids.slice(Math.max(0, ids.length - (contextLength - maxTokens)));
      if (prompt.length < ids.length) truncated++;
      let response = '';
      const generation = engine.generate(prompt, { temperature: 0, maxTokens, signal });
      for await (const chunk of generation) {
        response += chunk.text;
        generated += chunk.ids.length;
        if (cutAtStop(response) !== response) break;
      }
      signal.throwIfAborted();
      onProgress(++done, asked.length);
      return sampleOf(problem, cutAtStop(response));
    }

    const samples = await inPool(asked, concurrency, ask);
    const scores = Object.fromEntries(filters.map((filter) => [filter, scoreOf(samples.map(({ correct }) => correct[filter]))]));
    const seconds = (performance.now() - start) / 1000;
    return {
      answers: samples.map(({ response }) => response),
      report: { scores, questions: asked.length, truncatedPrompts: truncated, generatedTokens: generated, seconds, samples },
      lines: [
        ...harnessTable(scores as Record<Filter, Score>, shots),
        ...(truncated > 0 ? [`${truncated} of ${asked.length} prompts did not fit and lost their beginning.`] : []),
      ],
    };
  };
}

function sampleOf({ question, answer }: Problem, response: string): Sample {
  const extracted = Object.fromEntries(filters.map((filter) => [filter, extractAnswer(filter, response)])) as Record<Filter, string>;
  const correct = Object.fromEntries(filters.map((filter) => [filter, isCorrect(extracted[filter], answer)])) as Record<Filter, boolean>;
  return { question, response, target: answer.slice(answer.lastIndexOf('#### ') + 5), extracted, correct };
}

/** `work` for each item, `width` at a time, results in order. The first failure ends all. */
async function inPool<T, R>(items: readonly T[], width: number, work: (item: T, index: number) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  let failed = false;
  const run = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const index = next++;
      try {
        results[index] = await work(items[index], index);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, run));
  return results;
}

/** The harness's table: values with three digits, errors with four; `N/A` where a single answer gives no error. */
export function harnessTable(scores: Readonly<Record<Filter, Score>>, shots: number): string[] {
  const rows = filters.map((filter, row) => {
    const { value, standardError } = scores[filter];
    const name = row === 0 ? '|gsm8k|      3|' : '|     |       |';
    const error = Number.isFinite(standardError) ? standardError.toFixed(4) : '   N/A';
    return `${name}${filter.padEnd(16)}|${String(shots).padStart(6)}|exact_match|↑  |${value.toFixed(3)}|±  |${error}|`;
  });
  return [
    '|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|',
    '|-----|------:|----------------|-----:|-----------|---|----:|---|-----:|',
    ...rows,
  ];
}

/** Perplexity of documents. */
export function perplexityTask(options: PerplexityTask, documents: readonly Document[]): Task {
  return async (engine, { signal, onProgress }) => {
    const { tokenizer, contextLength } = engine;
    const context = options.context ?? contextLength;
    if (context > contextLength) throw new InvalidArgumentError('--context', context, `at most the model's context, ${contextLength}`);
    const stride = options.stride ?? Math.ceil(context / 2);
    if (stride > context) throw new InvalidArgumentError('--stride', stride, `at most the window, ${context} tokens`);
    const tokenized = documents.map((document) => {
      if ('ids' in document) return { ids: document.ids, bytes: undefined };
      if (!tokenizer)
        throw new InvalidArgumentError('--model', 'a model without tokenizer.json', 'one with its tokenizer, or documents of ids');
      return { ids: tokenizer.encode(document.text), bytes: new TextEncoder().encode(document.text).length };
    });
    const start = performance.now();
    const score = (ids: readonly number[]): Promise<readonly number[]> => {
      signal.throwIfAborted();
      return engine.score(ids);
    };
    const { result, nll } = await measurePerplexity(tokenized, score, { context, stride }, onProgress);
    const seconds = (performance.now() - start) / 1000;
    return {
      answers: nll.map((values) => JSON.stringify(values)),
      report: { ...result, context, stride, seconds },
      lines: perplexityLines(result, context, stride),
    };
  };
}

function perplexityLines(
  { perplexity, meanNll, tokens, bitsPerByte, documents }: PerplexityResult,
  context: number,
  stride: number,
): string[] {
  return [
    `Perplexity      ${perplexity.toFixed(4)}`,
    `Nats per token  ${meanNll.toFixed(6)}`,
    ...(bitsPerByte === undefined ? [] : [`Bits per byte   ${bitsPerByte.toFixed(4)}`]),
    `Tokens          ${tokens.toLocaleString('en')} of ${documents} ${documents === 1 ? 'text' : 'texts'}, windows of ${context}, ${stride} apart`,
  ];
}
