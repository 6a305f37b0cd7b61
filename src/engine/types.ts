/** How far loading has come. `loaded` and `total` are bytes of model files. */
export interface LoadProgress {
  readonly phase: 'files' | 'weights' | 'pipelines';
  readonly loaded: number;
  readonly total: number;
}

/** Options of one generation. Values left out come from the model's generation_config.json, else temperature 0.7 and top-k 40. */
export interface GenerateOptions {
  /** Most tokens to write; default: what the context has room for. */
  readonly maxTokens?: number;
  /** 0 = greedy. */
  readonly temperature?: number;
  /** Sample among the k likeliest tokens; 0 = all. */
  readonly topK?: number;
  /** Sample among the fewest tokens whose probabilities reach this sum; 1 = all. */
  readonly topP?: number;
  /** Same seed, same text (on one host and adapter). Default: random. */
  readonly seed?: number;
  /** Steps submitted before the first readback returns, 1 to 32; default: the engine's. */
  readonly runAhead?: number;
  /** Read special tokens such as <|endoftext|> in the prompt as tokens, not as text. Default false. */
  readonly parseSpecial?: boolean;
  readonly signal?: AbortSignal;
}

/** A piece of text as it becomes known: only whole UTF-8 sequences, so `ids` may hold several tokens, and text may be empty. */
export interface GenerationChunk {
  readonly text: string;
  readonly ids: readonly number[];
}

export interface GenerationStats {
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Milliseconds from the call to the first token on the host. */
  readonly timeToFirstToken: number;
  /** Tokens after the first over the time after the first. */
  readonly tokensPerSecond: number;
  /** Kernel launches of one decode step. */
  readonly launchesPerToken: number;
  /** Pipelines compiled since the engine was opened. */
  readonly pipelinesCompiled: number;
  /** Milliseconds the host spends planning, recording and submitting one decode step (mean). */
  readonly hostTimePerStep: number;
  /** Depth of run-ahead used. */
  readonly runAhead: number;
}

export interface GenerationResult {
  readonly text: string;
  readonly promptIds: readonly number[];
  readonly ids: readonly number[];
  readonly finishReason: 'stop' | 'length' | 'abort';
  readonly stats: GenerationStats;
}

/** A running generation: iterate it for text as it comes; `result` settles when it has ended. */
export interface Generation extends AsyncIterable<GenerationChunk> {
  readonly promptIds: readonly number[];
  readonly result: Promise<GenerationResult>;
  /** The figures so far. */
  stats(): GenerationStats;
}
