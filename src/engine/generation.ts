import { Choice } from './choice.ts';
import type { GenerationSpec } from './options.ts';
import type { TextStream } from './tokenizer.ts';
import type { Generation, GenerationChunk, GenerationResult, GenerationStats } from './types.ts';

/** Unread chunks from which on a generation that somebody iterates waits for its reader. */
const mostUnread = 256;

/** What a generation needs of the loop that runs it. */
export interface GenerationHost {
  /** Ends the generation's samples where they are. */
  abort(generation: RunningGeneration): void;
  /** A reader has caught up. */
  notify(): void;
  /** Pipelines compiled so far. */
  pipelinesCompiled(): number;
}

/** A generation in the engine's loop, which tells it what happens: steps, tokens and the end. */
export class RunningGeneration implements Generation {
  readonly promptIds: readonly number[];
  readonly result: Promise<GenerationResult>;
  readonly choices: readonly Choice[];
  readonly runAhead: number;
  readonly #host: GenerationHost;
  readonly #signal: AbortSignal | undefined;
  readonly #speculates: boolean;
  readonly #chunks: GenerationChunk[] = [];
  /** How far each that iterates has come. */
  readonly #readers = new Set<{ next: number; wake: () => void }>();
  readonly #started = performance.now();
  readonly #onAbort = () => this.abort();
  #resolve!: (result: GenerationResult) => void;
  #reject!: (error: unknown) => void;
  #ended = false;
  #firstStep: number | undefined;
  #firstToken = 0;
  #lastToken = 0;
  #decodeSteps = 0;
  #decodeTime = 0;
  #launchesPerToken = 0;
  #drafted = 0;
  #accepted = 0;

  /** @param createStream for the text of each sample; undefined where there is no tokenizer. */
  constructor(host: GenerationHost, spec: GenerationSpec, createStream: (() => TextStream) | undefined) {
    this.#host = host;
    this.#signal = spec.signal;
    this.#speculates = spec.speculate !== undefined;
    this.promptIds = spec.promptIds;
    this.runAhead = spec.runAhead;
    const choices: Choice[] = [];
    for (const index of spec.sampling.keys()) choices.push(new Choice(index, spec, createStream?.(), choices[0]?.request));
    this.choices = choices;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever iterates sees the error there; `result` alone must not become an unhandled rejection.
    this.result.catch(() => {});
    spec.signal?.addEventListener('abort', this.#onAbort);
  }

  /** All samples have ended, or an error ended them. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Whether its reader has fallen behind. */
  get isBehind(): boolean {
    for (const { next } of this.#readers) if (this.#chunks.length - next > mostUnread) return true;
    return false;
  }

  stats(): GenerationStats {
    const outputTokens = this.choices.reduce((sum, { ids }) => sum + ids.length, 0);
    const decoding = this.#lastToken - this.#firstToken;
    return {
      promptTokens: this.promptIds.length,
      outputTokens,
      ...(this.#firstStep !== undefined && { queueTime: this.#firstStep - this.#started }),
      timeToFirstToken: this.#firstToken && this.#firstToken - this.#started,
      tokensPerSecond: decoding > 0 ? ((outputTokens - 1) / decoding) * 1000 : 0,
      launchesPerToken: this.#launchesPerToken,
      pipelinesCompiled: this.#host.pipelinesCompiled(),
      hostTimePerStep: this.#decodeSteps && this.#decodeTime / this.#decodeSteps,
      runAhead: this.runAhead,
      ...(this.#speculates && { draftedTokens: this.#drafted, acceptedTokens: this.#accepted }),
    };
  }

  abort(): void {
    if (this.#ended) return;
    this.#host.abort(this);
    for (const choice of this.choices) if (!choice.finishReason) this.push(choice.abort());
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationChunk, void> {
    const reader = { next: 0, wake: () => {} };
    this.#readers.add(reader);
    try {
      for (;;) {
        while (reader.next < this.#chunks.length) {
          const chunk = this.#chunks[reader.next++];
          if (this.#chunks.length - reader.next === mostUnread) this.#host.notify();
          yield chunk;
        }
        if (this.#ended) break;
        await new Promise<void>((resolve) => {
          reader.wake = resolve;
        });
      }
      await this.result;
    } finally {
      this.#readers.delete(reader);
      this.abort();
    }
  }

  /** A step with some of it was submitted. */
  stepped(began: number, hostTime: number, launches: number, isDecode: boolean): void {
    this.#firstStep ??= began;
    if (!isDecode) return;
    this.#decodeSteps++;
    this.#decodeTime += hostTime;
    this.#launchesPerToken = launches;
  }

  /** A guess was verified. */
  verified(drafted: number, accepted: number): void {
    this.#drafted += drafted;
    this.#accepted += accepted;
  }

  push(chunk: GenerationChunk): void {
    if (chunk.ids.length > 0) {
      this.#lastToken = performance.now();
      this.#firstToken ||= this.#lastToken;
    }
    this.#chunks.push(chunk);
    this.#wake();
  }

  /** Ends it, if all samples have ended. */
  end(): void {
    if (this.#ended || this.choices.some(({ finishReason }) => !finishReason)) return;
    const choices = this.choices.map(({ result }) => result);
    const [{ text, ids, finishReason }] = choices;
    const cachedTokens = this.choices[0].request.cachedTokens ?? 0;
    this.#resolve({ text, promptIds: this.promptIds, ids, finishReason, stats: this.stats(), choices, cachedTokens });
    this.#settle();
  }

  fail(error: unknown): void {
    if (this.#ended) return;
    this.#reject(error);
    this.#settle();
  }

  #settle(): void {
    this.#ended = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#wake();
  }

  #wake(): void {
    for (const { wake } of this.#readers) wake();
  }
}
