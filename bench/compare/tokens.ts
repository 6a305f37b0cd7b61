/** What makes tokens right: pure functions on ids and logits. */

/** What transformers made of a prompt, in f32; test/golden/golden.json. */
export interface Golden {
  readonly ids: readonly number[];
  readonly greedy_ids: readonly number[];
}

/** The likeliest token, as transformers.js finds it: over logits on the host. */
export function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token] > logits[best]) best = token;
  return best;
}

/** How much less likely than the likeliest token this one is, as a difference of logits; 0: it is the likeliest. NaN where a logit is. */
export function behindBest(logits: Float32Array, token: number): number {
  return logits.reduce((a, b) => Math.max(a, b)) - logits[token];
}

/** @throws {Error} where our tokens are not those of transformers, as far as these go. */
export function expectGolden(ours: readonly number[], { greedy_ids }: Golden): void {
  const at = firstDifference(ours.slice(0, greedy_ids.length), greedy_ids.slice(0, ours.length));
  if (at >= 0) throw new Error(`Our token ${at + 1} is ${ours[at]}, not ${greedy_ids[at]} as in test/golden/golden.json.`);
}

/**
 * Holds another's logits against our tokens: at each step, after the prompt and our tokens before, ours must be its choice, or nearly.
 *
 * @param behind of each step: `behindBest` of our token.
 * @throws {Error} beyond `nearTie`, and for what is no number.
 */
export function expectOurTokens(behind: readonly number[], nearTie: number): void {
  const at = behind.findIndex((margin) => !(margin <= nearTie));
  if (at >= 0) throw new Error(`Our token ${at + 1} is ${behind[at]} behind its choice, and ${nearTie} would be a near tie.`);
}

/**
 * Says in words how tokens that another chose freely compare with ours.
 *
 * @param behind as `expectOurTokens` has them.
 * @throws {Error} where they part at a step at which ours is its choice, or are not as many.
 */
export function describeTokens(ids: readonly number[], ours: readonly number[], behind: readonly number[]): string {
  if (ids.length !== ours.length) throw new Error(`It gave ${ids.length} tokens, not ${ours.length}.`);
  const at = firstDifference(ids, ours);
  if (at < 0) return `its ${ids.length} tokens are ours`;
  if (!(behind[at] > 0)) throw new Error(`Its token ${at + 1} is ${ids[at]}, not ${ours[at]}, which was its choice before.`);
  return `its tokens are ours up to token ${at + 1}, a near tie: ours (${ours[at]}) is ${behind[at].toPrecision(2)} behind its own (${ids[at]}) in logits`;
}

/** Largest difference of two rows of logits. @throws {Error} beyond `allowed`, and for what is no number */
export function logitDifference(actual: Float32Array, expected: Float32Array, allowed: number): number {
  if (actual.length !== expected.length) throw new Error(`There are ${actual.length} logits, not ${expected.length}.`);
  const differences = actual.map((logit, i) => Math.abs(logit - expected[i]));
  const wrong = differences.findIndex((difference) => !(difference <= allowed));
  if (wrong >= 0) throw new Error(`Logit ${wrong} is ${actual[wrong]}, not ${expected[wrong]}.`);
  return differences.reduce((a, b) => Math.max(a, b), 0);
}

/** -1: none. */
function firstDifference(a: readonly number[], b: readonly number[]): number {
  return a.findIndex((id, i) => id !== b[i]);
}
