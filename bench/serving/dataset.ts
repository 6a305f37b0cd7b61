/** What is asked: conversations of ShareGPT's form, or tokens at random. */
import type { Tokenizer } from 'pagewise/engine';
import type { Random } from '../../test/harness/random.ts';

/** One request to send. */
export interface SampleRequest {
  readonly prompt: string | readonly number[];
  readonly promptTokens: number;
  /** Tokens to generate. */
  readonly outputTokens: number;
}

/** As the original's filter has them. */
const limits = { prompt: [4, 1024], output: 4, together: 2048 } as const;

/**
 * Conversations of at least two turns, in random order: the first turn is the prompt, the second says how much is generated. Left out are
 * prompts of fewer than 4 or more than 1,024 tokens, answers of fewer than 4, and pairs of more than 2,048, or of more than the model holds.
 *
 * @param json the parsed file: an array of `{ conversations: [{ from, value }, ...] }`.
 */
export function shareGptRequests(
  json: unknown,
  count: number,
  tokenizer: Tokenizer,
  contextLength: number,
  random: Random,
): SampleRequest[] {
  if (!Array.isArray(json)) throw new Error('--dataset must be a JSON array of conversations, as ShareGPT has them.');
  const pairs = json.flatMap(({ conversations }: { conversations?: { value?: unknown }[] }) => {
    const [first, second] = conversations ?? [];
    return typeof first?.value === 'string' && typeof second?.value === 'string' ? [[first.value, second.value] as const] : [];
  });
  const requests: SampleRequest[] = [];
  for (const at of random.permutation(pairs.length)) {
    if (requests.length === count) break;
    const [prompt, answer] = pairs[at];
    const promptTokens = tokenizer.encode(prompt).length;
    const outputTokens = tokenizer.encode(answer, { addBos: false }).length;
    const fits = promptTokens + outputTokens <= Math.min(limits.together, contextLength);
    const [least, most] = limits.prompt;
    if (fits && promptTokens >= least && promptTokens <= most && outputTokens >= limits.output)
      requests.push({ prompt, promptTokens, outputTokens });
  }
  if (requests.length === 0) throw new Error('--dataset has no conversation of two turns that fits.');
  return requests;
}

/** Lengths of random requests. */
export interface RandomLengths {
  readonly input: number;
  readonly output: number;
  /** Lengths are uniform within so much of the given ones: 0 is always the same, 0.5 is half to one and a half. */
  readonly rangeRatio: number;
}

/**
 * Token ids that rise from a random one on; the first ids, special ones mostly, are left out. No two prompts begin with the same token as long as
 * there are others: starts are drawn without repetition. When all were drawn, they are drawn again and ids rise by one more, so that prompts of
 * the same start go on differently, for as many rounds as there are ids.
 */
export function randomRequests(count: number, lengths: RandomLengths, vocabSize: number, random: Random): SampleRequest[] {
  const firstId = Math.min(16, vocabSize - 1);
  const ids = vocabSize - firstId;
  const lengthOf = (around: number) => {
    const least = Math.max(1, Math.floor(around * (1 - lengths.rangeRatio)));
    return least + random.integer(Math.ceil(around * (1 + lengths.rangeRatio)) - least + 1);
  };
  let starts: readonly number[] = [];
  return Array.from({ length: count }, (_, i) => {
    if (i % ids === 0) starts = random.permutation(ids);
    const start = starts[i % ids];
    const rise = 1 + Math.floor(i / ids);
    const promptTokens = lengthOf(lengths.input);
    const prompt = Array.from({ length: promptTokens }, (_, k) => firstId + ((start + k * rise) % ids));
    return { prompt, promptTokens, outputTokens: lengthOf(lengths.output) };
  });
}
