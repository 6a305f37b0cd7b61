import { attentionKernels } from '../attention/kernels.ts';
import { KvCache } from '../attention/kv-cache.ts';
import { ContextLengthError, type DeviceLostError, EngineBusyError, EngineDestroyedError, ModelFileError } from '../errors.ts';
import { causeOf, type Gpu } from '../gpu.ts';
import { LaunchCache } from '../launch/cache.ts';
import type { LaunchManifest } from '../launch/manifest.ts';
import type { LaunchStats } from '../launch/options.ts';
import { type ModelConfig, readModelConfig } from './config.ts';
import { type EngineOptions, type EngineSizes, engineSizes } from './engine-options.ts';
import { type ModelFiles, readJsonIfPresent } from './files.ts';
import { type ForwardParts, forward, measureRunAhead, scoreRows } from './forward.ts';
import { RunningGeneration } from './generation.ts';
import { type GenerationDefaults, parseGenerationConfig } from './generation-config.ts';
import { modelKernels } from './kernels.ts';
import { LlamaModel } from './model.ts';
import { checkOptions, checkTokens, maxRunAhead } from './options.ts';
import { PrefixCache } from './prefix-cache.ts';
import { ReadbackRing } from './readback.ts';
import { openSafetensors } from './safetensors.ts';
import { maxTopLogprobs } from './sampling.ts';
import { Scheduler } from './scheduler.ts';
import { type LoopParts, StepLoop } from './step-loop.ts';
import { createTokenizer, type Tokenizer } from './tokenizer.ts';
import type { EngineStats, GenerateOptions, Generation, Speculation } from './types.ts';
import { loadWeights, type ModelWeights } from './weights.ts';
import { blocksAtOnce, longestSequence, tokensAtOnce } from './window.ts';

/** Fewest rows of logits of a step: as many `logits` and `score` compute at a time. */
const logitRowsPerStep = 64;

interface EngineParts extends LoopParts, EngineSizes {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer | undefined;
  readonly defaults: GenerationDefaults;
  readonly weights: ModelWeights;
  readonly maxWaiting: number;
}

/**
 * A language model, ready to write: weights, KV cache, launch cache and tokenizer on one device. Everything hangs from this value, so
 * that two engines can live in one page. Generations run side by side, up to `maxSequences` samples at once; the others wait.
 */
export class Engine {
  readonly gpu: Gpu;
  readonly config: ModelConfig;
  /** Undefined when the model's files have no tokenizer.json: prompts are token ids then, and no text comes out. */
  readonly tokenizer: Tokenizer | undefined;
  readonly kv: KvCache;
  /** Sampling where a request says nothing. */
  readonly defaults: GenerationDefaults;
  readonly contextLength: number;
  /** Most tokens of a prompt and its answer together: `contextLength`, or what all KV blocks hold where that is less (and a sliding window does not fit into them). */
  readonly maxSequenceLength: number;
  readonly maxTokensPerStep: number;
  readonly maxSequences: number;
  /** Most requests that wait; infinite where nobody limits them. */
  readonly maxWaiting: number;
  /** Bytes of weights on the GPU. */
  readonly weightBytes: number;
  readonly #parts: EngineParts;
  readonly #loop: StepLoop;
  readonly #forwardParts: ForwardParts;
  #runAhead = 1;
  #speculate: Speculation | undefined;
  #destroyed = false;

  /**
   * Loads a model of the Llama family (Llama, Mistral) from Hugging Face files: config.json, model.safetensors (or its shards and their index),
   * and, where present, tokenizer.json, tokenizer_config.json and generation_config.json.
   *
   * @throws {ModelFileError} for missing or damaged files. @throws {UnsupportedModelError} for what is not implemented.
   * @throws {InvalidArgumentError} for bad options. @throws {LimitExceededError} when the device is too small.
   * Nothing stays on the GPU after a throw.
   */
  static async load(gpu: Gpu, files: ModelFiles, options: EngineOptions = {}): Promise<Engine> {
    const { onProgress, signal, runAhead } = options;
    const config = await readModelConfig(files);
    const sizes = engineSizes(options, config);
    const { maxSequences, maxTokensPerStep, numBlocks, maxBlocksPerSequence } = sizes;
    const defaults = parseGenerationConfig(await readJsonIfPresent(files, 'generation_config.json'));
    const tokenizerConfig = await readJsonIfPresent(files, 'tokenizer_config.json');
    const tokenizerJson = await readJsonIfPresent(files, 'tokenizer.json');
    const tokenizer = tokenizerJson === undefined ? undefined : createTokenizer(tokenizerJson, tokenizerConfig, config);

    const tensors = await openSafetensors(files, (loaded, total) => onProgress?.({ phase: 'files', loaded, total }));
    const owned: { destroy(): void }[] = [];
    const own = <T extends { destroy(): void }>(value: T): T => {
      owned.push(value);
      return value;
    };
    try {
      signal?.throwIfAborted();
      const { numLayers, numKvHeads, headDim } = config;
      const { kvDtype: dtype = 'f32', blockSize = 16, prefixCaching = true, longPrefillThreshold, maxWaiting } = options;
      const kv = own(
        new KvCache(gpu, {
          ...{ numLayers, numKvHeads, headDim, blockSize, dtype, numBlocks, maxBlocksPerSequence },
          maxSequences: maxSequences + 1, // one for `logits` and `score`
        }),
      );
      const onBytes = (loaded: number, total: number) => onProgress?.({ phase: 'weights', loaded, total });
      const [cache, weights] = await allOrFirstError([
        LaunchCache.open(gpu, { mode: options.launchCache, onEvent: options.onLaunchEvent })
          .then(own)
          .then((opened) => warmUp(opened, options.manifest)),
        loadWeights(gpu, tensors, config, onBytes, signal).then(own),
      ]);
      const maxLogitRows = Math.max(logitRowsPerStep, maxSequences);
      const ring = own(new ReadbackRing(gpu, maxRunAhead, maxLogitRows, maxTopLogprobs));
      const { subgroupMatrices, shaderF16, tuning, onTuningProblem } = options;
      const modelOptions = {
        maxTokensPerStep,
        maxLogitRows,
        maxLogprobs: maxTopLogprobs,
        subgroupMatrices,
        shaderF16,
        tuning,
        onTuningProblem,
      };
      const onPipelines = (loaded: number, total: number) => onProgress?.({ phase: 'pipelines', loaded, total });
      const model = own(await LlamaModel.create(cache, kv, config, weights, modelOptions, onPipelines));
      signal?.throwIfAborted();
      const prefixes = prefixCaching ? new PrefixCache(kv.blocks, blockSize) : undefined;
      const scheduler = new Scheduler(kv.tables, prefixes, {
        ...{ maxTokensPerStep, maxSequences, longPrefillThreshold, maxLogitRows },
        window: config.slidingWindow,
      });
      const engine = new Engine({
        ...sizes,
        ...{ gpu, config, tokenizer, kv, defaults, cache, model, weights, ring, scheduler, prefixes },
        maxWaiting: maxWaiting ?? Number.POSITIVE_INFINITY,
      });
      engine.#speculate = options.speculate;
      engine.#runAhead = runAhead ?? (await measureRunAhead(engine.#forwardParts, ring, sizes.contextLength));
      engine.#loop.tracer = options.trace; // from here on: what was measured above knows nothing of it
      cache.freeze('throw');
      return engine;
    } catch (error) {
      for (const value of owned.reverse()) value.destroy();
      throw await causeOf(gpu, error);
    } finally {
      tensors.close();
    }
  }

  private constructor(parts: EngineParts) {
    const { gpu, config, tokenizer, kv, defaults, contextLength, maxTokensPerStep, maxSequences, cache, model } = parts;
    this.gpu = gpu;
    this.config = config;
    this.tokenizer = tokenizer;
    this.kv = kv;
    this.defaults = defaults;
    this.contextLength = contextLength;
    this.maxSequenceLength = Math.min(
      contextLength,
      longestSequence({ window: config.slidingWindow }, kv.blocks.size - 1, kv.options.blockSize),
    );
    this.maxTokensPerStep = maxTokensPerStep;
    this.maxSequences = maxSequences;
    this.maxWaiting = parts.maxWaiting;
    this.weightBytes = parts.weights.bytes;
    this.#parts = parts;
    const loop = new StepLoop(parts);
    this.#loop = loop;
    this.#forwardParts = { gpu, kv, cache, model, record: () => loop.record(), submitted: () => loop.tracer?.submitted() };
  }

  /** Steps that a generation submits before the first readback returns, unless it says otherwise. */
  get runAhead(): number {
    return this.#runAhead;
  }

  /** Resolves (never rejects) when the device is lost: nothing can be generated any more. */
  get lost(): Promise<DeviceLostError> {
    return this.gpu.lost;
  }

  launchStats(): LaunchStats {
    return this.#parts.cache.stats();
  }

  /** What the engine does now, and has done since it was loaded. */
  stats(): EngineStats {
    const { free, size } = this.kv.blocks;
    return { ...this.#parts.scheduler.stats(), ...this.#loop.counts, kvUsage: 1 - free / (size - 1) };
  }

  /** The pipelines that this engine compiled, as JSON to keep for the next visit (`EngineOptions.manifest`). */
  manifest(): LaunchManifest {
    return this.#parts.cache.manifest();
  }

  /**
   * Writes on from a prompt: a text, or token ids taken as they are.
   *
   * @throws {InvalidArgumentError} for bad options or token ids. @throws {ContextLengthError} when the prompt leaves no room.
   * @throws {EngineBusyError} when `maxWaiting` requests wait. @throws {EngineDestroyedError}
   * Later errors (`BlocksExhaustedError`, what `allowedTokens` throws, `DeviceLostError`) reject the iteration and `result`.
   */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): Generation {
    if (this.#destroyed) throw new EngineDestroyedError();
    const promptIds = typeof prompt === 'string' ? this.#encode(prompt, options) : prompt;
    const { config, tokenizer, contextLength, maxSequenceLength } = this;
    const spec = checkOptions(promptIds, options, {
      ...{ vocabSize: config.vocabSize, contextLength, maxSequenceLength, runAhead: this.#runAhead },
      ...{ speculate: this.#speculate, hasTokenizer: tokenizer !== undefined },
      defaults: { ...this.defaults, eosTokenIds: this.defaults.eosTokenIds ?? config.eosTokenIds },
    });
    const loop = this.#loop;
    const waiting = Math.max(loop.size - this.maxSequences, this.#parts.scheduler.passedOver);
    if (waiting >= this.maxWaiting) throw new EngineBusyError(waiting);
    const host = {
      abort: (generation: RunningGeneration) => loop.remove(generation),
      notify: () => loop.notify(),
      pipelinesCompiled: () => this.#parts.cache.counts.pipelines,
    };
    const generation = new RunningGeneration(host, spec, tokenizer && (() => tokenizer.stream()));
    if (options.signal?.aborted) generation.abort();
    else loop.add(generation);
    return generation;
  }

  /** Logits after the last token of `ids`: f32 [vocabSize]. Runs between steps of generations. */
  async logits(ids: readonly number[]): Promise<Float32Array> {
    let last = new Float32Array(0);
    await this.#forward(ids, (rows) => {
      last = rows.slice(-this.config.vocabSize);
    });
    return last;
  }

  /** The negative log likelihood of each token of `ids` after the first, given those before it. Runs between steps of generations. */
  async score(ids: readonly number[]): Promise<number[]> {
    const nll: number[] = [];
    await this.#forward(ids, (rows, first) => nll.push(...scoreRows(rows, first, ids, this.config.vocabSize)));
    return nll;
  }

  /** Frees everything on the GPU that the engine made, and rejects what runs. The device stays open: it is the caller's. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    void this.#loop.fail(new EngineDestroyedError());
    const { model, ring, weights, cache, kv } = this.#parts;
    for (const part of [model, ring, weights, cache, kv]) part.destroy();
  }

  #encode(text: string, { parseSpecial }: GenerateOptions): number[] {
    if (this.tokenizer) return this.tokenizer.encode(text, { parseSpecial });
    throw new ModelFileError(
      'tokenizer.json',
      'is missing, so a text cannot become tokens. Add the file, or pass token ids as the prompt.',
    );
  }

  /** Runs `ids` without sampling; `onRows` gets the logits [rows][vocabSize] of the tokens from `first` on. */
  async #forward(ids: readonly number[], onRows: (rows: Float32Array, first: number) => void): Promise<void> {
    if (this.#destroyed) throw new EngineDestroyedError();
    const { vocabSize, slidingWindow: window } = this.config;
    checkTokens(ids, vocabSize);
    if (ids.length > this.contextLength) throw new ContextLengthError(ids.length, this.contextLength);
    const { blockSize, numBlocks } = this.kv.options;
    const rows = Math.min(logitRowsPerStep, this.maxTokensPerStep);
    const whole = Math.ceil(ids.length / blockSize);
    // With a window, a pool that is smaller than the sequence may do: by fewer tokens at a time where it must be.
    const rowsPerStep = whole < numBlocks ? rows : Math.max(1, Math.min(rows, tokensAtOnce({ window }, numBlocks - 1, blockSize)));
    await this.#loop.exclusively(() => {
      this.#parts.scheduler.makeRoom(Math.min(whole, blocksAtOnce({ window }, rowsPerStep, blockSize)));
      return forward(this.#forwardParts, ids, { vocabSize, rowsPerStep, window }, onRows);
    });
  }
}

/** What a manifest still knows is compiled; what it does not, or no longer, is compiled when it is prepared. */
async function warmUp(cache: LaunchCache, manifest: unknown): Promise<LaunchCache> {
  if (manifest !== undefined) await cache.warmup([...attentionKernels, ...modelKernels], manifest);
  return cache;
}

/** As `Promise.all`, but settles only when all have settled, so that whatever they made is known by then. */
async function allOrFirstError<T extends readonly Promise<unknown>[]>(work: readonly [...T]): Promise<{ [I in keyof T]: Awaited<T[I]> }> {
  await Promise.allSettled(work);
  return Promise.all(work) as Promise<{ [I in keyof T]: Awaited<T[I]> }>;
}
