/** How far loading has come. `loaded` and `total` are bytes of model files. */
export interface LoadProgress {
  readonly phase: 'files' | 'weights' | 'pipelines';
  readonly loaded: number;
  readonly total: number;
}

/** Options of one generation. Values left out come from the model's generation_config.json, else temperature 0.7 and top-k 40. */
export interface GenerateOptions {
  /** Most tokens to write; default and most: what the context and the KV blocks have room for. */
  readonly maxTokens?: number;
  /** Stop tokens are not sampled before so many tokens, and stop strings that they complete do not count; default 0. */
  readonly minTokens?: number;
  /** 0 = greedy. */
  readonly temperature?: number;
  /** Sample among the k likeliest tokens; 0 = all. */
  readonly topK?: number;
  /** Sample among the fewest tokens whose probabilities reach this sum; 1 = all. */
  readonly topP?: number;
  /** Sample among tokens at least so likely, relative to the likeliest; 0 = all. */
  readonly minP?: number;
  /** Above 1 makes tokens of prompt and output less likely; 1 = none. */
  readonly repetitionPenalty?: number;
  /** Taken from the logits of tokens that the output has; 0 = none. */
  readonly presencePenalty?: number;
  /** Taken from the logits of the output's tokens, for each time; 0 = none. */
  readonly frequencyPenalty?: number;
  /** Added to the logits of token ids; -100 bans. */
  readonly logitBias?: Readonly<Record<number, number>>;
  /** Same seed, same text (on one host and adapter). Default: random. */
  readonly seed?: number;
  /** Texts that end the generation and are no part of it, up to 16. */
  readonly stop?: string | readonly string[];
  /** Tokens that end the generation, beside the model's. */
  readonly stopTokens?: readonly number[];
  /** Write on after the model's end token. */
  readonly ignoreEos?: boolean;
  /** Samples of one prompt, which is computed once; default 1. */
  readonly n?: number;
  /** Give the log probability of each token, and those of so many likeliest ones, 0 to 20. */
  readonly logprobs?: number;
  /**
   * Which tokens may come next, asked before each one: given the ids written so far, a mask of u32 [ceil(vocabSize / 32)] with bit `token % 32` of word
   * `token / 32` set for those allowed, or undefined for all. Each token then waits for the one before it to reach the host, for this request alone.
   */
  readonly allowedTokens?: AllowedTokens;
  /**
   * Guess tokens from what stands in prompt and output, and let one step verify several: the same tokens, in fewer steps where texts repeat themselves. Such a request
   * does not run ahead, since a guess needs the tokens before it. Not together with penalties or `allowedTokens`. Default: the engine's; false: none.
   */
  readonly speculate?: Speculation | false;
  /** Lower goes first; default 0. */
  readonly priority?: number;
  /** Keeps prefixes apart that are equal: only requests of one salt share cached blocks. */
  readonly cacheSalt?: string;
  /** Steps submitted before the first readback returns, 1 to 32; default: the engine's. */
  readonly runAhead?: number;
  /** Read special tokens such as <|endoftext|> in the prompt as tokens, not as text. Default false. */
  readonly parseSpecial?: boolean;
  readonly signal?: AbortSignal;
}

/** Prompt lookup: the last tokens are looked for in all before them, and what followed there is the guess. */
export interface Speculation {
  /** Most tokens of a guess, 1 to 15. */
  readonly numTokens: number;
  /** Longest run of last tokens to look for, up to 32; default 3. */
  readonly maxNgram?: number;
  /** Shortest, from 1; default 1. */
  readonly minNgram?: number;
}

/** See `GenerateOptions.allowedTokens`. What it throws rejects the generation. With `n`, each sample asks, and says which it is. */
export type AllowedTokens = (ids: readonly number[], index: number) => Uint32Array | undefined;

/** How likely a token was, and which ones were likeliest in its place. */
export interface TokenLogprob {
  readonly token: number;
  readonly logprob: number;
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

export type FinishReason = 'stop' | 'length' | 'abort';

/** A piece of text as it becomes known: only whole UTF-8 sequences, so `ids` may hold several tokens, and text may be empty. */
export interface GenerationChunk {
  /** Which of the `n` samples. */
  readonly index: number;
  readonly text: string;
  readonly ids: readonly number[];
  readonly logprobs?: readonly TokenLogprob[];
  /** With the last chunk of a sample. */
  readonly finishReason?: FinishReason;
}

export interface GenerationStats {
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Milliseconds from the call to the first step with some of it; undefined: none yet. */
  readonly queueTime?: number;
  /** Milliseconds from the call to the first token on the host. */
  readonly timeToFirstToken: number;
  /** Tokens after the first over the time after the first. */
  readonly tokensPerSecond: number;
  /** Kernel launches of one decode step. */
  readonly launchesPerToken: number;
  /** Pipelines compiled since the engine was opened. */
  readonly pipelinesCompiled: number;
  /** Milliseconds the host spends scheduling, planning, recording and submitting one decode step (mean), whatever else is in the step. */
  readonly hostTimePerStep: number;
  /** Depth of run-ahead used. */
  readonly runAhead: number;
  /** Tokens that were guessed and verified (`speculate`), and those of them that turned out right. */
  readonly draftedTokens?: number;
  readonly acceptedTokens?: number;
}

/** One of the samples of a generation. */
export interface GenerationChoice {
  readonly index: number;
  readonly text: string;
  readonly ids: readonly number[];
  readonly finishReason: FinishReason;
  readonly logprobs?: readonly TokenLogprob[];
}

/** `text`, `ids` and `finishReason` are those of the first sample. */
export interface GenerationResult {
  readonly text: string;
  readonly promptIds: readonly number[];
  readonly ids: readonly number[];
  readonly finishReason: FinishReason;
  readonly stats: GenerationStats;
  readonly choices: readonly GenerationChoice[];
  /** Tokens of the prompt that were found in the prefix cache. */
  readonly cachedTokens: number;
}

/**
 * A running generation: iterate it for text as it comes; `result` settles when it has ended. Breaking off the iteration aborts it. Once somebody iterates,
 * a generation with more than 256 unread chunks waits until they are read.
 */
export interface Generation extends AsyncIterable<GenerationChunk> {
  readonly promptIds: readonly number[];
  readonly result: Promise<GenerationResult>;
  /** The figures so far. */
  stats(): GenerationStats;
  /** Ends it: its blocks are free within a step. */
  abort(): void;
}

/** What an engine does now, and has done since it was loaded. */
export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  /** Share of the KV blocks in use, 0 to 1. */
  readonly kvUsage: number;
  /** Tokens looked for in the prefix cache. */
  readonly prefixQueries: number;
  /** Tokens found there. */
  readonly prefixHits: number;
  readonly preemptions: number;
  /** Of prompts that have begun to run, computed or found. */
  readonly promptTokens: number;
  readonly generatedTokens: number;
  /** Tokens that were guessed and verified, and those of them that turned out right. */
  readonly draftedTokens: number;
  readonly acceptedTokens: number;
  /** Steps submitted. */
  readonly steps: number;
  /** Milliseconds of scheduling, planning, recording and submitting them, in total. */
  readonly hostTime: number;
}
