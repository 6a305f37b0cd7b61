import type { KvCache, Sequence } from '../attention/kv-cache.ts';
import type { OpenSpan } from '../launch/trace.ts';
import type { SampledToken } from './readback.ts';
import type { SamplingParameters } from './sampling.ts';
import type { TextStream } from './tokenizer.ts';
import type { Generation, GenerationChunk, GenerationResult, GenerationStats } from './types.ts';

/**
 * Milliseconds of submitting after which other work gets a turn. Where a software adapter holds a submit or a `mapAsync` up until the step
 * before is done, the tokens of a whole bunch of steps would else arrive together. It must be a timer's turn: readbacks in Deno arrive by
 * its timers, which a message's turn does not run.
 */
const longestTurn = 8;

/** What a generation needs of its engine. */
export interface GenerationHost {
  readonly kv: KvCache;
  readonly maxTokensPerStep: number;
  /**
   * Submits one step for one sequence, whose slots are reserved; the promise resolves to its sampled token.
   * Without `sampling` nothing is sampled and nothing comes back.
   */
  submit(
    sequence: Sequence,
    tokens: readonly number[] | undefined,
    queryLen: number,
    sampling?: SamplingParameters & { first: boolean },
  ): Promise<SampledToken> | undefined;
  /** The error to report for a failure. */
  causeOf(error: unknown): Promise<unknown>;
  /** Launches recorded and pipelines compiled so far. */
  counts(): { readonly launches: number; readonly pipelines: number };
  /** Begins a span of a trace, where there is one. */
  trace(name: string): OpenSpan | undefined;
}

/** One generation's request, complete and checked. */
export interface GenerationRequest {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  readonly runAhead: number;
  readonly sampling: SamplingParameters;
  readonly signal: AbortSignal | undefined;
}

/**
 * A generation that runs ahead: up to `runAhead` steps are submitted before the first one's token has come back, because the token that
 * the next step starts from never leaves the GPU. Tokens computed past the end are dropped and their slots given back.
 */
export class RunningGeneration implements Generation {
  readonly promptIds: readonly number[];
  readonly result: Promise<GenerationResult>;
  readonly #host: GenerationHost;
  readonly #request: GenerationRequest;
  readonly #text: TextStream | undefined;
  readonly #ids: number[] = [];
  readonly #chunks: GenerationChunk[] = [];
  readonly #started = performance.now();
  #written = '';
  #wake: (() => void) | undefined;
  #ended = false;
  #abandoned = false;
  #firstToken = 0;
  #lastToken = 0;
  #hostTime = 0;
  #steps = 0;
  #launchesPerToken = 0;

  /** @param turn resolves when the engine is free for this generation. */
  constructor(host: GenerationHost, request: GenerationRequest, text: TextStream | undefined, turn: Promise<void>) {
    this.#host = host;
    this.#request = request;
    this.#text = text;
    this.promptIds = request.promptIds;
    this.result = turn.then(() => this.#run()).finally(() => this.#end());
    // Whoever iterates sees the error there; `result` alone must not become an unhandled rejection.
    this.result.catch(() => {});
  }

  stats(): GenerationStats {
    const { promptIds, runAhead } = this.#request;
    const decodeTime = this.#lastToken - this.#firstToken;
    return {
      promptTokens: promptIds.length,
      outputTokens: this.#ids.length,
      timeToFirstToken: this.#firstToken && this.#firstToken - this.#started,
      tokensPerSecond: decodeTime > 0 ? ((this.#ids.length - 1) / decodeTime) * 1000 : 0,
      launchesPerToken: this.#launchesPerToken,
      pipelinesCompiled: this.#host.counts().pipelines,
      hostTimePerStep: this.#steps && this.#hostTime / this.#steps,
      runAhead,
    };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationChunk, void> {
    let next = 0;
    try {
      for (;;) {
        while (next < this.#chunks.length) yield this.#chunks[next++];
        if (this.#ended) break;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      await this.result;
    } finally {
      this.#abandoned = true;
    }
  }

  async #run(): Promise<GenerationResult> {
    const { kv } = this.#host;
    const sequence = kv.open();
    const inFlight: Promise<SampledToken>[] = [];
    try {
      const finishReason = await this.#steer(sequence, inFlight);
      const rest = this.#text?.flush();
      if (rest) this.#push({ text: rest, ids: [] });
      return { text: this.#written, promptIds: this.promptIds, ids: this.#ids, finishReason, stats: this.stats() };
    } catch (error) {
      throw await this.#host.causeOf(error);
    } finally {
      // The GPU may still write to the blocks of steps in flight: they are given back only when it is done.
      await Promise.allSettled(inFlight);
      kv.close(sequence);
    }
  }

  async #steer(sequence: Sequence, inFlight: Promise<SampledToken>[]): Promise<GenerationResult['finishReason']> {
    const { maxTokens, runAhead } = this.#request;
    if (this.#stopped) return 'abort';
    const push = (step: Promise<SampledToken>): void => {
      step.catch(() => {}); // a lost device rejects all steps in flight, and only the first is awaited
      inFlight.push(step);
    };
    push(this.#prefill(sequence));
    for (let submitted = 1; ; ) {
      let turnBegan = performance.now();
      while (submitted < maxTokens && inFlight.length < runAhead) {
        push(this.#decode(sequence));
        submitted++;
        if (performance.now() - turnBegan > longestTurn) {
          await new Promise((resolve) => setTimeout(resolve));
          turnBegan = performance.now();
        }
      }
      const waiting = this.#host.trace('wait');
      const { token, finished } = await inFlight[0];
      waiting?.end();
      inFlight.shift();
      if (this.#stopped) return 'abort';
      this.#accept(token, finished);
      if (finished) return 'stop';
      if (this.#ids.length === maxTokens) return 'length';
    }
  }

  get #stopped(): boolean {
    return this.#abandoned || this.#request.signal?.aborted === true;
  }

  /** The prompt, in as few steps as the budget allows; the last one samples. */
  #prefill(sequence: Sequence): Promise<SampledToken> {
    const { promptIds, sampling } = this.#request;
    const { kv, maxTokensPerStep } = this.#host;
    for (let first = 0; ; first += maxTokensPerStep) {
      const tokens = promptIds.slice(first, first + maxTokensPerStep);
      const last = first + tokens.length === promptIds.length;
      kv.extend(sequence, tokens.length);
      const sampled = this.#host.submit(sequence, tokens, tokens.length, last ? { ...sampling, first: true } : undefined);
      if (sampled) return sampled;
    }
  }

  #decode(sequence: Sequence): Promise<SampledToken> {
    const before = performance.now();
    const { launches } = this.#host.counts();
    this.#host.kv.extend(sequence, 1);
    const sampled = this.#host.submit(sequence, undefined, 1, { ...this.#request.sampling, first: false });
    this.#launchesPerToken = this.#host.counts().launches - launches;
    this.#hostTime += performance.now() - before;
    this.#steps++;
    return sampled as Promise<SampledToken>;
  }

  #accept(token: number, finished: boolean): void {
    this.#lastToken = performance.now();
    this.#firstToken ||= this.#lastToken;
    this.#ids.push(token);
    this.#push({ text: (!finished && this.#text?.push(token)) || '', ids: [token] });
  }

  #push(chunk: GenerationChunk): void {
    this.#written += chunk.text;
    this.#chunks.push(chunk);
    this.#wake?.();
  }

  #end(): void {
    this.#ended = true;
    this.#wake?.();
  }
}
