/** The worker's side: an engine behind a message port. */
import * as Comlink from 'comlink';
import { Engine } from '../engine/engine.ts';
import type { EngineOptions } from '../engine/engine-options.ts';
import { filesFrom, filesFromUrl, type ModelFiles } from '../engine/files.ts';
import type { AllowedTokens, Generation, GenerationChunk } from '../engine/types.ts';
import { InvalidArgumentError, WorkerClosedError } from '../errors.ts';
import { type Gpu, type OpenGpuOptions, openGpu } from '../gpu.ts';
import { describeError, outcomeOf } from './errors.ts';
import { type Batch, type BlockSnapshot, type EngineService, openMessage, type WorkerEvent, type WorkerFiles } from './protocol.ts';

/** What a worker may do in its own way. */
export interface ServeOptions {
  /** Opens the device; default `openGpu`. */
  readonly openGpu?: (options: OpenGpuOptions) => Promise<Gpu>;
  /** Loads the model; default `Engine.load`. */
  readonly load?: (gpu: Gpu, files: ModelFiles, options: EngineOptions) => Promise<ServedEngine>;
  /**
   * Makes `allowedTokens` of what a page passed as `constraint`: a function cannot be posted. With `pagewise/constrained`, say, where `openConstraints`
   * is called once for the engine.
   */
  readonly constrain?: (constraint: unknown, engine: ServedEngine) => AllowedTokens | Promise<AllowedTokens>;
}

/** What of an engine is served. */
export type ServedEngine = Pick<
  Engine,
  | 'config'
  | 'defaults'
  | 'contextLength'
  | 'maxTokensPerStep'
  | 'weightBytes'
  | 'runAhead'
  | 'tokenizer'
  | 'generate'
  | 'score'
  | 'logits'
  | 'stats'
  | 'launchStats'
  | 'manifest'
  | 'destroy'
> & {
  readonly kv: { readonly blocks: { readonly size: number }; readonly options: { readonly blockSize: number } } & Pick<
    Engine['kv'],
    'sequences'
  >;
};

/** Where the worker hears from its page: the worker's global scope. */
export interface ServeScope {
  addEventListener(type: 'message', listener: (event: MessageEvent) => void): void;
}

/**
 * Serves engines to the page that made this worker, one for each `createWorkerEngine`. Call it in the worker's script, before anything is
 * awaited there: what a page posts before is lost.
 */
export function serveEngine(options: ServeOptions = {}, scope: ServeScope = globalThis): void {
  scope.addEventListener('message', ({ data, ports }) => {
    if (data === openMessage) Comlink.expose(createService(options), ports[0]);
  });
}

/** Chunks read ahead of the page; then the generation is not read, and the engine lets it wait. */
const mostUnread = 64;

interface OpenEngine {
  readonly gpu: Gpu;
  readonly engine: ServedEngine;
}

function createService(options: ServeOptions): EngineService {
  const loading = new AbortController();
  const generations = new Map<number, ServedGeneration>();
  let opened: OpenEngine | undefined;
  let closed = false;

  function engine(): ServedEngine {
    if (!opened || closed) throw new WorkerClosedError('it was destroyed');
    return opened.engine;
  }

  function close(): void {
    closed = true;
    loading.abort(new WorkerClosedError('it was destroyed'));
    for (const generation of generations.values()) generation.abort();
    opened?.engine.destroy();
    opened?.gpu.destroy();
    opened = undefined;
  }

  return {
    open: (request, send) =>
      outcomeOf(async () => {
        const { signal } = loading;
        // Nobody listens any more where this fails.
        const tell = (event: WorkerEvent): void => void Promise.resolve(send(event)).catch(() => {});
        const gpu = await (options.openGpu ?? openGpu)(request.gpu);
        void gpu.lost.then((error) => {
          if (!closed) tell({ event: 'lost', error: describeError(error) });
        });
        try {
          signal.throwIfAborted();
          const loaded = await (options.load ?? Engine.load)(gpu, filesOf(request.files, signal), {
            ...request.engine,
            signal,
            onProgress: (progress) => tell({ event: 'progress', progress }),
            onTuningProblem: (problem) => tell({ event: 'tuning-problem', problem }),
            onLaunchEvent: (launch) => tell({ event: 'launch', launch }),
          });
          opened = { gpu, engine: loaded };
          signal.throwIfAborted();
          const { config, defaults, contextLength, maxTokensPerStep, weightBytes, runAhead, tokenizer } = loaded;
          const sizes = { contextLength, maxTokensPerStep, weightBytes, runAhead };
          return { adapter: gpu.adapter, config, defaults, ...sizes, hasTokenizer: tokenizer !== undefined, blocks: blocksOf(loaded)() };
        } catch (error) {
          closed = true; // the device goes because of us: no loss to tell of
          opened?.engine.destroy();
          opened = undefined;
          gpu.destroy();
          throw error;
        }
      }),
    abortOpening: () => loading.abort(),
    generate: (id, prompt, { constraint, ...asked }) =>
      outcomeOf(async () => {
        const stopping = new AbortController();
        const allowedTokens = constraint === undefined ? undefined : await constrain(constraint);
        const generation = engine().generate(prompt, { ...asked, ...(allowedTokens && { allowedTokens }), signal: stopping.signal });
        generations.set(id, new ServedGeneration(generation, stopping, blocksOf(engine())));
        return generation.promptIds;
      }),
    next: (id) => find(id).next(),
    async result(id) {
      const generation = find(id);
      const outcome = await outcomeOf(() => generation.result);
      const rest = await generation.rest();
      generations.delete(id);
      return { outcome, rest };
    },
    abort: (id) => generations.get(id)?.abort(),
    score: (ids) => outcomeOf(() => engine().score(ids)),
    logits: (ids) => outcomeOf(async () => new Float32Array(await engine().logits(ids))),
    encode: (text) => outcomeOf(() => tokenizerOf(engine()).encode(text)),
    decode: (ids) => outcomeOf(() => tokenizerOf(engine()).decode(ids)),
    stats: () => outcomeOf(() => engine().stats()),
    launchStats: () => outcomeOf(() => engine().launchStats()),
    manifest: () => outcomeOf(() => engine().manifest()),
    close,
  };

  async function constrain(constraint: unknown): Promise<AllowedTokens> {
    if (options.constrain) return options.constrain(constraint, engine());
    throw new InvalidArgumentError('constraint', 'given', 'left out: the worker calls serveEngine without the option "constrain"');
  }

  function find(id: number): ServedGeneration {
    const generation = generations.get(id);
    if (!generation) throw new InvalidArgumentError('generation', id, 'one that is under way');
    return generation;
  }
}

function tokenizerOf({ tokenizer }: ServedEngine): NonNullable<ServedEngine['tokenizer']> {
  if (!tokenizer) throw new InvalidArgumentError('model', 'without tokenizer', 'one whose files have tokenizer.json');
  return tokenizer;
}

/** A generation whose chunks are read into a queue, a bounded number ahead of the page, from the first time that the page asks. */
class ServedGeneration {
  readonly result: Generation['result'];
  readonly #generation: Generation;
  readonly #stopping: AbortController;
  readonly #blocks: () => BlockSnapshot;
  #queue: GenerationChunk[] = [];
  #given = 0;
  #most = mostUnread;
  #reading: Promise<void> | undefined;
  #ended = false;
  /** Wakes whoever waits for chunks, and the reader that waits for room. */
  #changed: () => void = () => {};
  #change: Promise<void> = new Promise((resolve) => {
    this.#changed = resolve;
  });

  constructor(generation: Generation, stopping: AbortController, blocks: () => BlockSnapshot) {
    this.#generation = generation;
    this.#stopping = stopping;
    this.#blocks = blocks;
    this.result = generation.result;
  }

  async next(): Promise<Batch> {
    this.#reading ??= this.#read();
    while (this.#queue.length === 0 && !this.#ended) await this.#change;
    return this.#take();
  }

  /** All that is left, once the generation has ended. */
  async rest(): Promise<Batch> {
    this.#most = Number.POSITIVE_INFINITY;
    this.#signal();
    this.#reading ??= this.#read();
    await this.#reading;
    return this.#take();
  }

  abort(): void {
    this.#stopping.abort();
  }

  /** Errors of the iteration are those of `result`, where the page hears of them. */
  async #read(): Promise<void> {
    try {
      for await (const chunk of this.#generation) {
        this.#queue.push(chunk);
        this.#signal();
        while (this.#queue.length >= this.#most) await this.#change;
      }
    } catch {
    } finally {
      this.#ended = true;
      this.#signal();
    }
  }

  #take(): Batch {
    const chunks = this.#queue;
    const first = this.#given;
    this.#queue = [];
    this.#given += chunks.length;
    this.#signal();
    return { first, chunks, stats: this.#generation.stats(), blocks: this.#blocks() };
  }

  #signal(): void {
    this.#changed();
    this.#change = new Promise((resolve) => {
      this.#changed = resolve;
    });
  }
}

function blocksOf({ kv }: ServedEngine): () => BlockSnapshot {
  return () => ({
    size: kv.blocks.size,
    blockSize: kv.options.blockSize,
    sequences: Array.from(kv.sequences, ({ blocks, length }) => ({ blocks: [...blocks], length })),
  });
}

function filesOf(files: Exclude<WorkerFiles, URL>, signal: AbortSignal): ModelFiles {
  if (typeof files === 'string') return filesFromUrl(files, { signal });
  return filesFrom(files.description, async (name) => (Object.hasOwn(files.files, name) ? files.files[name] : undefined));
}
