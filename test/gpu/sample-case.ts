/** Runs the sampling kernel on rows of logits, and says on the host which tokens may come. */
import { PlanWriter, samplingWords } from '../../src/attention/plan.ts';
import { sampleInvocations, sampleKernel } from '../../src/engine/kernels.ts';
import { LaunchCache } from '../../src/index.ts';
import { readBuffer, type SpecContext, uploadBuffer } from '../harness/harness.ts';
import { submit } from './tiny.ts';

export interface SampleRow {
  readonly logits: Float32Array;
  /** Default 1. */
  readonly temperature?: number;
  /** Default 0: all. */
  readonly topK?: number;
  /** Default 1: all. */
  readonly topP?: number;
  readonly seed?: number;
  readonly position?: number;
  /** Where in `sampled` the token goes; default: the row's number. */
  readonly sequence?: number;
  readonly first?: boolean;
  readonly stopTokens?: readonly number[];
}

export interface Sampled {
  readonly token: number;
  readonly finished: number;
}

/** What unwritten entries of `sampled` hold. */
export const untouched: Sampled = { token: 123456, finished: 7 };

/** A buffer of sampled tokens, and a function that samples rows into it and reads all of it back. */
export async function openSampler(
  t: SpecContext,
  sequences: number,
  { initial = untouched, invocations = sampleInvocations(t.gpu.adapter) }: { initial?: Sampled; invocations?: number } = {},
) {
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const pairs = Array.from({ length: sequences }, () => [initial.token, initial.finished]).flat();
  const sampled = uploadBuffer(t, Uint32Array.from(pairs));
  return async (rows: readonly SampleRow[]): Promise<Sampled[]> => {
    const vocabSize = rows[0].logits.length;
    const logits = new Float32Array(rows.length * vocabSize);
    rows.forEach((row, i) => {
      logits.set(row.logits, i * vocabSize);
    });
    const plan = planOf(rows);
    const args = { invocations, logits: uploadBuffer(t, logits), plan: uploadBuffer(t, plan), sampled, vocabSize, numRows: rows.length };
    const site = await cache.prepare(sampleKernel, args);
    submit(cache, (pass) => site.record(pass, args));
    const words = new Uint32Array(await readBuffer(t.gpu, sampled));
    args.logits.destroy();
    return Array.from({ length: sequences }, (_, i) => ({ token: words[2 * i], finished: words[2 * i + 1] }));
  };
}

function planOf(rows: readonly SampleRow[]): Uint32Array<ArrayBuffer> {
  const stops = rows.reduce((sum, { stopTokens = [] }) => sum + stopTokens.length, 0);
  const writer = new PlanWriter(64 + rows.length * samplingWords + stops);
  writer.begin();
  writer.section('POSITIONS', 2).u32.fill(0xffffffff);
  const { u32, f32 } = writer.section('SAMPLING', rows.length * samplingWords);
  rows.forEach((row, i) => {
    const { temperature = 1, topK = 0, topP = 1, seed = 0, position = 0, sequence = i, first = false, stopTokens = [] } = row;
    const section = writer.section('STOP_TOKENS', stopTokens.length);
    section.u32.set(stopTokens);
    const at = i * samplingWords;
    u32.set([sequence, position, 0, topK, 0, seed, first ? 1 : 0, writer.read('STOP_TOKENS'), stopTokens.length], at);
    f32[at + 2] = temperature;
    f32[at + 4] = topP;
  });
  return writer.words;
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
 * The probability of each token after top-k and then top-p, 0 for those cut off: by sorting, as the kernel does not. Tokens that tie with
 * the last one in stay in.
 */
export function allowed({ logits, temperature = 1, topK = 0, topP = 1 }: SampleRow): Float64Array {
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
