/** Generations side by side: the same tokens as alone, whatever the scheduler does. */
import type { Engine, EngineOptions, GenerateOptions } from '../../src/engine/index.ts';
import { InvalidArgumentError } from '../../src/index.ts';
import { expect, expectClose, expectEqual, expectThrows, spec } from '../harness/harness.ts';
import { random } from '../harness/random.ts';
import { countObjects } from './observe.ts';
import { pairwise } from './pairwise.ts';
import { goldenPrompts, loadEngine } from './shipped.ts';
import { type Expected, eightPrompts, greedy, load } from './side-by-side.ts';

const once = { devices: 'granted' } as const;
const onceAnywhere = { ...once, hostIndependent: true } as const;
const long = { ...onceAnywhere, timeout: 600_000 } as const;

/** Writes after all prompts at once, and compares. */
async function expectSameTokens(engine: Engine, expected: readonly Expected[], options: GenerateOptions, label: string): Promise<void> {
  const free = engine.kv.blocks.free;
  const results = await Promise.all(expected.map(({ prompt }) => engine.generate(prompt, { ...greedy, ...options }).result));
  results.forEach(({ ids }, i) => {
    expectEqual(ids.slice(0, expected[i].ids.length), expected[i].ids, `tokens of prompt ${i}, ${label}`);
  });
  expectEqual([engine.kv.blocks.free, engine.kv.sequences.size], [free, 0], `free blocks and open sequences, ${label}`);
  const { running, waiting } = engine.stats();
  expectEqual([running, waiting], [0, 0], `running and waiting, ${label}`);
}

spec(
  'tokens are the same side by side, with and without a prefix cache, in chunks, at every depth, in every cache mode',
  async (t) => {
    const expected = await eightPrompts(t);
    const variants: EngineOptions[] = [
      {},
      { prefixCaching: false },
      { maxTokensPerStep: 16 },
      { maxTokensPerStep: 64, longPrefillThreshold: 20 },
      { maxTokensPerStep: 2048 },
      { launchCache: 'off' },
      { launchCache: 'verify' },
      { runAhead: 1 },
      { runAhead: 16 },
      { maxSequences: 3 },
      { blockSize: 8, runAhead: 5 },
    ];
    for (const options of variants) {
      const engine = await load(t, options);
      const label = JSON.stringify(options);
      await expectSameTokens(engine, expected, {}, label);
      await expectSameTokens(engine, expected, {}, `${label}, again`);
      const { prefixHits } = engine.stats();
      expect(options.prefixCaching === false ? prefixHits === 0 : prefixHits > 8 * 16, `${prefixHits} hits, ${label}`);
      expectEqual(engine.launchStats().falseHits, 0, 'false hits');
      engine.destroy();
    }
  },
  long,
);

spec(
  'tokens are the same where blocks are short and requests are preempted',
  async (t) => {
    const expected = await eightPrompts(t);
    for (const options of [{}, { prefixCaching: false }, { runAhead: 1 }, { maxTokensPerStep: 16, runAhead: 8 }]) {
      const engine = await load(t, { numBlocks: 14, ...options });
      await expectSameTokens(engine, expected, {}, JSON.stringify(options));
      const { preemptions, kvUsage } = engine.stats();
      expect(preemptions > 0, 'nothing was preempted');
      expectEqual(kvUsage, 0, 'usage');
      t.log(`${preemptions} preemptions with ${JSON.stringify(options)}`);
      engine.destroy();
    }
  },
  long,
);

/** What changes how the scheduler fills its steps; 14 blocks are too few for all prompts. */
const loads = pairwise<Pick<EngineOptions, 'prefixCaching' | 'maxTokensPerStep' | 'launchCache' | 'numBlocks' | 'runAhead'>>({
  axes: {
    prefixCaching: [true, false],
    maxTokensPerStep: [16, 64, 512],
    launchCache: ['on', 'off', 'verify'],
    numBlocks: [undefined, 14],
    runAhead: [1, 5, 16],
  },
  random: random(40), // a seed of nine loads, the fewest in which three values of three axes meet
});

spec(
  'tokens are the same whichever two of prefix cache, chunks, cache mode, short blocks and depth meet',
  async (t) => {
    const expected = await eightPrompts(t);
    expectEqual([loads.cases.length, loads.impossible], [9, []], 'loads, and pairs that meet in none');
    for (const options of loads.cases) {
      const engine = await load(t, options);
      const label = JSON.stringify(options);
      await expectSameTokens(engine, expected, {}, label);
      await expectSameTokens(engine, expected, {}, `${label}, again`);
      const { prefixHits, preemptions, kvUsage } = engine.stats();
      const short = options.numBlocks !== undefined;
      expectEqual([preemptions > 0, kvUsage], [short, 0], `whether anything was preempted, and usage, ${label}`);
      if (!options.prefixCaching) expectEqual(prefixHits, 0, `hits, ${label}`);
      else expect(prefixHits > (short ? 0 : 8 * 16), `${prefixHits} hits, ${label}`);
      expectEqual(engine.launchStats().falseHits, 0, `false hits, ${label}`);
      t.log(`${preemptions} preemptions, ${prefixHits} hits with ${label}`);
      engine.destroy();
    }
  },
  long,
);

spec(
  'the shipped model writes its golden tokens side by side',
  async (t) => {
    const engine = await loadEngine(t);
    const prompts = await goldenPrompts(t);
    const results = await Promise.all(prompts.map(({ ids }) => engine.generate(ids, { temperature: 0, maxTokens: 40 }).result));
    for (const [i, { ids }] of results.entries())
      expectEqual([...ids], prompts[i].greedy_ids.slice(0, 40), `greedy ids after "${prompts[i].text}"`);
    const steps = engine.stats().steps;
    expect(steps < 60, `${steps} steps for 5 x 40 tokens`);
  },
  once,
);

spec(
  'a step of a batch makes no object, and is one submit',
  async (t) => {
    const { gpu } = t;
    const engine = await load(t, { runAhead: 3 }, gpu);
    const [{ prompt }] = await eightPrompts(t);
    const work = (salt: string) =>
      Promise.all([
        engine.generate(prompt, { ...greedy, n: 3, cacheSalt: salt }).result,
        engine.generate(prompt.slice(0, 9), { ...greedy, minP: 0.1, temperature: 1, logprobs: 3 }).result,
        engine.generate(prompt.slice(0, 30), { ...greedy, maxTokens: 40, frequencyPenalty: 0.5 }).result,
        engine.generate([...prompt, ...prompt], greedy).result,
      ]);
    await work('one');
    const counts = countObjects(t, gpu);
    const before = engine.stats();
    const launches = engine.launchStats();
    await work('other');
    const { steps, generatedTokens, prefixHits } = engine.stats();
    const after = engine.launchStats();
    expectEqual(counts.created, {}, 'objects created');
    expectEqual(counts.submits, steps - before.steps, 'submits');
    expectEqual(
      [after.pipelines - launches.pipelines, after.bindGroups - launches.bindGroups, after.misses],
      [0, 0, 0],
      'compiled, bound, missed',
    );
    expectEqual(generatedTokens - before.generatedTokens, 3 * 24 + 24 + 40 + 24, 'tokens');
    expect(prefixHits > before.prefixHits, 'prompts are found again');
    // The plan, and the extensions where something special is sampled; the counts of the one with a penalty once; and the width of results, which changes twice.
    expect(counts.writes <= 2 * counts.submits + 3, `${counts.writes} writes in ${counts.submits} submits`);
    t.log(`${counts.submits} steps, ${counts.writes} writes, ${counts.writtenBytes} bytes written, ${counts.readBytes} bytes read`);
    const plain = () => Promise.all([3, 4, 5, 6, 7].map((length) => engine.generate(prompt.slice(0, length), greedy).result));
    await plain();
    const { writes, submits } = counts;
    await plain();
    expectEqual(counts.writes - writes, counts.submits - submits, 'writes of steps without anything special');
    expectEqual(counts.created, {}, 'objects created');
  },
  once,
);

spec(
  'a prompt that was computed before is found, and told',
  async (t) => {
    const engine = await load(t);
    const prompt = Array.from({ length: 70 }, (_, i) => (i * 7) % 300);
    const first = await engine.generate(prompt, greedy).result;
    const second = await engine.generate(prompt, greedy).result;
    const other = await engine.generate(prompt, { ...greedy, cacheSalt: 'other' }).result;
    expectEqual(
      [first, second, other].map(({ cachedTokens }) => cachedTokens),
      [0, 64, 0],
      'cached tokens',
    );
    expectEqual([...second.ids], [...first.ids], 'tokens');
    expectEqual([...other.ids], [...first.ids], 'tokens');
    const turn = await engine.generate([...prompt, ...first.ids, 5, 6], greedy).result;
    expectEqual(turn.cachedTokens, 80, 'cached tokens of a conversation that goes on');
    const { prefixQueries, prefixHits, promptTokens } = engine.stats();
    expectEqual([prefixQueries, prefixHits, promptTokens], [3 * 70 + 96, 64 + 80, 3 * 70 + 96], 'looked up, found, given');
  },
  onceAnywhere,
);

spec(
  'several samples fork one prompt',
  async (t) => {
    const engine = await load(t);
    const prompt = Array.from({ length: 21 }, (_, i) => 5 * i + 3);
    const options = { temperature: 1, seed: 11, maxTokens: 12, n: 4, ignoreEos: true };
    const generation = engine.generate(prompt, options);
    const texts = new Map<number, number[]>();
    const ended: number[] = [];
    for await (const { index, ids, finishReason } of generation) {
      texts.set(index, [...(texts.get(index) ?? []), ...ids]);
      if (finishReason) ended.push(index);
    }
    const { choices, ids, stats } = await generation.result;
    expectEqual(
      choices.map(({ index }) => index),
      [0, 1, 2, 3],
      'choices',
    );
    for (const choice of choices) expectEqual([...choice.ids], texts.get(choice.index), `chunks of choice ${choice.index}`);
    expectEqual(ended.sort(), [0, 1, 2, 3], 'last chunks');
    expectEqual([...ids], [...choices[0].ids], 'the result is that of the first');
    expectEqual(new Set(choices.map((one) => one.ids.join())).size, 4, 'different samples');
    expectEqual([stats.promptTokens, stats.outputTokens], [21, 48], 'tokens');
    const { promptTokens, steps } = engine.stats();
    expectEqual(promptTokens, 21, 'prompt tokens computed');
    expect(steps <= 13 + engine.runAhead, `${steps} steps`);
    // The first sample is what one alone is.
    const alone = await engine.generate(prompt, { ...options, n: 1 }).result;
    expectEqual([...alone.ids], [...ids], 'one sample alone');
    expectEqual([engine.kv.sequences.size, engine.stats().kvUsage], [0, 0], 'open sequences and usage');
  },
  once,
);

spec(
  'a stop string ends the text before it, and no part of it is ever given out',
  async (t) => {
    const engine = await loadEngine(t);
    const [golden] = await goldenPrompts(t);
    const write = (options: GenerateOptions) => engine.generate(golden.text, { temperature: 0, maxTokens: 60, ...options });
    const whole = (await write({}).result).text;
    const stop = whole.slice(30, 41); // cuts through words
    const generation = write({ stop: ['never written', stop], runAhead: 8 });
    let text = '';
    for await (const chunk of generation) {
      text += chunk.text;
      expect(whole.slice(0, whole.indexOf(stop)).startsWith(text), `"${text}" goes beyond the stop string "${stop}"`);
    }
    const result = await generation.result;
    expectEqual([result.text, text, result.finishReason], [whole.slice(0, whole.indexOf(stop)), text, 'stop'], 'text');
    expectEqual(result.ids, golden.greedy_ids.slice(0, result.ids.length), 'ids');
    // What only looked like a stop string is text after all.
    const almost = await write({ stop: `${whole.slice(-6)}never` }).result;
    expectEqual([almost.text, almost.finishReason], [whole, 'length'], 'text that ends with half a stop string');
    expectEqual(engine.kv.sequences.size, 0, 'open sequences');
  },
  onceAnywhere,
);

spec(
  'stop tokens, fewest tokens and log-probabilities',
  async (t) => {
    const engine = await load(t);
    const [{ prompt, ids }] = await eightPrompts(t);
    const stop = ids[6];
    const place = ids.indexOf(stop);
    const stopped = await engine.generate(prompt, { ...greedy, stopTokens: [stop], runAhead: 8 }).result;
    expectEqual([stopped.finishReason, [...stopped.ids]], ['stop', ids.slice(0, place + 1)], 'stop token');
    const longer = await engine.generate(prompt, { ...greedy, stopTokens: [stop], minTokens: place + 4, runAhead: 8 }).result;
    expect(longer.ids.length >= place + 4 && longer.ids.indexOf(stop) !== place, `${longer.ids.length} tokens, ${longer.ids}`);
    const { choices } = await engine.generate(prompt, { ...greedy, logprobs: 3 }).result;
    const logits = await engine.logits(prompt);
    const sum = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0));
    expectEqual(
      choices[0].logprobs!.map(({ token }) => token),
      [...choices[0].ids],
      'tokens',
    );
    for (const { token, logprob, top } of choices[0].logprobs!) {
      expectEqual([top.length, top[0].token, top[0].logprob], [3, token, logprob], 'the likeliest token is the chosen one');
    }
    expectClose([choices[0].logprobs![0].logprob], [logits[ids[0]] - sum], { atol: 1e-4, rtol: 0 });
    const plain = await engine.generate(prompt, greedy).result;
    expectEqual(plain.choices[0].logprobs, undefined, 'log-probabilities that nobody asked for');
  },
  onceAnywhere,
);

spec(
  'a hook decides which tokens may come, for its request alone',
  async (t) => {
    const engine = await load(t, { runAhead: 6 });
    const [{ prompt, ids }] = await eightPrompts(t);
    const mask = (allows: (token: number) => boolean) => {
      const words = new Uint32Array(10);
      for (let token = 0; token < 320; token++) if (allows(token)) words[token >> 5] |= 1 << (token & 31);
      return words;
    };
    const seen: number[][] = [];
    const allowedTokens = (written: readonly number[]) => {
      seen.push([...written]);
      // Even and odd tokens in turn; in the end whatever comes.
      return written.length < 8 ? mask((token) => token % 2 === written.length % 2) : undefined;
    };
    const [constrained, free] = await Promise.all([
      engine.generate(prompt, { ...greedy, maxTokens: 12, allowedTokens }).result,
      engine.generate(prompt, greedy).result,
    ]);
    expectEqual(
      constrained.ids.slice(0, 8).map((token) => token % 2),
      [0, 1, 0, 1, 0, 1, 0, 1],
      'parity of tokens',
    );
    expectEqual(
      seen,
      Array.from({ length: 12 }, (_, i) => constrained.ids.slice(0, i)),
      'what the hook was told',
    );
    expectEqual(free.ids.slice(0, ids.length), ids, 'tokens of the request beside');
    const fail = (hook: GenerateOptions['allowedTokens']) => engine.generate(prompt, { ...greedy, allowedTokens: hook }).result;
    const beside = engine.generate(prompt, greedy).result;
    await expectThrows(
      RangeError,
      () =>
        fail(() => {
          throw new RangeError('no idea');
        }),
      /no idea/,
    );
    await expectThrows(InvalidArgumentError, () => fail(() => new Uint32Array(3)), /allowedTokens is "3 words"/);
    await expectThrows(InvalidArgumentError, () => fail(() => new Uint32Array(10)), /allowedTokens is "empty"/);
    expectEqual((await beside).ids.slice(0, ids.length), ids, 'tokens of the request beside those that failed');
    // A hook may end its own generation, and no other sample of it is asked then.
    let asked = 0;
    const ending = engine.generate(prompt, {
      ...greedy,
      n: 3,
      allowedTokens: () => {
        if (++asked === 5) ending.abort();
        return undefined;
      },
    });
    const { choices } = await ending.result;
    expectEqual([asked, ...choices.map(({ finishReason }) => finishReason)], [5, 'abort', 'abort', 'abort'], 'asked, and how it ended');
    expectEqual(engine.kv.sequences.size, 0, 'open sequences');
  },
  onceAnywhere,
);
