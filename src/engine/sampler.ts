import type { PlanWriter } from '../attention/plan.ts';
import { CapacityExceededError, InvalidArgumentError, LimitExceededError } from '../errors.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { ArgumentsOf } from '../launch/kernel.ts';
import type { LaunchSite } from '../launch/site.ts';
import { sampleAdjustedKernel, sampleInvocations, sampleKernel } from './kernels.ts';
import type { StepResults } from './readback.ts';
import { maxStopTokens, type SamplingParameters, usesPenalties } from './sampling.ts';
import {
  allowsOnly,
  Extensions,
  maskWords,
  maxExtensionWords,
  packSampling,
  resultWordsFor,
  type SampledRow,
  samplingExtensionWords,
} from './sampling-plan.ts';

/** The tokens of a sequence before the one to sample, those of the step itself among them. */
export interface TokenHistory {
  readonly prompt: readonly number[];
  readonly output: readonly number[];
}

/** A sequence that begins to sample on its row, and what came before. */
export interface StartingSequence {
  readonly tableRow: number;
  readonly history: TokenHistory;
}

export interface SamplerOptions {
  readonly maxSequences: number;
  readonly maxRows: number;
  readonly vocabSize: number;
  /** Most likeliest tokens that come back with a token. */
  readonly maxLogprobs: number;
  /** Keep counts of each sequence's tokens. */
  readonly penalties: boolean;
}

const inPrompt = 0x8000;
const mostOften = 0x7fff;

/**
 * Chooses the tokens of a step on the GPU: `check`, `pack` into the step's plan, then `record`. Owns `sampled`, the results, and what penalties,
 * masks and biases need: counts of 2 bytes for each token of the vocabulary and sequence, and the extensions of a step. A step whose rows ask for
 * nothing special writes to neither and runs the plain kernel.
 */
export class Sampler {
  /** Per sequence row: u32 token, u32 finished; the next step's embedding reads it. */
  readonly sampled: GPUBuffer;
  readonly #cache: LaunchCache;
  readonly #options: SamplerOptions;
  readonly #buffers: GPUBuffer[] = [];
  readonly #results: GPUBuffer;
  readonly #counts: GPUBuffer;
  readonly #extensionBuffer: GPUBuffer;
  readonly #extensions: Extensions;
  /** One sequence's counts, while they are sent. */
  readonly #tally: Uint16Array<ArrayBuffer>;
  readonly #plainArguments: ArgumentsOf<typeof sampleKernel.arguments>;
  readonly #adjustedArguments: ArgumentsOf<typeof sampleAdjustedKernel.arguments>;
  #plain!: LaunchSite<typeof sampleKernel.arguments>;
  #adjusted!: LaunchSite<typeof sampleAdjustedKernel.arguments>;
  #extended = false;
  #stepResults: StepResults;

  /**
   * @param logits f32 [maxRows][vocabSize]. @param plan the step's plan.
   * @throws {LimitExceededError} when the device is too small, @throws {InvalidArgumentError} for some thousand rows; nothing was made then.
   */
  constructor(cache: LaunchCache, logits: GPUBuffer, plan: GPUBuffer, options: SamplerOptions) {
    const { maxSequences, maxRows, vocabSize, maxLogprobs, penalties } = options;
    this.#cache = cache;
    this.#options = options;
    this.#tally = new Uint16Array(penalties ? 2 * Math.ceil(vocabSize / 2) : 0);
    const countWords = Math.max(4, (maxSequences * this.#tally.length) / 2);
    const extensionWords = samplingExtensionWords(maxRows, vocabSize);
    if (extensionWords > maxExtensionWords)
      throw new InvalidArgumentError('maxLogitRows', maxRows, `fewer, for a vocabulary of ${vocabSize} tokens`);
    this.#checkSize('token counts', countWords, 'Lower maxSequences, or open the model with `penalties: false`.');
    this.#checkSize('sampling extensions', extensionWords, 'Lower maxLogitRows.');
    const { COPY_SRC, COPY_DST } = GPUBufferUsage;
    this.sampled = this.#buffer('sampled', maxSequences * 2, COPY_SRC | COPY_DST);
    this.#results = this.#buffer('results', maxRows * resultWordsFor(maxLogprobs), COPY_SRC);
    this.#counts = this.#buffer('token counts', countWords, COPY_DST);
    this.#extensions = new Extensions(extensionWords);
    this.#extensionBuffer = this.#buffer('sampling extensions', extensionWords, COPY_DST);
    const { sampled } = this;
    const invocations = sampleInvocations(cache.gpu.adapter, vocabSize);
    this.#plainArguments = { invocations, logits, plan, sampled, results: this.#results, vocabSize, numRows: 0 };
    const [extensions, counts] = [this.#extensionBuffer, this.#counts];
    this.#adjustedArguments = { ...this.#plainArguments, extensions, counts, resultWords: 0 };
    this.#stepResults = { buffer: this.#results, words: 0, logprobs: [] };
  }

  async prepare(): Promise<void> {
    [this.#plain, this.#adjusted] = await Promise.all([
      this.#cache.prepare(sampleKernel, this.#plainArguments),
      this.#cache.prepare(sampleAdjustedKernel, this.#adjustedArguments),
    ]);
  }

  /** Where the results of the planned step will be, for `ReadbackRing.record`. */
  get results(): StepResults {
    return this.#stepResults;
  }

  /**
   * Checks a row before anything changes.
   * @throws {InvalidArgumentError} for what was not asked for at creation, too many stop tokens, a mask of another length or without any token.
   * @throws {CapacityExceededError} for more likeliest tokens than there is room for.
   */
  check(parameters: SamplingParameters): void {
    const { stopTokens, logprobs = 0, allowedTokens } = parameters;
    const { vocabSize, maxLogprobs, penalties } = this.#options;
    if (stopTokens.length > maxStopTokens)
      throw new InvalidArgumentError('stopTokens', `${stopTokens.length} tokens`, `at most ${maxStopTokens} tokens`);
    if (logprobs > maxLogprobs) throw new CapacityExceededError('likeliest tokens', logprobs, maxLogprobs, 'maxLogprobs');
    if (!penalties && usesPenalties(parameters))
      throw new InvalidArgumentError('penalties', 'used', 'unused, because the model was opened with `penalties: false`');
    if (!allowedTokens) return;
    const words = maskWords(vocabSize);
    if (allowedTokens.length !== words)
      throw new InvalidArgumentError('allowedTokens', `${allowedTokens.length} words`, `${words} words, a bit for each token`);
    if (allowsOnly(allowedTokens, vocabSize, []))
      throw new InvalidArgumentError('allowedTokens', 'empty', 'a mask with the bit of at least one token set');
  }

  /** Writes checked rows into the plan, and sends what is special about them. */
  pack(writer: PlanWriter, rows: readonly SampledRow[], starting: readonly StartingSequence[]): void {
    const { resultWords, extended } = packSampling(writer, this.#extensions, rows, this.#options.vocabSize);
    this.#extended = extended;
    this.#plainArguments.numRows = extended ? 0 : rows.length;
    this.#adjustedArguments.numRows = extended ? rows.length : 0;
    this.#adjustedArguments.resultWords = resultWords;
    this.#stepResults = { buffer: this.#results, words: resultWords, logprobs: rows.map(({ parameters }) => parameters.logprobs) };
    const { queue } = this.#cache.gpu.device;
    if (extended) queue.writeBuffer(this.#extensionBuffer, 0, this.#extensions.u32, 0, this.#extensions.length);
    for (const { tableRow, history } of starting) {
      const tally = this.#tally.fill(0);
      for (const token of history.output) if (tally[token] < mostOften) tally[token]++;
      for (const token of history.prompt) tally[token] |= inPrompt;
      queue.writeBuffer(this.#counts, tableRow * tally.byteLength, tally);
    }
  }

  /** Records the planned rows. */
  record(pass: GPUComputePassEncoder): void {
    if (this.#extended) this.#adjusted.record(pass, this.#adjustedArguments);
    else this.#plain.record(pass, this.#plainArguments);
  }

  destroy(): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }

  #checkSize(label: string, words: number, remedy: string): void {
    const granted = this.#cache.gpu.limits.maxStorageBufferBindingSize;
    if (4 * words > granted) throw new LimitExceededError(`Buffer "${label}"`, 'maxStorageBufferBindingSize', 4 * words, granted, remedy);
  }

  #buffer(label: string, words: number, usage: number): GPUBuffer {
    const buffer = this.#cache.gpu.device.createBuffer({ label, size: 4 * words, usage: GPUBufferUsage.STORAGE | usage });
    this.#buffers.push(buffer);
    return buffer;
  }
}
