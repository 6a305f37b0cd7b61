/**
 * Guesses of the next tokens without a second model: what followed the last tokens where they stood before (Saxena 2023, "Prompt Lookup Decoding"; vLLM's `ngram`
 * speculation). Pure.
 */

/** How far to guess, and from what. */
export interface PromptLookup {
  /** Most tokens of a guess. */
  readonly numTokens: number;
  /** Longest run of last tokens that is looked for; it is tried before shorter ones. */
  readonly maxNgram: number;
  /** Shortest. */
  readonly minNgram: number;
}

/**
 * A guess of the tokens behind `ids`: the longest run of its last tokens, from `maxNgram` to `minNgram`, that stands in `ids` before its end; there the latest place that
 * has `numTokens` behind it, else the place that has most. What followed is the guess, which may run on into those last tokens themselves. Empty where nothing stood before.
 *
 * One pass over `ids` from its end: O(length * maxNgram) comparisons at worst, and next to none of them for text.
 */
export function draft(ids: readonly number[], { numTokens, maxNgram, minNgram }: PromptLookup): number[] {
  const { length } = ids;
  let best = 0;
  let place = 0;
  // `end` is behind a run that is compared with the last tokens.
  for (let end = length - 1; end >= minNgram; end--) {
    const run = commonRun(ids, end, maxNgram);
    if (run < minNgram || run < best) continue;
    if (run > best || length - place < numTokens) [best, place] = [run, end];
    if (best === maxNgram && length - place >= numTokens) break;
  }
  return best > 0 ? ids.slice(place, place + numTokens) : [];
}

/** How many tokens before `end` are those at the end of all, `most` at most. */
function commonRun(ids: readonly number[], end: number, most: number): number {
  const { length } = ids;
  let run = 0;
  while (run < most && run < end && ids[end - 1 - run] === ids[length - 1 - run]) run++;
  return run;
}
