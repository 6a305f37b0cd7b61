import type { GenerateOptions } from '../engine/index.ts';
import type { CommonBody } from './schema.ts';

/** The engine's options of a request, but for tokens' log probabilities and the abort signal. */
export function generateOptions(body: CommonBody): GenerateOptions {
  const given: { -readonly [Name in keyof GenerateOptions]: GenerateOptions[Name] | null } = {
    maxTokens: body.max_tokens,
    minTokens: body.min_tokens,
    temperature: body.temperature,
    topP: body.top_p,
    topK: body.top_k === -1 ? 0 : body.top_k,
    minP: body.min_p,
    repetitionPenalty: body.repetition_penalty,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    logitBias: body.logit_bias,
    // The engine's seeds have 32 bits.
    seed: typeof body.seed === 'number' ? ((body.seed % 2 ** 32) + 2 ** 32) % 2 ** 32 : undefined,
    stop: body.stop,
    stopTokens: body.stop_token_ids,
    ignoreEos: body.ignore_eos,
    n: body.n,
    priority: body.priority,
    cacheSalt: body.cache_salt,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && value !== null)) as GenerateOptions;
}
