import { attentionKernels } from '../attention/kernels.ts';
import { KvCache } from '../attention/kv-cache.ts';
import type { KvDtype } from '../attention/layout.ts';
import { ContextLengthError, InvalidArgumentError, ModelFileError } from '../errors.ts';
import { causeOf, type Gpu } from '../gpu.ts';
import { LaunchCache, type LaunchCacheMode, type LaunchEvent, type LaunchStats } from '../launch/cache.ts';
import type { LaunchManifest } from '../launch/manifest.ts';
import type { Tracer } from '../launch/trace.ts';
import { type ModelConfig, readModelConfig } from './config.ts';
import { type ModelFiles, readJsonIfPresent } from './files.ts';
import { type GenerationHost, RunningGeneration } from './generation.ts';
import { type GenerationDefaults, parseGenerationConfig } from './generation-config.ts';
import { modelKernels } from './kernels.ts';
import { LlamaModel } from './model.ts';
import { ReadbackRing } from './readback.ts';
import { openSafetensors } from './safetensors.ts';
import { checkSampling, type SamplingParameters } from './sampling.ts';
import { createTokenizer, type Tokenizer } from './tokenizer.ts';
import type { GenerateOptions, Generation, LoadProgress } from './types.ts';
import { loadWeights, type ModelWeights } from './weights.ts';

export interface EngineOptions {
  /** Storage of keys and values; default `f32`. */
  readonly kvDtype?: KvDtype;
  /** Token slots of a KV block, a multiple of 8; default 16. */
  readonly blockSize?: number;
  /** Longest prompt and answer together; default and most: the model's. */
  readonly contextLength?: number;
  /** KV blocks per layer, the reserved one included; default: as many as one sequence of `contextLength` needs. */
  readonly numBlocks?: number;
  /** Token budget of one step: longer prompts take several; default 512. */
  readonly maxTokensPerStep?: number;
  /** Default `on`; `verify` holds every launch against its full key. */
  readonly launchCache?: LaunchCacheMode;
  /** What `Engine.manifest` gave at an earlier visit: its pipelines are compiled while the weights are on their way. */
  readonly manifest?: unknown;
  /** What `tune` found on this device for the model's heads; anything else is ignored, and `onTuningProblem` hears why. */
  readonly tuning?: unknown;
  readonly onTuningProblem?: (problem: string) => void;
  /** Hears of false hits, and of a launch cache that stands aside. */
  readonly onLaunchEvent?: (event: LaunchEvent) => void;
  /** Collects where the time of generations goes. Each launch then takes a pass of its own, so that tokens come slower. */
  readonly trace?: Tracer;
  /** Steps submitted before the first readback returns, 1 to 32; default: measured when the engine is loaded. */
  readonly runAhead?: number;
  readonly onProgress?: (progress: LoadProgress) => void;
  readonly signal?: AbortSignal;
}

/** Most steps in flight, and staging buffers made. */
const maxRunAhead = 32;

/** Rows of logits that `logits` and `score` compute at a time. */
const logitRowsPerStep = 64;

/**
 * A language model, ready to write: weights, KV cache, launch cache and tokenizer on one device. Everything hangs from this value, so
 * that two engines can live in one page. Generations run one after the other, in the order in which they were asked for.
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
  readonly maxTokensPerStep: number;
  /** Bytes of weights on the GPU. */
  readonly weightBytes: number;
  readonly #cache: LaunchCache;
  readonly #model: LlamaModel;
  readonly #weights: ModelWeights;
  readonly #ring: ReadbackRing;
  #runAhead = 1;
  #tracer: Tracer | undefined;
  #tail: Promise<unknown> = Promise.resolve();

  /**
   * Loads a model of the Llama family from Hugging Face files: config.json, model.safetensors (or its shards and their index),
   * and, where present, tokenizer.json, tokenizer_config.json and generation_config.json.
   *
   * @throws {ModelFileError} for missing or damaged files. @throws {UnsupportedModelError} for what is not implemented.
   * @throws {InvalidArgumentError} for bad options. @throws {LimitExceededError} when the device is too small.
   * Nothing stays on the GPU after a throw.
   */
  static async load(gpu: Gpu, files: ModelFiles, options: EngineOptions = {}): Promise<Engine> {
    const { onProgress, signal, runAhead } = options;
    if (runAhead !== undefined) checkInteger('runAhead', runAhead, 1, maxRunAhead);
    const config = await readModelConfig(files);
    const defaults = parseGenerationConfig(await readJsonIfPresent(files, 'generation_config.json'));
    const tokenizerConfig = await readJsonIfPresent(files, 'tokenizer_config.json');
    const tokenizerJson = await readJsonIfPresent(files, 'tokenizer.json');
    const tokenizer = tokenizerJson === undefined ? undefined : createTokenizer(tokenizerJson, tokenizerConfig, config);
    const contextLength = options.contextLength ?? config.contextLength;
    checkInteger('contextLength', contextLength, 2, config.contextLength);
    const maxTokensPerStep = Math.min(options.maxTokensPerStep ?? 512, contextLength);
    checkInteger('maxTokensPerStep', maxTokensPerStep, 1, contextLength);

    const tensors = await openSafetensors(files, (loaded, total) => onProgress?.({ phase: 'files', loaded, total }));
    const owned: { destroy(): void }[] = [];
    const own = <T extends { destroy(): void }>(value: T): T => {
      owned.push(value);
      return value;
    };
    try {
      signal?.throwIfAborted();
      const blockSize = options.blockSize ?? 16;
      const maxBlocksPerSequence = Math.ceil(contextLength / blockSize);
      const kv = own(
        new KvCache(gpu, {
          numLayers: config.numLayers,
          numKvHeads: config.numKvHeads,
          headDim: config.headDim,
          blockSize,
          dtype: options.kvDtype ?? 'f32',
          numBlocks: options.numBlocks ?? maxBlocksPerSequence + 1,
          maxSequences: 1,
          maxBlocksPerSequence,
        }),
      );
      const onBytes = (loaded: number, total: number) => onProgress?.({ phase: 'weights', loaded, total });
      const [cache, weights] = await allOrFirstError([
        LaunchCache.open(gpu, { mode: options.launchCache, onEvent: options.onLaunchEvent })
          .then(own)
          .then((opened) => warmUp(opened, options.manifest)),
        loadWeights(gpu, tensors, config, onBytes, signal).then(own),
      ]);
      const ring = own(new ReadbackRing(gpu, maxRunAhead, logitRowsPerStep));
      const { tuning, onTuningProblem } = options;
      const modelOptions = { maxTokensPerStep, maxLogitRows: logitRowsPerStep, tuning, onTuningProblem };
      const onPipelines = (loaded: number, total: number) => onProgress?.({ phase: 'pipelines', loaded, total });
      const model = own(await LlamaModel.create(cache, kv, config, weights, modelOptions, onPipelines));
      signal?.throwIfAborted();
      const engine = new Engine({ gpu, config, tokenizer, kv, defaults, contextLength, maxTokensPerStep, cache, model, weights, ring });
      engine.#runAhead = runAhead ?? (await engine.#measureRunAhead());
      engine.#tracer = options.trace; // from here on: what was measured above knows nothing of it
      cache.freeze('throw');
      return engine;
    } catch (error) {
      for (const value of owned.reverse()) value.destroy();
      throw await causeOf(gpu, error);
    } finally {
      tensors.close();
    }
  }

  private constructor(parts: {
    gpu: Gpu;
    config: ModelConfig;
    tokenizer: Tokenizer | undefined;
    kv: KvCache;
    defaults: GenerationDefaults;
    contextLength: number;
    maxTokensPerStep: number;
    cache: LaunchCache;
    model: LlamaModel;
    weights: ModelWeights;
    ring: ReadbackRing;
  }) {
    this.gpu = parts.gpu;
    this.config = parts.config;
    this.tokenizer = parts.tokenizer;
    this.kv = parts.kv;
    this.defaults = parts.defaults;
    this.contextLength = parts.contextLength;
    this.maxTokensPerStep = parts.maxTokensPerStep;
    this.weightBytes = parts.weights.bytes;
    this.#cache = parts.cache;
    this.#model = parts.model;
    this.#weights = parts.weights;
    this.#ring = parts.ring;
  }

  /** Steps that a generation submits before the first readback returns, unless it says otherwise. */
  get runAhead(): number {
    return this.#runAhead;
  }

  launchStats(): LaunchStats {
    return this.#cache.stats();
  }

  /** The pipelines that this engine compiled, as JSON to keep for the next visit (`EngineOptions.manifest`). */
  manifest(): LaunchManifest {
    return this.#cache.manifest();
  }

  /**
   * Writes on from a prompt: a text, or token ids taken as they are.
   *
   * @throws {InvalidArgumentError} for bad options or token ids. @throws {ContextLengthError} when the prompt leaves no room.
   * Later errors (`BlocksExhaustedError`, `DeviceLostError`) reject the iteration and `result`.
   */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): Generation {
    const promptIds = typeof prompt === 'string' ? this.#encode(prompt, options) : prompt;
    this.#checkTokens(promptIds);
    const room = this.contextLength - promptIds.length;
    if (room < 1) throw new ContextLengthError(promptIds.length, this.contextLength);
    const runAhead = options.runAhead ?? this.#runAhead;
    checkInteger('runAhead', runAhead, 1, maxRunAhead);
    const maxTokens = options.maxTokens ?? room;
    checkInteger('maxTokens', maxTokens, 1, Number.MAX_SAFE_INTEGER);
    const request = {
      promptIds,
      maxTokens: Math.min(maxTokens, room),
      runAhead,
      sampling: this.#sampling(options),
      signal: options.signal,
    };
    const turn = this.#tail.then(() => {});
    const generation = new RunningGeneration(this.#host(), request, this.tokenizer?.stream(), turn);
    this.#tail = generation.result.catch(() => {});
    return generation;
  }

  /** Logits after the last token of `ids`: f32 [vocabSize]. */
  async logits(ids: readonly number[]): Promise<Float32Array> {
    let last = new Float32Array(0);
    await this.#forward(ids, (rows) => {
      last = rows.slice(-this.config.vocabSize);
    });
    return last;
  }

  /** The negative log likelihood of each token of `ids` after the first, given those before it. */
  async score(ids: readonly number[]): Promise<number[]> {
    const { vocabSize } = this.config;
    const nll: number[] = [];
    await this.#forward(ids, (rows, first) => {
      for (let row = 0; row < rows.length / vocabSize && first + row + 1 < ids.length; row++) {
        const logits = rows.subarray(row * vocabSize, (row + 1) * vocabSize);
        const maximum = logits.reduce((a, b) => Math.max(a, b));
        const sum = logits.reduce((total, logit) => total + Math.exp(logit - maximum), 0);
        nll.push(maximum + Math.log(sum) - logits[ids[first + row + 1]]);
      }
    });
    return nll;
  }

  /** Frees everything on the GPU that the engine made. The device stays open: it is the caller's. */
  destroy(): void {
    this.#model.destroy();
    this.#ring.destroy();
    this.#weights.destroy();
    this.#cache.destroy();
    this.kv.destroy();
  }

  #encode(text: string, { parseSpecial }: GenerateOptions): number[] {
    if (this.tokenizer) return this.tokenizer.encode(text, { parseSpecial });
    throw new ModelFileError(
      'tokenizer.json',
      'is missing, so a text cannot become tokens. Add the file, or pass token ids as the prompt.',
    );
  }

  #sampling(options: GenerateOptions): SamplingParameters {
    const { temperature, topK, topP, eosTokenIds = this.config.eosTokenIds } = this.defaults;
    return checkSampling(options, this.config.vocabSize, { temperature, topK, topP, eosTokenIds });
  }

  #checkTokens(ids: readonly number[]): void {
    if (ids.length === 0) throw new InvalidArgumentError('prompt', 'empty', 'at least one token');
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= this.config.vocabSize);
    if (bad !== undefined) throw new InvalidArgumentError('token id', bad, `an integer from 0 to ${this.config.vocabSize - 1}`);
  }

  #host(): GenerationHost {
    return {
      kv: this.kv,
      maxTokensPerStep: this.maxTokensPerStep,
      causeOf: (error) => causeOf(this.gpu, error),
      counts: () => this.#cache.counts,
      submit: (sequence, tokens, queryLen, sampling) => {
        const step = this.#tracer?.begin(tokens ? 'prefill' : 'decode');
        try {
          const planning = this.#tracer?.begin('plan');
          this.#model.plan([{ sequence, queryLen, tokens, sample: sampling, first: sampling?.first }]);
          planning?.end();
          const encoder = this.#record();
          const submitting = this.#tracer?.begin('submit');
          const read = sampling && this.#ring.record(encoder, this.#model.results);
          this.#cache.submit([encoder.finish()]);
          submitting?.end();
          const reading = this.#tracer?.begin('read');
          const sampled = read?.().then(([row]) => row);
          reading?.end();
          this.#tracer?.submitted();
          return sampled;
        } finally {
          step?.end();
        }
      },
      trace: (name) => this.#tracer?.begin(name),
    };
  }

  #record(): GPUCommandEncoder {
    if (this.#tracer) return this.#tracer.record((pass) => this.#model.record(pass));
    const encoder = this.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.#model.record(pass);
    pass.end();
    return encoder;
  }

  /** Runs `ids` without sampling; `onRows` gets the logits [rows][vocabSize] of the tokens from `first` on. */
  async #forward(ids: readonly number[], onRows: (rows: Float32Array, first: number) => void): Promise<void> {
    this.#checkTokens(ids);
    if (ids.length > this.contextLength) throw new ContextLengthError(ids.length, this.contextLength);
    const work = this.#tail.then(async () => {
      const rowsPerStep = Math.min(logitRowsPerStep, this.maxTokensPerStep);
      const rowBytes = this.config.vocabSize * 4;
      const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
      const staging = this.gpu.device.createBuffer({ label: 'logits readback', size: rowsPerStep * rowBytes, usage });
      const sequence = this.kv.open();
      try {
        for (let first = 0; first < ids.length; first += rowsPerStep) {
          const tokens = ids.slice(first, first + rowsPerStep);
          this.kv.extend(sequence, tokens.length);
          this.#model.plan(
            [{ sequence, queryLen: tokens.length, tokens }],
            tokens.map((_, i) => i),
          );
          const encoder = this.#record();
          encoder.copyBufferToBuffer(this.#model.logits, 0, staging, 0, tokens.length * rowBytes);
          this.#cache.submit([encoder.finish()]);
          this.#tracer?.submitted();
          await staging.mapAsync(GPUMapMode.READ, 0, tokens.length * rowBytes);
          onRows(new Float32Array(staging.getMappedRange(0, tokens.length * rowBytes)).slice(), first);
          staging.unmap();
        }
      } catch (error) {
        throw await causeOf(this.gpu, error);
      } finally {
        this.kv.close(sequence);
        staging.destroy();
      }
    });
    this.#tail = work.catch(() => {});
    return work;
  }

  /** Warms up, and finds the depth at which waiting for the host no longer holds the GPU up: wait / step time, rounded up, plus 1. */
  async #measureRunAhead(): Promise<number> {
    const steps = 8;
    const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };
    const host = this.#host();
    const sequence = this.kv.open();
    try {
      const run = async (count: number): Promise<number> => {
        const start = performance.now();
        const tokens = Array.from({ length: count }, () => {
          this.kv.extend(sequence, 1);
          return host.submit(sequence, sequence.length === 1 ? [0] : undefined, 1, { ...greedy, first: false });
        });
        await Promise.all(tokens);
        return performance.now() - start;
      };
      await run(1);
      const one = await run(1);
      const many = await run(Math.min(steps, this.contextLength - 2));
      const step = Math.max((many - one) / (steps - 1), 0.02);
      return Math.min(maxRunAhead, Math.max(2, Math.ceil(Math.max(0, one - step) / step) + 1));
    } finally {
      this.kv.close(sequence);
    }
  }
}

function checkInteger(argument: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new InvalidArgumentError(argument, value, `an integer from ${least} to ${most}`);
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
