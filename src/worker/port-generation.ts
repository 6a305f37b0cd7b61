/** The page's side of a generation in a worker. */
import type { Generation, GenerationChunk, GenerationResult, GenerationStats } from '../engine/types.ts';
import { WorkerClosedError } from '../errors.ts';
import { type Outcome, unwrap } from './errors.ts';
import type { Link } from './link.ts';
import type { Batch, PostableGenerateOptions } from './protocol.ts';

/** As `GenerateOptions`, but for functions, which cannot be posted: `constraint` goes to the worker's `ServeOptions.constrain` instead. */
export type WorkerGenerateOptions = PostableGenerateOptions & { readonly signal?: AbortSignal };

const nothingYet: GenerationStats = {
  ...{ promptTokens: 0, outputTokens: 0, timeToFirstToken: 0, tokensPerSecond: 0 },
  ...{ launchesPerToken: 0, pipelinesCompiled: 0, hostTimePerStep: 0, runAhead: 0 },
};

/** A generation in the worker. Chunks come when the iteration asks for them, as many as there are; what came is kept, so that it can be read again. */
export class PortGeneration implements Generation {
  readonly result: Promise<GenerationResult>;
  readonly #link: Link;
  readonly #id: number;
  readonly #onBatch: (batch: Batch) => void;
  readonly #started: Promise<void>;
  readonly #chunks: GenerationChunk[] = [];
  #promptIds: readonly number[] = [];
  #stats = nothingYet;
  #asking: Promise<void> | undefined;
  #ended = false;

  constructor(
    link: Link,
    id: number,
    prompt: string | readonly number[],
    { signal, ...options }: WorkerGenerateOptions,
    onBatch: (batch: Batch) => void,
  ) {
    this.#link = link;
    this.#id = id;
    this.#onBatch = onBatch;
    const abort = (): void => this.abort();
    this.#started = this.#start(prompt, options);
    if (signal?.aborted) abort();
    else signal?.addEventListener('abort', abort, { once: true });
    this.result = this.#finish().finally(() => {
      this.#ended = true;
      signal?.removeEventListener('abort', abort);
    });
    // Whoever iterates sees the error there.
    this.result.catch(() => {});
  }

  get promptIds(): readonly number[] {
    return this.#promptIds;
  }

  stats(): GenerationStats {
    return this.#stats;
  }

  abort(): void {
    const tell = (): void => {
      if (!this.#link.closed) void this.#link.service.abort(this.#id);
    };
    this.#started.then(tell, () => {});
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationChunk, void> {
    let next = 0;
    try {
      for (;;) {
        while (next in this.#chunks) yield this.#chunks[next++];
        if (this.#ended && !this.#asking) break;
        await this.#more();
      }
      await this.result;
    } finally {
      if (!this.#ended) this.abort();
    }
  }

  async #start(prompt: string | readonly number[], options: PostableGenerateOptions): Promise<void> {
    if (this.#link.closed) throw new WorkerClosedError('it was destroyed');
    this.#promptIds = unwrap(
      await this.#link.ask(this.#link.service.generate(this.#id, prompt, options) as Promise<Outcome<readonly number[]>>),
    );
  }

  async #finish(): Promise<GenerationResult> {
    await this.#started;
    const { outcome, rest } = await this.#link.ask(this.#link.service.result(this.#id));
    this.#take(rest);
    return unwrap(outcome as Outcome<GenerationResult>);
  }

  /** Waits until there is more to read, or all has been read. One question at a time, whoever iterates. */
  #more(): Promise<void> {
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #ask(): Promise<void> {
    try {
      await this.#started;
      const batch = await this.#link.ask(this.#link.service.next(this.#id));
      this.#take(batch);
      if (batch.chunks.length > 0) return;
    } catch {
      // What went wrong, `result` says.
    }
    await this.result.catch(() => {});
  }

  /** Puts chunks in their places: the rest that comes with the result may overtake a batch. */
  #take(batch: Batch): void {
    for (const [i, chunk] of batch.chunks.entries()) this.#chunks[batch.first + i] = chunk;
    this.#stats = batch.stats;
    this.#onBatch(batch);
  }
}
