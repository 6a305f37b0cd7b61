/** Log probabilities in the forms of both APIs. */
import type { Tokenizer, TokenLogprob } from '../engine/index.ts';

/** As `/v1/completions` gives them. */
export interface CompletionLogprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly number[];
  /** The likeliest of each place, likeliest first, and the token that was sampled: one more where it is not among them. */
  readonly top_logprobs: readonly Readonly<Record<string, number>>[] | null;
  /** Where each token begins in the choice's text. */
  readonly text_offset: readonly number[];
}

/** As `/v1/chat/completions` gives them. */
export interface ChatLogprobs {
  readonly content: readonly (ChatToken & { readonly top_logprobs: readonly ChatToken[] })[];
}

interface ChatToken {
  readonly token: string;
  readonly logprob: number;
  /** UTF-8 of the token; null where it is a part of a character, whose bytes a tokenizer does not tell. */
  readonly bytes: readonly number[] | null;
}

/** @param offset the length of the choice's tokens so far, as text */
export function completionLogprobs(
  tokenizer: Tokenizer | undefined,
  logprobs: readonly TokenLogprob[],
  offset: number,
): CompletionLogprobs {
  const name = (token: number) => nameOf(tokenizer, token);
  const tokens = logprobs.map(({ token }) => name(token));
  let at = offset;
  return {
    tokens,
    token_logprobs: logprobs.map(({ logprob }) => logprob),
    top_logprobs: logprobs.some(({ top }) => top.length > 0) ? logprobs.map((one) => byName(one, name)) : null,
    text_offset: tokens.map((token) => {
      const start = at;
      at += token.length;
      return start;
    }),
  };
}

/** Several tokens may have one name, such as parts of characters: the likeliest of them has it. */
function byName(sampled: TokenLogprob, name: (token: number) => string): Record<string, number> {
  const named = new Map<string, number>();
  for (const { token, logprob } of [...sampled.top, sampled]) {
    const key = name(token);
    named.set(key, Math.max(logprob, named.get(key) ?? logprob));
  }
  return Object.fromEntries(named);
}

export function chatLogprobs(tokenizer: Tokenizer | undefined, logprobs: readonly TokenLogprob[]): ChatLogprobs {
  const describe = ({ token, logprob }: { readonly token: number; readonly logprob: number }): ChatToken => {
    const text = nameOf(tokenizer, token);
    return { token: text, logprob, bytes: text.includes('\uFFFD') ? null : [...new TextEncoder().encode(text)] };
  };
  return { content: logprobs.map((one) => ({ ...describe(one), top_logprobs: one.top.map(describe) })) };
}

/** A token's text; without a tokenizer its number. */
function nameOf(tokenizer: Tokenizer | undefined, token: number): string {
  return tokenizer?.decode([token], { skipSpecial: false }) ?? `token_id:${token}`;
}
