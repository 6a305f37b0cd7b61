import { PagedAttention } from '../attention/attention.ts';
import type { KvCache } from '../attention/kv-cache.ts';
import type { BatchEntry, LayerAttention } from '../attention/options.ts';
import { sampledToken, samplingWords } from '../attention/plan.ts';
import { CapacityExceededError, LimitExceededError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import type { ModelConfig } from './config.ts';
import { embedKernel, sampleInvocations, sampleKernel, weightDtypeCodes } from './kernels.ts';
import { type Linear, type LinearArguments, prepareLinear } from './linear.ts';
import { rotaryTable } from './rotary.ts';
import type { Matrix, ModelWeights } from './weights.ts';

/** How to choose the next token of a sequence. */
export interface SamplingParameters {
  /** 0 = greedy. */
  readonly temperature: number;
  /** 0 = all. */
  readonly topK: number;
  /** 1 = all. */
  readonly topP: number;
  /** u32. */
  readonly seed: number;
  /** Tokens that end the sequence. */
  readonly stopTokens: readonly number[];
}

/** One sequence's part in a step. Its slots are reserved already (`KvCache.extend`). */
export interface StepEntry extends BatchEntry {
  /** The new tokens' ids; undefined: the one token that the last step sampled, which never left the GPU. */
  readonly tokens?: readonly number[];
  /** Sample the token after the last one. Needs no logits row otherwise. */
  readonly sample?: SamplingParameters;
  /** True in a sequence's first sampling. */
  readonly first?: boolean;
}

export interface ModelOptions {
  /** Most new tokens of one step. */
  readonly maxTokensPerStep: number;
  /** Most rows of logits of one step; at least the cache's `maxSequences`. */
  readonly maxLogitRows: number;
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
 * The forward pass of a Llama-family decoder (Touvron et al. 2023), recorded into the caller's compute pass.
 *
 * A step is `plan(entries)`, then `record(pass)`, then a submit through the launch cache. Launches: the block table's update where it
 * changed, the embedding, six per layer (product for q, k, v; append; attend; output product; gate and up; down; and a merge where
 * keys are split), logits and sampling. Owns its activations and tables; not the weights, the KV cache or the launch cache.
 */
export class LlamaModel {
  /** Per sequence row: u32 token, u32 finished. */
  readonly sampled: GPUBuffer;
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
  #sample!: LaunchSite<typeof sampleKernel.arguments>;
  #sampleArguments!: ArgumentsOf<typeof sampleKernel.arguments>;
  #numTokens = 0;
  #numLogitRows = 0;
  #numSampled = 0;

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
    const { maxTokensPerStep, maxLogitRows, tuning, onTuningProblem } = options;
    const extraPlanWords = maxTokensPerStep + maxLogitRows * (1 + samplingWords) + maxStopWords;
    this.#attention = new PagedAttention(cache, kv, {
      ...{ numHeads: config.numHeads, maxTokensPerStep, extraPlanWords },
      ...{ tuning, onTuningProblem },
    });
    const { COPY_SRC, COPY_DST } = GPUBufferUsage;
    this.logits = this.#buffer('logits', maxLogitRows * config.vocabSize, COPY_SRC);
    this.sampled = this.#buffer('sampled', kv.options.maxSequences * 2, COPY_SRC | COPY_DST);
  }

  /**
   * Packs a step and sends its plan: one queue write.
   * @param logitTokens rows of the packed tokens whose logits are wanted beside those that are sampled from.
   * @throws {CapacityExceededError} for too many tokens or logit rows; nothing changed then.
   */
  plan(entries: readonly StepEntry[], logitTokens: readonly number[] = []): void {
    const sampling = entries.filter((entry) => entry.sample);
    const numLogitRows = sampling.length + logitTokens.length;
    if (numLogitRows > this.#options.maxLogitRows) {
      throw new CapacityExceededError('rows of logits in one step', numLogitRows, this.#options.maxLogitRows, 'maxLogitRows');
    }
    this.#attention.plan(entries);
    const { writer } = this.#attention;
    this.#numTokens = writer.read('NUM_TOKENS');
    this.#numLogitRows = numLogitRows;
    this.#numSampled = sampling.length;

    const tokenIds = writer.section('TOKEN_IDS', this.#numTokens).u32;
    const logitRows = writer.section('LOGIT_ROWS', numLogitRows).u32;
    writer.count('NUM_LOGIT_ROWS', numLogitRows);
    const words = writer.section('SAMPLING', sampling.length * samplingWords);
    let token = 0;
    let row = 0;
    for (const { sequence, queryLen, tokens, sample, first } of entries) {
      for (let i = 0; i < queryLen; i++) tokenIds[token + i] = tokens ? tokens[i] : sampledToken | sequence.tableRow;
      token += queryLen;
      if (!sample) continue;
      logitRows[row] = token - 1;
      const at = row++ * samplingWords;
      const stops = writer.section('STOP_TOKENS', sample.stopTokens.length).u32;
      stops.set(sample.stopTokens);
      words.u32.set(
        [sequence.tableRow, sequence.length, 0, sample.topK, 0, sample.seed, first ? 1 : 0, writer.read('STOP_TOKENS'), stops.length],
        at,
      );
      words.f32[at + 2] = sample.temperature;
      words.f32[at + 4] = sample.topP;
    }
    logitRows.set(logitTokens, row);
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
    this.#sampleArguments.numRows = this.#numSampled;
    this.#sample.record(pass, this.#sampleArguments);
  }

  destroy(): void {
    for (const buffer of this.#buffers) buffer.destroy();
    this.#attention.destroy();
  }

  #buffer(label: string, values: number, usage = 0): GPUBuffer {
    const size = values * 4;
    const { limits, device } = this.#cache.gpu;
    const granted = limits.maxStorageBufferBindingSize;
    if (size > granted)
      throw new LimitExceededError(`Buffer "${label}"`, 'maxStorageBufferBindingSize', size, granted, 'Lower maxTokensPerStep.');
    const buffer = device.createBuffer({ label, size, usage: GPUBufferUsage.STORAGE | usage });
    this.#buffers.push(buffer);
    return buffer;
  }

  async #prepare(kv: KvCache, weights: ModelWeights, onPipelines?: (done: number, total: number) => void): Promise<void> {
    const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, vocabSize } = this.#config;
    const { maxTokensPerStep, maxLogitRows } = this.#options;
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
    const invocations = sampleInvocations(this.#cache.gpu.adapter);
    this.#sampleArguments = { invocations, logits: this.logits, plan, sampled: this.sampled, vocabSize, numRows: 0 };
    [this.#layers, this.#head, this.#embed, this.#sample] = await Promise.all([
      Promise.all(layers),
      head,
      counted(this.#cache.prepare(embedKernel, this.#embedArguments)),
      counted(this.#cache.prepare(sampleKernel, this.#sampleArguments)),
      counted(this.#attention.prepare()),
    ]);
  }
}

/** Words of the plan kept for stop tokens. */
const maxStopWords = 1024;
