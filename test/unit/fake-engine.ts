/** An engine without a GPU: tokens are the code points of a text, and what it writes is the alphabet. */
import { ContextLengthError, EngineBusyError, InvalidArgumentError } from 'pagewise';
import type {
  FinishReason,
  GenerateOptions,
  Generation,
  GenerationChunk,
  GenerationResult,
  Tokenizer,
  TokenLogprob,
} from 'pagewise/engine';
import type { ServingEngine } from 'pagewise/serve';

export interface FakeEngine extends ServingEngine {
  /** The options of each generation, in order. */
  readonly asked: { readonly promptIds: readonly number[]; readonly options: GenerateOptions }[];
  /** Generations that have begun and not ended. */
  running(): number;
  /** Tokens made so far. */
  made(): number;
  /** The next generations fail with this after their third token. */
  failWith(error: unknown): void;
}

const alphabet = 'abcdefghijklmnopqrstuvwxyz';

const tokenizer: Tokenizer = {
  bosTokenId: undefined,
  specialTokens: [],
  encode: (text) => [...text].map((letter) => letter.codePointAt(0) ?? 0),
  decode: (ids) => ids.map((id) => String.fromCodePoint(id)).join(''),
  stream: () => ({ push: (id) => String.fromCodePoint(id), flush: () => '' }),
  idOf: (token) => token.codePointAt(0),
  vocabulary: () => ({ tokens: [], spelling: 'raw' }),
};

export function fakeEngine({
  contextLength = 1000,
  maxSequenceLength = 1000,
  maxSequences = 8,
  maxWaiting = 100,
  withTokenizer = true,
} = {}): FakeEngine {
  const asked: FakeEngine['asked'] = [];
  let running = 0;
  let made = 0;
  let failure: unknown;

  function generate(prompt: string | readonly number[], options: GenerateOptions = {}): Generation {
    const promptIds = typeof prompt === 'string' ? tokenizer.encode(prompt) : prompt;
    if (running >= maxWaiting) throw new EngineBusyError(running);
    if (promptIds.length >= contextLength) throw new ContextLengthError(promptIds.length, contextLength);
    if (options.stopTokens?.includes(999)) throw new InvalidArgumentError('stopTokens', 999, 'token ids of the vocabulary');
    asked.push({ promptIds, options });
    const { maxTokens = 5, n = 1, logprobs } = options;
    const fails = failure;
    const choices = Array.from({ length: n }, (_, index) => ({
      index,
      text: '',
      ids: [] as number[],
      finishReason: 'abort' as FinishReason,
      logprobs: logprobs === undefined ? undefined : ([] as TokenLogprob[]),
    }));
    const stop = new AbortController();
    const stopped = () => stop.signal.aborted || options.signal?.aborted === true;
    let settle: { resolve(result: GenerationResult): void; reject(error: unknown): void } = { resolve() {}, reject() {} };
    const promised = new Promise<GenerationResult>((resolve, reject) => {
      settle = { resolve, reject };
    });
    promised.catch(() => {});
    running++;
    let ended = false;
    const end = (error?: unknown) => {
      if (ended) return;
      ended = true;
      running--;
      if (error) return settle.reject(error);
      const stats = { promptTokens: promptIds.length, outputTokens: choices[0].ids.length, queueTime: 2, timeToFirstToken: 30 };
      const figures = { tokensPerSecond: 0, launchesPerToken: 0, pipelinesCompiled: 0, hostTimePerStep: 0, runAhead: 1 };
      const [{ text, ids, finishReason }] = choices;
      settle.resolve({ text, ids, finishReason, promptIds, choices, cachedTokens: 3, stats: { ...stats, ...figures } });
    };
    for (const signal of [stop.signal, options.signal]) signal?.addEventListener('abort', () => end());

    async function* chunks(): AsyncGenerator<GenerationChunk, void> {
      try {
        for (let step = 0; step < maxTokens; step++) {
          await new Promise((resolve) => setTimeout(resolve));
          for (const choice of choices) {
            if (stopped()) return;
            if (fails && step === 3) throw fails;
            made++;
            const text = alphabet[(step + choice.index) % 26];
            const token = text.codePointAt(0) ?? 0;
            choice.text += text;
            choice.ids.push(token);
            const last = step === maxTokens - 1;
            if (last) choice.finishReason = 'length';
            const likely = { token, logprob: -0.5, top: [{ token, logprob: -0.5 }].slice(0, logprobs) };
            choice.logprobs?.push(likely);
            yield {
              ...{ index: choice.index, text, ids: [token], finishReason: last ? 'length' : undefined },
              ...(logprobs === undefined ? {} : { logprobs: [likely] }),
            };
          }
        }
        end();
      } catch (error) {
        end(error);
        throw error;
      } finally {
        stop.abort();
      }
    }
    return {
      promptIds,
      result: promised,
      stats: () => ({
        ...{ promptTokens: 0, outputTokens: 0, timeToFirstToken: 0, tokensPerSecond: 0, launchesPerToken: 0 },
        ...noFigures,
      }),
      abort: () => stop.abort(),
      [Symbol.asyncIterator]: chunks,
    };
  }

  return {
    asked,
    maxSequenceLength,
    maxSequences,
    maxWaiting,
    generate,
    tokenizer: withTokenizer ? tokenizer : undefined,
    running: () => running,
    made: () => made,
    failWith: (error) => {
      failure = error;
    },
    stats: () => ({
      ...{ running, waiting: 1, kvUsage: 0.25, prefixQueries: 40, prefixHits: 16, preemptions: 2 },
      ...{ promptTokens: 40, generatedTokens: made, draftedTokens: 7, acceptedTokens: 5, steps: 9, hostTime: 1 },
    }),
  };
}

const noFigures = { pipelinesCompiled: 0, hostTimePerStep: 0, runAhead: 1 };
