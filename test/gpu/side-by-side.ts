/** A tiny model, and what it writes alone, for the specs of generations side by side. */
import type { Engine, EngineOptions } from '../../src/engine/index.ts';
import { expect, expectEqual, type SpecContext } from '../harness/harness.ts';
import { loadEngine, readJson } from './shipped.ts';

export const fixture = 'test/golden/fixtures/llama';
export const greedy = { temperature: 0, maxTokens: 24, ignoreEos: true };

interface Golden {
  readonly ids: readonly (readonly number[])[];
  readonly greedy: readonly (readonly number[])[];
}

export const load = (t: SpecContext, options: EngineOptions = {}, gpu = t.gpu): Promise<Engine> => loadEngine(t, options, fixture, gpu);

export interface Expected {
  readonly prompt: readonly number[];
  /** Greedy tokens up to where two logits are so close that the order in which a product adds up may decide. */
  readonly ids: readonly number[];
}

/**
 * Eight prompts that begin alike, in pairs, and what the model writes after each of them alone. A row's logits differ by some 1e-5 with the rows beside it, because products of
 * few rows add up in another order than those of many: tokens count up to the first whose lead is smaller than 0.002.
 */
export function eightPrompts(t: SpecContext): Promise<readonly Expected[]> {
  known ??= writeAlone(t);
  return known;
}

let known: Promise<readonly Expected[]> | undefined;

async function writeAlone(t: SpecContext): Promise<readonly Expected[]> {
  const golden = await readJson<Golden>(t, `${fixture}/golden.json`);
  const engine = await load(t, { maxSequences: 1, prefixCaching: false, runAhead: 1 });
  const prompts = golden.ids.flatMap((ids) => [ids, ids.slice(0, 48), ids.slice(0, 33), [...ids.slice(0, 16), 7, 9, 11]]);
  const expected: Expected[] = [];
  for (const prompt of prompts) {
    const { ids, choices } = await engine.generate(prompt, { ...greedy, logprobs: 2 }).result;
    const close = choices[0].logprobs!.findIndex(({ top: [first, second] }) => first.logprob - second.logprob < 0.002);
    expected.push({ prompt, ids: close < 0 ? ids : ids.slice(0, close) });
  }
  for (const [i, tokens] of golden.greedy.entries()) expectEqual([...expected[4 * i].ids], tokens, 'greedy tokens of one alone');
  expect(
    expected.every(({ ids }) => ids.length >= 12),
    'enough tokens have a clear lead',
  );
  return expected;
}
