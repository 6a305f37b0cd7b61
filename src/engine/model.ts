import { PagedAttention } from '../attention/attention.ts';
import type { KvCache } from '../attention/kv-cache.ts';
import type { BatchEntry, LayerAttention } from '../attention/options.ts';
import { sampledToken } from '../attention/plan.ts';
import { CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import type { ModelConfig } from './config.ts';
import { embedKernel, weightDtypeCodes } from './kernels.ts';
import { type Linear, type LinearArguments, prepareLinear } from './linear.ts';
import type { StepResults } from './readback.ts';
import { rotaryTable } from './rotary.ts';
import { Sampler, type StartingSequence, type TokenHistory } from './sampler.ts';
import { type SamplingParameters, usesPenalties } from './sampling.ts';
import { type SampledRow, samplingPlanWords } from './sampling-plan.ts';
import type { Matrix, ModelWeights } from './weights.ts';

/** One sequence's part in a step. Its slots are reserved already (`KvCache.extend`). */
export interface StepEntry extends BatchEntry {
  /** The new tokens' ids; undefined: the one token that the last step sampled, which never left the GPU. */
  readonly tokens?: readonly number[];
  /**
   * Sample the token after the last one; of a list with m parameters, the tokens after each of the last m (to verify a draft: the next step goes on
   * from the last of them, unless it passes tokens). Left out: needs no row of logits.
   */
  readonly sample?: SamplingParameters | readonly SamplingParameters[];
  /** True in the first sampling of a sequence on its row, also when it starts again after a preemption. */
  readonly first?: boolean;
  /** All tokens before the one to sample. Needed with penalties when `first`; given at another time, it replaces what was counted. */
  readonly history?: TokenHistory;
}

export interface ModelOptions {
  /** Most new tokens of one step. */
  readonly maxTokensPerStep: number;
  /** Most rows of logits of one step; at least the cache's `maxSequences`. */
  readonly maxLogitRows: number;
  /** Most likeliest tokens that a row can ask for, up to 20; default 0. Rows that ask for none read none back. */
  readonly maxLogprobs?: number;
  /** Room for repetition, presence and frequency penalties: 2 bytes for each token of the vocabulary and sequence (128k tokens, 64 sequences: 16 MB). Default true. */
  readonly penalties?: boolean;
  /** As that of `EngineOptions`. */
  readonly subgroupMatrices?: boolean;
  readonly shaderF16?: boolean;
  /** As those of `PagedAttentionOptions`. */
  readonly tuning?: unknown;
  readonly onTuningProblem?: (problem: string) => void;
}

interface Layer {
  readonly qkv: Linear;
  readonly attention: LayerAttention;
  readonly output: Linear;
  readonly gateUp: Linear;
  readonly down: Linear;
}

/**
 * The forward pass of a Llama-family decoder (Touvron et al. 2023; with a sliding window: Mistral, Jiang et al. 2023), recorded into the caller's compute pass.
 *
 * A step is `plan(entries)`, then `record(pass)`, then a submit through the launch cache. Launches: the block table's update where it
 * changed, the embedding, six per layer (product for q, k, v; append; attend; output product; gate and up; down; and a merge where
 * keys are split), logits and sampling. Owns its activations and tables; not the weights, the KV cache or the launch cache.
 */
export class LlamaModel {
  /** f32 [maxLogitRows][vocabSize], of the last step's logit rows. */
  readonly logits: GPUBuffer;
  readonly #cache: LaunchCache;
  readonly #config: ModelConfig;
  readonly #options: ModelOptions;
  readonly #attention: PagedAttention;
  readonly #buffers: GPUBuffer[] = [];
  #embed!: LaunchSite<typeof embedKernel.arguments>;
  #embedArguments!: ArgumentsOf<typeof embedKernel.arguments>;
  #layers: readonly Layer[] = [];
  #head!: Linear;
  readonly #sampler: Sampler;
  #numTokens = 0;
  #numLogitRows = 0;

  /** Compiles what the model needs, in parallel. @param onPipelines progress, in launch sites. */
  static async create(
    cache: LaunchCache,
    kv: KvCache,
    config: ModelConfig,
    weights: ModelWeights,
    options: ModelOptions,
    onPipelines?: (done: number, total: number) => void,
  ): Promise<LlamaModel> {
    const model = new LlamaModel(cache, kv, config, options);
    try {
      await model.#prepare(kv, weights, onPipelines);
      return model;
    } catch (error) {
      model.destroy();
      throw error;
    }
  }

  private constructor(cache: LaunchCache, kv: KvCache, config: ModelConfig, options: ModelOptions) {
    this.#cache = cache;
    this.#config = config;
    this.#options = options;
    const { maxTokensPerStep, maxLogitRows, subgroupMatrices, shaderF16, tuning, onTuningProblem } = options;
    const extraPlanWords = maxTokensPerStep + maxLogitRows + samplingPlanWords(maxLogitRows);
    this.#attention = new PagedAttention(cache, kv, {
      ...{ numHeads: config.numHeads, maxTokensPerStep, extraPlanWords },
      ...{ subgroupMatrices, shaderF16, tuning, onTuningProblem },
    });
    const { vocabSize } = config;
    try {
      this.logits = this.#buffer('logits', maxLogitRows * vocabSize, GPUBufferUsage.COPY_SRC);
      this.#sampler = new Sampler(cache, this.logits, this.#attention.planBuffer, {
        ...{ maxSequences: kv.options.maxSequences, maxRows: maxLogitRows, vocabSize },
        ...{ maxLogprobs: options.maxLogprobs ?? 0, penalties: options.penalties ?? true },
      });
    } catch (error) {
      for (const buffer of this.#buffers) buffer.destroy();
      this.#attention.destroy();
      throw error;
    }
  }

  /** Per sequence row: u32 token, u32 finished. */
  get sampled(): GPUBuffer {
    return this.#sampler.sampled;
  }

  /** What the planned step samples, to read back: a row for each parameters of each entry, in the order of the entries. */
  get results(): StepResults {
    return this.#sampler.results;
  }

  /** Throws what `plan` would throw for a row of these parameters. */
  checkSampling(parameters: SamplingParameters): void {
    this.#sampler.check(parameters);
  }

  /**
   * Packs a step and sends its plan: one queue write; one more where a row asks for what the plain kernel does not know (min-p, bias, mask, banned
   * stop tokens, penalties, log-probabilities), and one for each `history`.
   * @param logitTokens rows of the packed tokens whose logits are wanted beside those that are sampled from.
   * @throws {CapacityExceededError} for too many tokens, logit rows or likeliest tokens; nothing changed then.
   * @throws {InvalidArgumentError} for sampling that cannot be done, see `Sampler.check`; nothing changed then.
   */
  plan(entries: readonly StepEntry[], logitTokens: readonly number[] = []): void {
    const sampling: SampledRow[] = [];
    const starting: StartingSequence[] = [];
    for (const entry of entries) this.#sample(entry, sampling, starting);
    const numLogitRows = sampling.length + logitTokens.length;
    if (numLogitRows > this.#options.maxLogitRows) {
      throw new CapacityExceededError('rows of logits in one step', numLogitRows, this.#options.maxLogitRows, 'maxLogitRows');
    }
    this.#attention.plan(entries);
    const { writer } = this.#attention;
    this.#numTokens = writer.read('NUM_TOKENS');
    this.#numLogitRows = numLogitRows;

    const tokenIds = writer.section('TOKEN_IDS', this.#numTokens).u32;
    const logitRows = writer.section('LOGIT_ROWS', numLogitRows).u32;
    writer.count('NUM_LOGIT_ROWS', numLogitRows);
    let token = 0;
    let row = 0;
    for (const { sequence, queryLen, tokens, sample } of entries) {
      for (let i = 0; i < queryLen; i++) tokenIds[token + i] = tokens ? tokens[i] : sampledToken | sequence.tableRow;
      token += queryLen;
      for (let before = listOf(sample).length; before > 0; before--) logitRows[row++] = token - before;
    }
    logitRows.set(logitTokens, row);
    this.#sampler.pack(writer, sampling, starting);
    this.#attention.write();
  }

  /** Records the planned step. */
  record(pass: GPUComputePassEncoder): void {
    const numTokens = this.#numTokens;
    this.#attention.updateTables(pass);
    this.#embedArguments.numTokens = numTokens;
    this.#embed.record(pass, this.#embedArguments);
    for (const layer of this.#layers) {
      layer.qkv.record(pass, numTokens);
      layer.attention.append(pass);
      layer.attention.attend(pass);
      layer.output.record(pass, numTokens);
      layer.gateUp.record(pass, numTokens);
      layer.down.record(pass, numTokens);
    }
    this.#head.record(pass, this.#numLogitRows);
    this.#sampler.record(pass);
  }

  destroy(): void {
    for (const buffer of this.#buffers) buffer.destroy();
    this.#sampler.destroy();
    this.#attention.destroy();
  }

  /** Checks what an entry samples, and adds its rows. */
  #sample({ sequence, queryLen, sample, first = false, history }: StepEntry, rows: SampledRow[], starting: StartingSequence[]): void {
    const list = listOf(sample);
    if (list.length > queryLen)
      throw new InvalidArgumentError('sample', `${list.length} parameters`, `at most one for each of the ${queryLen} new tokens`);
    list.forEach((parameters, i) => {
      this.#sampler.check(parameters);
      const counts = usesPenalties(parameters);
      if (counts && list.length > 1)
        throw new InvalidArgumentError('sample', 'several parameters with penalties', 'one: penalties need the tokens before');
      if (counts && first && !history)
        throw new InvalidArgumentError('history', undefined, 'the tokens so far, where a sequence with penalties starts');
      const position = sequence.length - list.length + 1 + i;
      rows.push({ tableRow: sequence.tableRow, position, parameters, first, last: i === list.length - 1 });
    });
    if (history && list.some(usesPenalties)) starting.push({ tableRow: sequence.tableRow, history });
  }

  #buffer(label: string, values: number, usage = 0): GPUBuffer {
    const size = values * 4;
    const { limits, device } = this.#cache.gpu;
    const granted = limits.maxStorageBufferBindingSize;
    if (size > granted)
      throw new LimitExceededError(
        `Buffer "${label}"`,
        'maxStorageBufferBindingSize',
        size,
        granted,
        'Lower maxTokensPerStep or maxLogitRows.',
      );
    const buffer = device.createBuffer({ label, size, usage: GPUBufferUsage.STORAGE | usage });
    this.#buffers.push(buffer);
    return buffer;
  }

  async #prepare(kv: KvCache, weights: ModelWeights, onPipelines?: (done: number, total: number) => void): Promise<void> {
    const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim } = this.#config;
    const { maxTokensPerStep, maxLogitRows, subgroupMatrices } = this.#options;
    const querySize = numHeads * headDim;
    const qkvSize = querySize + 2 * numKvHeads * headDim;
    const hidden = this.#buffer('hidden', maxTokensPerStep * hiddenSize);
    const qkv = this.#buffer('qkv', maxTokensPerStep * qkvSize);
    const attended = this.#buffer('attended', maxTokensPerStep * querySize);
    const activated = this.#buffer('activated', maxTokensPerStep * intermediateSize);
    const positions = kv.options.maxBlocksPerSequence * kv.options.blockSize;
    const table = rotaryTable(this.#config.rope, headDim, positions);
    const rotary = this.#buffer('rotary', table.length, GPUBufferUsage.COPY_DST);
    this.#cache.gpu.device.queue.writeBuffer(rotary, 0, table);
    const plan = this.#attention.planBuffer;

    let done = 0;
    let total = 0;
    const counted = <T>(work: Promise<T>): Promise<T> => {
      total++;
      return work.then((result) => {
        onPipelines?.(++done, total);
        return result;
      });
    };
    // Each product that a kernel by matrices does not compile for goes without; one is enough to be told of.
    let isTold = false;
    const onFallback = (kernel: string, reason: unknown): void => {
      if (!isTold) this.#cache.reportFallback(kernel, reason);
      isTold = true;
    };
    const { gains: gain, biases: bias } = weights;
    const linear = (matrix: Matrix, input: GPUBuffer, output: GPUBuffer, options: Partial<LinearArguments>): Promise<Linear> =>
      counted(
        prepareLinear(
          this.#cache,
          {
            weightDtype: weightDtypeCodes[matrix.dtype],
            normalized: false,
            swiglu: false,
            accumulate: false,
            gathered: false,
            biased: false,
            input,
            weights: matrix.buffer,
            gain,
            bias,
            plan,
            output,
            inputSize: matrix.columns,
            outputSize: matrix.rows,
            inputStride: matrix.columns,
            outputStride: matrix.rows,
            gainOffset: 0,
            biasOffset: 0,
            epsilon: this.#config.rmsNormEps,
            numRows: 0,
            ...options,
          },
          options.gathered ? maxLogitRows : maxTokensPerStep,
          { subgroupMatrices, onFallback },
        ),
      );
    const { attentionBias, mlpBias, numLayers } = this.#config;
    const layers = weights.layers.map(async (layer, index): Promise<Layer> => {
      const biases = weights.layerBiases[index];
      const [qkvProduct, attention, output, gateUp, down] = await Promise.all([
        linear(layer.qkv, hidden, qkv, {
          normalized: true,
          gainOffset: 2 * index * hiddenSize,
          biased: attentionBias,
          biasOffset: biases.qkv,
        }),
        counted(
          this.#attention.prepareLayer(index, {
            query: qkv,
            queryStride: qkvSize,
            key: qkv,
            value: qkv,
            rowStride: qkvSize,
            keyOffset: querySize,
            valueOffset: querySize + numKvHeads * headDim,
            output: attended,
            rotary: { table: rotary, half: headDim / 2 },
            window: this.#config.slidingWindow,
          }),
        ),
        linear(layer.output, attended, hidden, { accumulate: true, biased: attentionBias, biasOffset: biases.output }),
        linear(layer.gateUp, hidden, activated, {
          normalized: true,
          gainOffset: (2 * index + 1) * hiddenSize,
          swiglu: true,
          outputStride: intermediateSize,
          biased: mlpBias,
          biasOffset: biases.gateUp,
        }),
        linear(layer.down, activated, hidden, { accumulate: true, biased: mlpBias, biasOffset: biases.down }),
      ]);
      return { qkv: qkvProduct, attention, output, gateUp, down };
    });
    const head = linear(weights.logits, hidden, this.logits, { normalized: true, gainOffset: 2 * numLayers * hiddenSize, gathered: true });
    const embedding = weights.embedding;
    this.#embedArguments = {
      weightDtype: weightDtypeCodes[embedding.dtype],
      weights: embedding.buffer,
      plan,
      sampled: this.sampled,
      hidden,
      hiddenSize,
      numTokens: 0,
    };
    [this.#layers, this.#head, this.#embed] = await Promise.all([
      Promise.all(layers),
      head,
      counted(this.#cache.prepare(embedKernel, this.#embedArguments)),
      counted(this.#sampler.prepare()),
      counted(this.#attention.prepare()),
    ]);
  }
}

function listOf(sample: StepEntry['sample']): readonly SamplingParameters[] {
  return sample === undefined ? [] : isList(sample) ? sample : [sample];
}

function isList(sample: SamplingParameters | readonly SamplingParameters[]): sample is readonly SamplingParameters[] {
  return Array.isArray(sample);
}
