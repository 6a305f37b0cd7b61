/** Prompt lookup: the same tokens as without, in fewer steps where a text repeats itself. */
import type { Engine, EngineOptions, GenerateOptions, GenerationResult } from '../../src/engine/index.ts';
import { InvalidArgumentError } from '../../src/index.ts';
import { expect, expectEqual, expectThrows, type SpecContext, spec } from '../harness/harness.ts';
import { goldenPrompts, loadEngine } from './shipped.ts';

const once = { devices: 'granted' } as const;
const onceAnywhere = { ...once, hostIndependent: true } as const;
const speculate = { numTokens: 5, maxNgram: 3 };
/** The model goes on with it, so that guesses turn out right. */
const repetitive = 'The king said, "Yes." The queen said, "No." '.repeat(5);

/**
 * Tokens up to where the two likeliest ones are so close that the order in which a product adds up may decide: a step that verifies a guess has more rows than
 * one without.
 */
function clearTokens({ choices: [{ ids, logprobs }] }: GenerationResult): readonly number[] {
  const close = logprobs!.findIndex(({ top: [first, second] }) => first.logprob - second.logprob < 0.002);
  return close < 0 ? ids : ids.slice(0, close);
}

/** Writes without guessing and with it, and compares. */
async function expectSame(engine: Engine, prompt: string, options: GenerateOptions, label: string): Promise<GenerationResult> {
  const plain = await engine.generate(prompt, { ...options, logprobs: 2 }).result;
  const guessed = await engine.generate(prompt, { ...options, speculate }).result;
  const clear = clearTokens(plain);
  expectEqual(guessed.ids.slice(0, clear.length), [...clear], `tokens, ${label}`);
  if (clear.length === plain.ids.length) {
    expectEqual(guessed.text, plain.text, `text, ${label}`);
    expectEqual(guessed.finishReason, plain.finishReason, `end, ${label}`);
  }
  return guessed;
}

async function expectNothingLeft(engine: Engine): Promise<void> {
  expectEqual([engine.kv.sequences.size, engine.stats().running], [0, 0], 'open sequences and running requests');
}

spec(
  'greedy tokens are the golden ones, and a text that repeats itself takes fewer steps',
  async (t) => {
    const engine = await loadEngine(t);
    for (const { text, greedy_ids, greedy_text, greedy_margins } of (await goldenPrompts(t)).slice(0, 1)) {
      const close = greedy_margins.findIndex((margin) => margin < 0.002);
      const compared = close < 0 ? greedy_ids.length : close;
      const { ids, text: written } = await engine.generate(text, { temperature: 0, maxTokens: greedy_ids.length, speculate }).result;
      expectEqual(ids.slice(0, compared), greedy_ids.slice(0, compared), `greedy ids after "${text}"`);
      if (compared === greedy_ids.length) expectEqual(written, greedy_text, `greedy text after "${text}"`);
    }
    const before = engine.stats();
    const { stats } = await expectSame(engine, repetitive, { temperature: 0, maxTokens: 60, ignoreEos: true }, 'repetitive');
    const { steps, draftedTokens, acceptedTokens } = engine.stats();
    const { draftedTokens: drafted = 0, acceptedTokens: accepted = 0, outputTokens, runAhead } = stats;
    t.log(`${accepted} of ${drafted} guessed tokens were right; ${steps - before.steps} steps for both`);
    expect(accepted >= 20, `only ${accepted} guessed tokens were right`);
    expect(drafted >= accepted, 'more right than guessed');
    // Without guesses a step for each token, those with guesses as many fewer as were right.
    expectEqual(steps - before.steps, 60 + outputTokens - accepted, 'steps');
    expectEqual([draftedTokens - before.draftedTokens, acceptedTokens - before.acceptedTokens], [drafted, accepted], "the engine's counts");
    expectEqual(runAhead, 1, 'run-ahead');
    await expectNothingLeft(engine);
  },
  once,
);

spec(
  'sampled tokens are the same as without guesses, for each seed',
  async (t) => {
    const engine = await loadEngine(t, { launchCache: 'verify', speculate });
    let right = 0;
    for (const seed of [1, 2, 3]) {
      // Here a number close to the edge between two tokens decides, and no margin tells: rows of one step differ by some 1e-6.
      const options = { temperature: 0.8, topK: 20, seed, maxTokens: 30 };
      const plain = await engine.generate(repetitive, { ...options, speculate: false }).result;
      const guessed = await engine.generate(repetitive, options).result; // the engine's
      expectEqual([...guessed.ids], [...plain.ids], `tokens of seed ${seed}`);
      expectEqual(plain.stats.draftedTokens, undefined, 'guesses without');
      right += guessed.stats.acceptedTokens ?? 0;
    }
    expect(right > 0, 'no guess was right');
    expectEqual(engine.launchStats().falseHits, 0, 'false hits');
  },
  onceAnywhere,
);

spec(
  'a stop token behind a wrong guess ends nothing, one that is right ends the text',
  async (t) => {
    const engine = await loadEngine(t);
    const options = { temperature: 1.3, maxTokens: 40 };
    for (const seed of [1, 2]) {
      const plain = await engine.generate(repetitive, { ...options, seed, ignoreEos: true }).result;
      // Every other token of the vocabulary stops, but those that are written: wrong guesses meet them all the time.
      const written = new Set(plain.ids);
      const stopTokens = Array.from({ length: 4096 }, (_, id) => id)
        .filter((id) => !written.has(id) && likely(id))
        .slice(0, 120);
      const both = { ...options, seed, stopTokens, ignoreEos: true };
      const guessed = await engine.generate(repetitive, { ...both, speculate }).result;
      const again = await engine.generate(repetitive, both).result;
      expectEqual([...guessed.ids], [...again.ids], `tokens of seed ${seed}`);
      expectEqual(guessed.finishReason, again.finishReason, `end of seed ${seed}`);
      const stopped = { ...both, stopTokens: [plain.ids[20]] };
      const [first, second] = [
        await engine.generate(repetitive, { ...stopped, speculate }).result,
        await engine.generate(repetitive, stopped).result,
      ];
      expectEqual([first.finishReason, ...first.ids], ['stop', ...second.ids], `tokens to a stop token, seed ${seed}`);
    }
    await expectNothingLeft(engine);
  },
  onceAnywhere,
);

/** Frequent tokens come first in the vocabulary, behind the special ones and the bytes. */
const likely = (id: number): boolean => id >= 260 && id < 1000;

const variants: readonly (readonly [string, EngineOptions])[] = [
  ['side by side, without prefix cache', { prefixCaching: false, maxSequences: 3 }],
  ['with blocks for little more than one', { numBlocks: 24, maxSequences: 3 }],
  ['in small steps', { maxTokensPerStep: 16 }],
];
for (const [name, engineOptions] of variants) {
  spec(`guesses beside others: ${name}`, (t) => besideOthers(t, engineOptions), onceAnywhere);
}

async function besideOthers(t: SpecContext, engineOptions: EngineOptions): Promise<void> {
  const engine = await loadEngine(t, engineOptions);
  const options = { temperature: 0, maxTokens: 30, ignoreEos: true };
  const prompts = [repetitive, 'Once upon a time', `${repetitive}Then`, 'One day, a small dog'];
  const plain: GenerationResult[] = [];
  for (const prompt of prompts) plain.push(await engine.generate(prompt, { ...options, logprobs: 2 }).result);
  // Some guess, some do not.
  const together = await Promise.all(
    prompts.map((prompt, i) => engine.generate(prompt, { ...options, ...(i < 3 && { speculate }) }).result),
  );
  together.forEach(({ ids, stats }, i) => {
    const clear = clearTokens(plain[i]);
    expectEqual(ids.slice(0, clear.length), [...clear], `tokens of prompt ${i}`);
    expectEqual(stats.draftedTokens === undefined, i === 3, `whether prompt ${i} counts guesses`);
  });
  expect((together[0].stats.acceptedTokens ?? 0) > 0, 'no guess was right');
  await expectNothingLeft(engine);
}

spec(
  'what cannot be is refused',
  async (t) => {
    const engine = await loadEngine(t);
    const refused = (options: GenerateOptions, message: RegExp) =>
      expectThrows(InvalidArgumentError, () => engine.generate('Once', options), message);
    await refused({ speculate: { numTokens: 0 } }, /speculate\.numTokens is 0, but must be an integer from 1 to 15/);
    await refused({ speculate: { numTokens: 16 } }, /speculate\.numTokens is 16/);
    await refused({ speculate: { numTokens: 2, maxNgram: 33 } }, /speculate\.maxNgram is 33/);
    await refused(
      { speculate: { numTokens: 2, maxNgram: 2, minNgram: 3 } },
      /speculate\.minNgram is 3, but must be an integer from 1 to 2/,
    );
    await refused({ speculate, presencePenalty: 1 }, /left out with penalties/);
    await refused({ speculate, allowedTokens: () => undefined }, /left out with penalties or allowedTokens/);
  },
  onceAnywhere,
);
