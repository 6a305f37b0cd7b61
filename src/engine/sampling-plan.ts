/**
 * What a step tells the GPU about sampling. A row that asks for nothing special is nine words of the plan; the rest of what a row can ask for is a
 * record in a buffer of its own, the extensions, of which a step writes only what its rows need. Pure: needs no GPU.
 */
import type { PlanWriter } from '../attention/plan.ts';
import { maxLogitBiases, maxStopTokens, type SamplingParameters, usesPenalties } from './sampling.ts';

/** Words of a row of logits to sample from, in order. */
const sampling = [
  'SAMPLING_SEQUENCE', // where in `sampled` the token goes
  'SAMPLING_POSITION', // of the sampled token: with the seed, what makes it random
  'SAMPLING_TEMPERATURE', // f32
  'SAMPLING_TOP_K',
  'SAMPLING_TOP_P', // f32
  'SAMPLING_SEED',
  'SAMPLING_FLAGS', // below; from bit 8 on: where in the extensions the row's record begins
  'SAMPLING_STOPS', // where in the plan the stop tokens are
  'SAMPLING_NUM_STOPS',
] as const;
export const samplingWords = sampling.length;

const flags = {
  SAMPLING_FIRST: 1, // forget that an earlier owner of the sequence row was finished
  SAMPLING_LAST: 2, // of the sequence's rows in this step: the next step goes on from its token
  SAMPLING_PENALTIES: 4,
  SAMPLING_LOGPROBS: 8,
  SAMPLING_MASK: 16,
  SAMPLING_MIN_P: 32,
} as const;
const extensionShift = 8;
/** Words of extensions that the flags can point into. */
export const maxExtensionWords = 2 ** (32 - extensionShift);

/** The bias of a token that may not be chosen; `noScore` of shaders/attention/state.wgsl. */
const banned = Math.fround(-3e38);

/** Words of a record of the extensions, in order. Behind them: (token, f32 bias) pairs, tokens ascending; then the mask. */
const extension = [
  'EXTENSION_MIN_P', // f32, the logarithm of min-p times the temperature: how far below the largest logit tokens stay in
  'EXTENSION_REPETITION', // f32
  'EXTENSION_PRESENCE', // f32
  'EXTENSION_FREQUENCY', // f32
  'EXTENSION_NUM_TOP', // likeliest tokens that come back
  'EXTENSION_NUM_BIASES',
] as const;
const extensionWords = extension.length;

/** Words of a result: token, 1 where it or an earlier one ends the sequence; then, where rows ask: f32 log-probability, pairs (token, f32). */
export const plainResultWords = 2;

/** WGSL constants of the layout above. */
export const samplingPrelude = [
  ...sampling.map((name, index) => `const ${name} = ${index}u;`),
  ...Object.entries(flags).map(([name, bit]) => `const ${name} = ${bit}u;`),
  ...extension.map((name, index) => `const ${name} = ${index}u;`),
  `const SAMPLING_WORDS = ${samplingWords}u;`,
  `const EXTENSION_SHIFT = ${extensionShift}u;`,
  `const EXTENSION_WORDS = ${extensionWords}u;`,
  `const PLAIN_RESULT_WORDS = ${plainResultWords}u;`,
].join('\n');

/** Words of the plan that sampling can need. */
export const samplingPlanWords = (maxRows: number): number => maxRows * samplingWords + Math.max(1024, maxRows * maxStopTokens);

/** Words of the extensions that a step can need. */
export const samplingExtensionWords = (maxRows: number, vocabSize: number): number =>
  extensionWords + maxRows * (extensionWords + 2 * (maxLogitBiases + maxStopTokens) + maskWords(vocabSize));

/** Words of a mask of allowed tokens. */
export const maskWords = (vocabSize: number): number => Math.ceil(vocabSize / 32);

/** One row of logits to sample from. */
export interface SampledRow {
  /** The sequence's row of `sampled`. */
  readonly tableRow: number;
  /** Of the token to sample. */
  readonly position: number;
  readonly parameters: SamplingParameters;
  /** The first sampling of its sequence on this row. */
  readonly first: boolean;
  /** The last row of its sequence in this step. */
  readonly last: boolean;
}

/** Whether a row asks for more than the plain kernel does. */
export function needsExtension(parameters: SamplingParameters): boolean {
  const { temperature, minP = 0, logitBias = [], banStopTokens = false, stopTokens, allowedTokens, logprobs } = parameters;
  const minimum = minP > 0 && temperature > 0;
  const bans = banStopTokens && stopTokens.length > 0;
  return minimum || bans || logitBias.length > 0 || allowedTokens !== undefined || logprobs !== undefined || usesPenalties(parameters);
}

/** The words of a step's extensions, and how many there are; made once. */
export class Extensions {
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly f32: Float32Array<ArrayBuffer>;
  length = 0;

  /** @param capacity words, see `samplingExtensionWords`. */
  constructor(capacity: number) {
    this.u32 = new Uint32Array(capacity);
    this.f32 = new Float32Array(this.u32.buffer);
  }

  /** Forgets the last step's. The first record is all zeros, for rows without one. */
  begin(): void {
    this.length = extensionWords;
  }

  /** Adds a row's record. @returns the row's flags that go with it, and where it is. */
  add(parameters: SamplingParameters, vocabSize: number): number {
    const { temperature, minP = 0, repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = parameters;
    const { allowedTokens, logprobs } = parameters;
    const biases = biasesOf(parameters, vocabSize);
    const at = this.length;
    const minimum = minP > 0 && temperature > 0;
    this.f32.set([minimum ? Math.max(-1e30, Math.log(minP) * temperature) : 0, repetitionPenalty, presencePenalty, frequencyPenalty], at);
    this.u32.set([Math.min(logprobs ?? 0, vocabSize), biases.length], at + 4);
    let end = at + extensionWords;
    for (const [token, bias] of biases) {
      this.u32[end++] = token;
      this.f32[end++] = bias;
    }
    if (allowedTokens) {
      this.u32.set(allowedTokens, end);
      end += allowedTokens.length;
    }
    this.length = end;
    let set = at << extensionShift;
    if (usesPenalties(parameters)) set |= flags.SAMPLING_PENALTIES;
    if (logprobs !== undefined) set |= flags.SAMPLING_LOGPROBS;
    if (allowedTokens) set |= flags.SAMPLING_MASK;
    if (minimum) set |= flags.SAMPLING_MIN_P;
    return set;
  }
}

/** Biases and bans, tokens ascending. */
function biasesOf(parameters: SamplingParameters, vocabSize: number): readonly (readonly [token: number, bias: number])[] {
  const { logitBias = [], banStopTokens, stopTokens, allowedTokens } = parameters;
  if (!banStopTokens || (allowedTokens && allowsOnly(allowedTokens, vocabSize, stopTokens))) return logitBias;
  const others = logitBias.filter(([token]) => !stopTokens.includes(token));
  return [...others, ...stopTokens.map((token) => [token, banned] as const)].sort(([a], [b]) => a - b);
}

/** Whether a mask allows none but these tokens. */
export function allowsOnly(mask: Uint32Array, vocabSize: number, tokens: readonly number[]): boolean {
  return mask.every((word, index) => {
    const rest = vocabSize - 32 * index;
    let bits = rest < 32 ? word & ((1 << rest) - 1) : word;
    for (const token of tokens) if (bits !== 0 && token >>> 5 === index) bits &= ~(1 << (token & 31));
    return bits === 0;
  });
}

/**
 * Writes the rows into the plan, and what is special about them into the extensions.
 * @returns words of the results of each row, and whether any row has an extension.
 */
export function packSampling(
  writer: PlanWriter,
  extensions: Extensions,
  rows: readonly SampledRow[],
  vocabSize: number,
): { readonly resultWords: number; readonly extended: boolean } {
  const words = writer.section('SAMPLING', rows.length * samplingWords);
  let stops: readonly number[] | undefined;
  let logprobs = -1;
  let extended = false;
  extensions.begin();
  rows.forEach(({ tableRow, position, parameters, first, last }, row) => {
    const { temperature, topK, topP, seed, stopTokens } = parameters;
    if (stopTokens !== stops) {
      stops = stopTokens;
      writer.section('STOP_TOKENS', stops.length).u32.set(stops);
    }
    let set = (first ? flags.SAMPLING_FIRST : 0) | (last ? flags.SAMPLING_LAST : 0);
    if (needsExtension(parameters)) {
      extended = true;
      set |= extensions.add(parameters, vocabSize);
      logprobs = Math.max(logprobs, Math.min(parameters.logprobs ?? -1, vocabSize));
    }
    const at = row * samplingWords;
    words.u32.set([tableRow, position, 0, topK, 0, seed, set, writer.read('STOP_TOKENS'), stopTokens.length], at);
    words.f32[at + 2] = Math.min(temperature, 1e30); // finite in 32 bits
    words.f32[at + 4] = topP;
  });
  return { resultWords: logprobs < 0 ? plainResultWords : resultWordsFor(logprobs), extended };
}

/** Words of a result with so many likeliest tokens. */
export const resultWordsFor = (top: number): number => plainResultWords + 1 + 2 * top;
