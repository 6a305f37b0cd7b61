import type { GenerationSpec } from './options.ts';
import { draft } from './prompt-lookup.ts';
import type { SampledToken } from './readback.ts';
import { createRequest, outputLength, type Request } from './request.ts';
import type { SamplingParameters } from './sampling.ts';
import { createStopText, type StopText } from './stop-text.ts';
import type { TextStream } from './tokenizer.ts';
import type { FinishReason, GenerationChoice, GenerationChunk, TokenLogprob } from './types.ts';

/** One sample of a generation: its request, and what has become of its tokens. */
export class Choice {
  readonly index: number;
  readonly request: Request;
  readonly ids: number[] = [];
  text = '';
  finishReason: FinishReason | undefined;
  readonly #spec: GenerationSpec;
  readonly #stream: TextStream | undefined;
  readonly #stops: StopText;
  readonly #logprobs: TokenLogprob[] | undefined;
  readonly #parameters: SamplingParameters;
  /** The same while stop tokens are banned. */
  readonly #early: SamplingParameters;
  /** How many tokens the last guess was made from. */
  #guessedAt = 0;
  /** The host's opinion of the next token, and for how many tokens before it. */
  #mask: { readonly length: number; readonly allowed: Uint32Array | undefined } | undefined;

  /** @param forkOf the first sample of the prompt, for those after it. */
  constructor(index: number, spec: GenerationSpec, stream: TextStream | undefined, forkOf: Request | undefined) {
    const { promptIds, maxTokens, priority, cacheSalt, runAhead } = spec;
    this.index = index;
    this.#spec = spec;
    this.#stream = stream;
    this.#stops = createStopText(spec.stops);
    this.request = createRequest({ promptIds, maxTokens, priority, cacheSalt, maxInFlight: runAhead, forkOf });
    const parameters = spec.sampling[index];
    this.#parameters = { ...parameters, banStopTokens: false };
    this.#early = { ...parameters, banStopTokens: true };
    if (parameters.logprobs !== undefined) this.#logprobs = [];
  }

  get result(): GenerationChoice {
    const { index, text, ids, finishReason = 'abort' } = this;
    return { index, text, ids, finishReason, ...(this.#logprobs && { logprobs: this.#logprobs }) };
  }

  /**
   * Asks which tokens may come next, or guesses which will, where the request wants it and all tokens before are known. Call it before a step is scheduled.
   * @param check throws for a mask that cannot be used.
   */
  consult(check: (parameters: SamplingParameters) => void): void {
    const { allowedTokens } = this.#spec;
    const length = outputLength(this.request);
    this.#guess(length);
    if (!allowedTokens || this.request.inFlight > 0 || this.#mask?.length === length) return;
    const allowed = allowedTokens(this.ids, this.index);
    check({ ...this.#parameters, allowedTokens: allowed });
    this.#mask = { length, allowed };
  }

  /** Guesses are verified: rows of a step may turn out never to have been. */
  get speculates(): boolean {
    return this.#spec.speculate !== undefined;
  }

  /** How to sample the token of that place in the output. */
  parametersAt(place: number): SamplingParameters {
    const parameters = place < this.#spec.minTokens ? this.#early : this.#parameters;
    return this.#mask?.allowed ? { ...parameters, allowedTokens: this.#mask.allowed } : parameters;
  }

  /** Whether it has no more than its fewest tokens, whose text no stop string ends. */
  get #isEarly(): boolean {
    return this.ids.length <= this.#spec.minTokens;
  }

  #guess(outputLength: number): void {
    const { speculate } = this.#spec;
    const { request } = this;
    if (!speculate || request.inFlight > 0 || outputLength === 0 || this.#guessedAt === request.tokens.length) return;
    this.#guessedAt = request.tokens.length;
    request.draft = draft(request.tokens, speculate);
  }

  /** Takes in the next token. Once it was the last, `finishReason` says why. */
  take({ token, finished, logprob, top }: SampledToken): GenerationChunk {
    this.ids.push(token);
    const logprobs = logprob === undefined ? undefined : [{ token, logprob, top: top ?? [] }];
    if (logprobs) this.#logprobs?.push(...logprobs);
    const piece = finished ? '' : (this.#stream?.push(token) ?? '');
    const { text, stopped } = this.#stops.push(piece, this.#isEarly);
    const reason = finished || stopped ? 'stop' : this.ids.length === this.#spec.maxTokens ? 'length' : undefined;
    return this.#give(text, [token], logprobs, reason, stopped);
  }

  /** Ends it before its time. */
  abort(): GenerationChunk {
    return this.#give('', [], undefined, 'abort', false);
  }

  /** @param stopped at a stop string: what was held back behind it is no part of the text. */
  #give(
    certain: string,
    ids: readonly number[],
    logprobs: readonly TokenLogprob[] | undefined,
    finishReason: FinishReason | undefined,
    stopped: boolean,
  ): GenerationChunk {
    let text = certain;
    let reason = finishReason;
    if (reason && !stopped) {
      const last = this.#stops.push(this.#stream?.flush() ?? '', this.#isEarly);
      text += last.text + this.#stops.flush();
      if (last.stopped) reason = 'stop';
    }
    this.text += text;
    this.finishReason = reason;
    return { index: this.index, text, ids, ...(logprobs && { logprobs }), ...(reason && { finishReason: reason }) };
  }
}
