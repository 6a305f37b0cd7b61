/** Runs the sampling kernels on rows of logits, and says on the host which tokens may come. */
import { PlanWriter } from '../../src/attention/plan.ts';
import { sampleAdjustedKernel, sampleInvocations, sampleKernel } from '../../src/engine/kernels.ts';
import { ReadbackRing, type SampledToken } from '../../src/engine/readback.ts';
import type { SamplingParameters } from '../../src/engine/sampling.ts';
import { Extensions, packSampling, samplingExtensionWords, samplingPlanWords } from '../../src/engine/sampling-plan.ts';
import { LaunchCache } from '../../src/index.ts';
import { readBuffer, type SpecContext, uploadBuffer } from '../harness/harness.ts';
import { submit } from './tiny.ts';

/** Sampling parameters left out: temperature 1, all else off. */
export interface SampleRow extends Partial<SamplingParameters> {
  readonly logits: Float32Array;
  readonly position?: number;
  /** Where in `sampled` the token goes; default: the row's number. */
  readonly sequence?: number;
  readonly first?: boolean;
  /** Default true. */
  readonly last?: boolean;
  /** What penalties count. */
  readonly prompt?: readonly number[];
  readonly output?: readonly number[];
}

export interface Sampled {
  readonly token: number;
  readonly finished: number;
}

/** What unwritten entries of `sampled` hold. */
export const untouched: Sampled = { token: 123456, finished: 7 };

/** What all else holds that was not written. */
const poison = 0xdeadbeef;

export interface SamplerCase {
  readonly initial?: Sampled;
  readonly invocations?: number;
  /** The kernel for all that can be asked, also where no row asks. */
  readonly adjusted?: boolean;
}

/** What one launch did. */
export interface Sampling {
  readonly sampled: readonly Sampled[];
  readonly results: readonly SampledToken[];
  /** u16 [sequences][vocabSize, made even]. */
  readonly counts: Uint16Array;
  /** Words behind the last result. */
  readonly behind: readonly number[];
}

const parametersOf = (row: SampleRow): SamplingParameters => ({ temperature: 1, topK: 0, topP: 1, seed: 0, stopTokens: [], ...row });

/** A buffer of sampled tokens, and a function that samples rows into it and reads all of it back. */
export async function openSampler(t: SpecContext, sequences: number, options: SamplerCase = {}) {
  const run = await openSampling(t, sequences, options);
  return async (rows: readonly SampleRow[]): Promise<readonly Sampled[]> => (await run(rows)).sampled;
}

/** As `openSampler`, and reads all else that the kernel wrote. */
export async function openSampling(
  t: SpecContext,
  sequences: number,
  { initial = untouched, invocations: wanted, adjusted = false }: SamplerCase = {},
) {
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const pairs = Array.from({ length: sequences }, () => [initial.token, initial.finished]).flat();
  const sampled = uploadBuffer(t, Uint32Array.from(pairs));
  return async (rows: readonly SampleRow[]): Promise<Sampling> => {
    const vocabSize = rows[0].logits.length;
    const invocations = wanted ?? sampleInvocations(t.gpu.adapter, vocabSize);
    const logits = new Float32Array(rows.length * vocabSize);
    rows.forEach((row, i) => {
      logits.set(row.logits, i * vocabSize);
    });
    const { words, extensions, resultWords, extended } = planOf(rows, vocabSize);
    const resultBytes = rows.length * resultWords * 4;
    const args = {
      ...{ invocations, logits: uploadBuffer(t, logits), plan: uploadBuffer(t, words), sampled, vocabSize, resultWords },
      results: uploadBuffer(t, new Uint32Array(resultBytes / 4 + 5).fill(poison)),
      extensions: uploadBuffer(t, extensions),
      counts: uploadBuffer(t, countsOf(rows, sequences, vocabSize)),
      numRows: rows.length,
    };
    if (extended || adjusted) {
      const site = await cache.prepare(sampleAdjustedKernel, args);
      submit(cache, (pass) => site.record(pass, args));
    } else {
      const { extensions: _, counts: __, resultWords: ___, ...plain } = args;
      const site = await cache.prepare(sampleKernel, plain);
      submit(cache, (pass) => site.record(pass, plain));
    }
    const ring = new ReadbackRing(t.gpu, 1, rows.length, 20);
    t.defer(() => ring.destroy());
    const encoder = t.gpu.device.createCommandEncoder();
    const read = ring.record(encoder, { buffer: args.results, words: resultWords, logprobs: rows.map(({ logprobs }) => logprobs) });
    t.gpu.device.queue.submit([encoder.finish()]);
    const results = await read();
    const state = new Uint32Array(await readBuffer(t.gpu, sampled));
    const counts = new Uint16Array(await readBuffer(t.gpu, args.counts));
    const behind = [...new Uint32Array(await readBuffer(t.gpu, args.results, resultBytes))];
    for (const buffer of [args.logits, args.results, args.extensions, args.counts, args.plan]) buffer.destroy();
    const tokens = Array.from({ length: sequences }, (_, i) => ({ token: state[2 * i], finished: state[2 * i + 1] }));
    return { sampled: tokens, results, counts, behind };
  };
}

function planOf(rows: readonly SampleRow[], vocabSize: number) {
  const writer = new PlanWriter(64 + samplingPlanWords(rows.length));
  writer.begin();
  writer.section('POSITIONS', 2).u32.fill(0xffffffff);
  const extensions = new Extensions(samplingExtensionWords(rows.length, vocabSize));
  const sampled = rows.map((row, i) => {
    const { position = 0, sequence = i, first = false, last = true } = row;
    return { tableRow: sequence, position, first, last, parameters: parametersOf(row) };
  });
  const packed = packSampling(writer, extensions, sampled, vocabSize);
  const behind = 8; // what lies behind a record must not matter
  const poisoned = new Uint32Array(extensions.length + behind).fill(poison);
  poisoned.set(extensions.u32.subarray(0, extensions.length));
  return { words: writer.words, extensions: poisoned, ...packed };
}

/** Counts of the rows' sequences; those of rows without penalties, and of sequences without rows, are poison. */
function countsOf(rows: readonly SampleRow[], sequences: number, vocabSize: number): Uint16Array<ArrayBuffer> {
  const even = 2 * Math.ceil(vocabSize / 2);
  const counts = new Uint16Array(sequences * even).fill(poison & 0xffff);
  rows.forEach(({ sequence, prompt, output = [] }, i) => {
    if (!prompt) return;
    const own = counts.subarray((sequence ?? i) * even, ((sequence ?? i) + 1) * even).fill(0);
    for (const token of output) own[token]++;
    for (const token of prompt) own[token] |= 0x8000;
  });
  return counts;
}

/** The logits that are sampled from, in float64; minus infinity where a token may not come. */
export function adjust(row: SampleRow): Float64Array {
  const { logits, allowedTokens, logitBias = [], banStopTokens, stopTokens = [], prompt = [], output = [] } = row;
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = row;
  const biases = new Map(logitBias);
  return Float64Array.from(logits, (given, token) => {
    if (allowedTokens && ((allowedTokens[token >> 5] >>> (token & 31)) & 1) === 0) return Number.NEGATIVE_INFINITY;
    if (banStopTokens && stopTokens.includes(token)) return Number.NEGATIVE_INFINITY;
    const often = output.filter((one) => one === token).length;
    let logit = given + (biases.get(token) ?? 0);
    if (often > 0 || prompt.includes(token)) logit = logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
    return logit - frequencyPenalty * often - (often > 0 ? presencePenalty : 0);
  });
}

/** Softmax in float64. */
export function probabilities(logits: ArrayLike<number>, temperature: number): Float64Array {
  const list = Float64Array.from(logits);
  const maximum = list.reduce((a, b) => Math.max(a, b));
  const weights = list.map((logit) => Math.exp((logit - maximum) / temperature));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

/**
 * The probability of each token after min-p, then top-k and then top-p, 0 for those cut off: by sorting, as the kernel does not. Tokens that tie
 * with the last one in stay in.
 */
export function allowed(row: SampleRow): Float64Array {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = row;
  const adjusted = adjust(row);
  const scaled = probabilities(adjusted, temperature);
  const least = minP * scaled.reduce((a, b) => Math.max(a, b));
  const logits = adjusted.map((logit, token) => (scaled[token] >= least ? logit : Number.NEGATIVE_INFINITY));
  const order = Array.from(logits, (_, token) => token).sort((a, b) => logits[b] - logits[a]);
  const keep = (threshold: number) => Float64Array.from(logits, (logit) => (logit >= threshold ? logit : Number.NEGATIVE_INFINITY));
  let kept = topK > 0 && topK < logits.length ? keep(logits[order[topK - 1]]) : keep(Number.NEGATIVE_INFINITY);
  if (topP < 1) {
    const chances = probabilities(kept, temperature);
    let mass = 0;
    let last = 0;
    for (const token of order) {
      mass += chances[token];
      last = token;
      if (mass >= topP) break;
    }
    kept = kept.map((logit) => (logit >= logits[last] ? logit : Number.NEGATIVE_INFINITY));
  }
  return probabilities(kept, temperature);
}
