/** What goes wrong, and what waits, among generations side by side: aborts, errors, back-pressure, priorities, and a lost device. */

import { Engine, type EngineOptions, filesFrom, type GenerateOptions } from '../../src/engine/index.ts';
import { BlocksExhaustedError, DeviceLostError, EngineBusyError, EngineDestroyedError, InvalidArgumentError } from '../../src/index.ts';
import { expect, expectEqual, expectThrows, spec } from '../harness/harness.ts';
import { eightPrompts, greedy, load } from './side-by-side.ts';

const once = { devices: 'granted' } as const;
const onceAnywhere = { ...once, hostIndependent: true } as const;

spec(
  'aborting, breaking off and errors of one leave the others alone, and give back their blocks',
  async (t) => {
    const expected = await eightPrompts(t);
    const engine = await load(t, { runAhead: 4, numBlocks: 40 });
    const others = expected.slice(0, 3).map(({ prompt }) => engine.generate(prompt, greedy).result);
    const abort = new AbortController();
    const aborted = engine.generate(expected[4].prompt, { ...greedy, n: 2, maxTokens: 400, signal: abort.signal });
    const called = engine.generate(expected[5].prompt, { ...greedy, maxTokens: 400 });
    const never = engine.generate(expected[5].prompt, { ...greedy, signal: AbortSignal.abort() });
    for await (const _ of engine.generate(expected[6].prompt, greedy)) break;
    called.abort();
    called.abort();
    let chunks = 0;
    for await (const _ of aborted) if (++chunks === 6) abort.abort();
    const { choices } = await aborted.result;
    expectEqual(
      choices.map(({ finishReason }) => finishReason),
      ['abort', 'abort'],
      'finish reasons',
    );
    expect(
      choices.every(({ ids }) => ids.length < 24),
      'aborted early',
    );
    expectEqual([(await called.result).finishReason, (await never.result).ids.length], ['abort', 0], 'aborted');
    for (const [i, one] of others.entries())
      expectEqual((await one).ids.slice(0, expected[i].ids.length), expected[i].ids, `tokens of prompt ${i}`);
    expectEqual([engine.kv.sequences.size, engine.stats().kvUsage], [0, 0], 'open sequences and usage');
  },
  onceAnywhere,
);

spec(
  'a prompt larger than the pool is refused alone',
  async (t) => {
    const engine = await load(t, { numBlocks: 8 });
    const prompt = Array.from({ length: 40 }, (_, i) => i + 3);
    const [fits, large] = [engine.generate(prompt, greedy), engine.generate(Array(200).fill(4), { ...greedy, n: 2 })];
    await expectThrows(BlocksExhaustedError, () => large.result, /of 7/);
    expectEqual((await fits.result).ids.length, 24, 'tokens of the one that fits');
    expectEqual(engine.kv.sequences.size, 0, 'open sequences');
  },
  onceAnywhere,
);

spec(
  'generations end when they fill the pool, which is told',
  async (t) => {
    const engine = await load(t, { numBlocks: 8, runAhead: 4 });
    expectEqual([engine.maxSequenceLength, (await load(t)).maxSequenceLength], [112, engine.contextLength], 'longest sequences');
    const { choices } = await engine.generate([3, 4, 5], { ...greedy, maxTokens: 300, n: 2 }).result;
    expectEqual(
      choices.map(({ ids, finishReason }) => [ids.length, finishReason]),
      [
        [109, 'length'],
        [109, 'length'],
      ],
      'lengths and why they ended',
    );
    expectEqual((await engine.generate(Array(112).fill(4), greedy).result).ids.length, 1, 'tokens after a prompt that fills the pool');
    expectEqual([engine.kv.sequences.size, engine.stats().kvUsage], [0, 0], 'open sequences and usage');
  },
  onceAnywhere,
);

spec(
  'logits and scores come between steps',
  async (t) => {
    const expected = await eightPrompts(t);
    const engine = await load(t, { numBlocks: 24 });
    const { prompt } = expected[0];
    const [scores, logits] = [await engine.score(prompt), await engine.logits(prompt)];
    const writing = expected.map((one) => engine.generate(one.prompt, greedy).result);
    const [scored, given] = await Promise.all([engine.score(prompt), engine.logits(prompt)]);
    expectEqual([...scored], [...scores], 'scores');
    expectEqual([...given], [...logits], 'logits');
    for (const [i, one] of writing.entries())
      expectEqual((await one).ids.slice(0, expected[i].ids.length), expected[i].ids, `tokens of prompt ${i}`);
    await expectThrows(BlocksExhaustedError, () => engine.score(Array(500).fill(3)));
    expectEqual([engine.kv.sequences.size, engine.stats().kvUsage], [0, 0], 'open sequences and usage');
  },
  onceAnywhere,
);

spec(
  'a reader that falls behind holds its request up, and no other',
  async (t) => {
    const engine = await load(t, { runAhead: 4 });
    const slow = engine.generate([3, 4, 5], { ...greedy, maxTokens: 400 });
    const reader = slow[Symbol.asyncIterator]();
    await reader.next();
    for (const _ of [1, 2]) await engine.generate([6, 7, 8], { ...greedy, maxTokens: 300 }).result;
    const written = slow.stats().outputTokens;
    expect(written > 256 && written <= 1 + 256 + 1 + engine.runAhead, `${written} tokens were written ahead of the reader`);
    let tokens = 1;
    for (let next = await reader.next(); !next.done; next = await reader.next()) tokens += next.value.ids.length;
    expectEqual([tokens, (await slow.result).ids.length], [400, 400], 'tokens');
    // Without a reader nothing waits.
    expectEqual((await engine.generate([3, 4, 5], { ...greedy, maxTokens: 400 }).result).ids.length, 400, 'tokens that nobody reads');
  },
  { ...onceAnywhere, timeout: 300_000 },
);

spec(
  'what waits is limited, and goes by priority',
  async (t) => {
    const engine = await load(t, { maxSequences: 1, maxWaiting: 2, runAhead: 2 });
    const order: string[] = [];
    const add = (name: string, priority?: number) =>
      engine.generate([5, 6, 7], { ...greedy, maxTokens: 3, priority }).result.then(() => order.push(name));
    const all = [add('first'), add('late', 1), add('early', -1)];
    await expectThrows(EngineBusyError, () => add('refused'), /2 requests are waiting/);
    await Promise.all(all);
    expectEqual(order, ['early', 'first', 'late'], 'order');
    await add('next');
    const bad = (options: EngineOptions) => expectThrows(InvalidArgumentError, () => load(t, options));
    await bad({ maxSequences: 0 });
    await bad({ maxWaiting: -1 });
    await bad({ longPrefillThreshold: 0 });
    await bad({ maxTokensPerStep: 0 });
    await bad({ kvDtype: 'f8' as 'f16' });
  },
  onceAnywhere,
);

spec(
  'a lost device rejects all that runs, and a destroyed engine too',
  async (t) => {
    const gpu = await t.openGpu();
    const [lost, destroyed] = [await load(t, {}, gpu), await load(t)];
    const run = (engine: Engine) =>
      [
        [3, 4],
        [5, 6],
        [7, 8],
      ].map((prompt) => engine.generate(prompt, { ...greedy, n: 2, maxTokens: 300 }));
    const [some, others] = [run(lost), run(destroyed)];
    for await (const { ids } of others[0]) if (ids.length > 0) break;
    const [, ...rest] = others;
    destroyed.destroy();
    destroyed.destroy();
    for (const { result } of rest) await expectThrows(EngineDestroyedError, () => result);
    await expectThrows(EngineDestroyedError, () => destroyed.generate([1]));
    await expectThrows(EngineDestroyedError, () => destroyed.logits([1]));
    const iterator = some[1][Symbol.asyncIterator]();
    await iterator.next();
    gpu.destroy();
    for (const { result } of some) await expectThrows(DeviceLostError, () => result);
    await expectThrows(DeviceLostError, () => lost.generate([1, 2]).result);
    await expectThrows(DeviceLostError, () => lost.score([1, 2]));
    expect((await lost.lost) instanceof DeviceLostError, 'the engine tells');
    expectEqual([lost.kv.sequences.size, lost.stats().running, lost.stats().waiting], [0, 0, 0], 'what is left');
  },
  once,
);

spec(
  'bad options are refused by name',
  async (t) => {
    const engine = await load(t);
    const bad: readonly (readonly [GenerateOptions, RegExp])[] = [
      [{ n: 0 }, /n is 0/],
      [{ n: 129 }, /n is 129/],
      [{ minP: 2 }, /minP is 2/],
      [{ repetitionPenalty: 0 }, /repetitionPenalty is 0/],
      [{ logitBias: { 320: 1 } }, /logitBias token is 320/],
      [{ logprobs: 21 }, /logprobs is 21/],
      [{ minTokens: 5, maxTokens: 4 }, /minTokens is 5/],
      [{ stopTokens: [320] }, /stopTokens is 320/],
      [{ stop: 'text' }, /tokenizer.json.*stopTokens/],
      [{ priority: Number.NaN }, /priority is NaN/],
    ];
    for (const [options, message] of bad) await expectThrows(InvalidArgumentError, () => engine.generate([5], options), message);
    const text = await Engine.load(
      t.gpu,
      filesFrom('demo/model', (name) => t.readFile(`demo/model/${name}`).catch(() => undefined)),
    );
    t.defer(() => text.destroy());
    await expectThrows(InvalidArgumentError, () => text.generate('a', { stop: '' }), /stop is ""/);
    expectEqual(engine.stats().promptTokens, 0, 'prompt tokens');
  },
  onceAnywhere,
);
