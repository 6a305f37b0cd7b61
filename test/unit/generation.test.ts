import { describe, expect, it } from 'vitest';
import { Choice } from '../../src/engine/choice.ts';
import type { ModelConfig } from '../../src/engine/config.ts';
import { engineSizes } from '../../src/engine/engine-options.ts';
import { RunningGeneration } from '../../src/engine/generation.ts';
import { checkOptions, type GenerationLimits } from '../../src/engine/options.ts';
import type { GenerateOptions } from '../../src/engine/types.ts';
import { ContextLengthError, InvalidArgumentError } from '../../src/errors.ts';

const limits: GenerationLimits = {
  ...{ vocabSize: 100, contextLength: 64, runAhead: 4, hasTokenizer: true },
  defaults: { temperature: 0.7, topK: 40, topP: 1, eosTokenIds: [1] },
};
const check = (options: GenerateOptions = {}, prompt: readonly number[] = [5, 6, 7], others: Partial<GenerationLimits> = {}) =>
  checkOptions(prompt, options, { ...limits, ...others });

describe('options', () => {
  it('are complete where nothing is said', () => {
    const { sampling, ...spec } = check({ seed: 3 });
    expect(spec).toEqual({
      ...{ promptIds: [5, 6, 7], maxTokens: 61, minTokens: 0, stops: [], runAhead: 4, priority: 0, cacheSalt: '' },
      ...{ allowedTokens: undefined, speculate: undefined, signal: undefined },
    });
    expect(sampling).toHaveLength(1);
    expect(sampling[0]).toMatchObject({ temperature: 0.7, topK: 40, topP: 1, seed: 3, stopTokens: [1] });
  });

  it('give each sample numbers of its own, and the first those of one alone', () => {
    const seeds = check({ seed: 3, n: 4 }).sampling.map(({ seed }) => seed);
    expect(seeds[0]).toBe(3);
    expect(new Set(seeds).size).toBe(4);
  });

  it('take no more tokens than the context has room for', () => {
    expect(check({ maxTokens: 1000 }).maxTokens).toBe(61);
    expect(() => check({}, Array(64).fill(5))).toThrow(ContextLengthError);
    expect(check({}, Array(63).fill(5)).maxTokens).toBe(1);
  });

  it('take no more tokens than the pool has room for, and leave a prompt that it never holds to the scheduler', () => {
    const pool = { maxSequenceLength: 48 };
    expect(check({ maxTokens: 1000 }, undefined, pool).maxTokens).toBe(45);
    expect(check({}, undefined, pool).maxTokens).toBe(45);
    expect(check({ maxTokens: 7 }, undefined, pool).maxTokens).toBe(7);
    expect(check({}, Array(60).fill(5), pool).maxTokens).toBe(1);
    expect(() => check({}, Array(64).fill(5), pool)).toThrow(ContextLengthError);
  });

  it('guess from runs of up to three tokens, and wait for each step', () => {
    expect(check({ speculate: { numTokens: 4 }, runAhead: 8 })).toMatchObject({
      speculate: { numTokens: 4, maxNgram: 3, minNgram: 1 },
      runAhead: 1,
    });
  });

  it('guess as the engine does, where they say nothing and can', () => {
    const engine = { speculate: { numTokens: 2 } };
    const guess = (options: GenerateOptions) => check(options, undefined, engine).speculate?.numTokens;
    expect(guess({})).toBe(2);
    expect(guess({ speculate: { numTokens: 4 } })).toBe(4);
    expect([guess({ speculate: false }), guess({ presencePenalty: 1 }), guess({ allowedTokens: () => undefined })]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  it('wait for each token where a hook wants to be asked', () => {
    expect(check({ allowedTokens: () => undefined, runAhead: 8 }).runAhead).toBe(1);
  });

  it.each<[GenerateOptions, RegExp]>([
    [{ maxTokens: 0 }, /maxTokens is 0/],
    [{ maxTokens: 1.5 }, /maxTokens is 1.5/],
    [{ minTokens: -1 }, /minTokens is -1/],
    [{ minTokens: 9, maxTokens: 8 }, /minTokens is 9/],
    [{ temperature: Number.NaN }, /temperature is NaN/],
    [{ minP: -0.1 }, /minP is -0.1/],
    [{ presencePenalty: 3 }, /presencePenalty is 3/],
    [{ n: 0 }, /n is 0, but must be an integer from 1 to 128/],
    [{ n: 1.5 }, /n is 1.5/],
    [{ speculate: { numTokens: 16 } }, /speculate\.numTokens is 16, but must be an integer from 1 to 15/],
    [{ speculate: { numTokens: 1, maxNgram: 0 } }, /speculate\.maxNgram is 0/],
    [{ speculate: { numTokens: 1, minNgram: 4 } }, /speculate\.minNgram is 4, but must be an integer from 1 to 3/],
    [{ speculate: { numTokens: 1 }, frequencyPenalty: 1 }, /speculate is "given", but must be left out with penalties/],
    [{ speculate: { numTokens: 1 }, allowedTokens: () => undefined }, /left out with penalties or allowedTokens/],
    [{ runAhead: 33 }, /runAhead is 33/],
    [{ runAhead: 0 }, /runAhead is 0/],
    [{ logprobs: -1 }, /logprobs is -1/],
    [{ priority: Number.POSITIVE_INFINITY }, /priority is Infinity/],
    [{ cacheSalt: 5 as unknown as string }, /cacheSalt is 5/],
    [{ allowedTokens: 'all' as unknown as () => undefined }, /allowedTokens is "all"/],
    [{ stop: '' }, /stop is ""/],
    [{ stop: ['a', ''] }, /stop is ""/],
    [{ stop: [5 as unknown as string] }, /stop is 5/],
    [{ stop: Array(17).fill('a') }, /stop is "17 texts"/],
    [{ stopTokens: [100] }, /stopTokens is 100/],
  ])('%j are refused by name', (options, message) => {
    expect(() => check(options)).toThrow(InvalidArgumentError);
    expect(() => check(options)).toThrow(message);
  });

  it('refuse prompts of nothing or of unknown tokens, and stop strings without a tokenizer', () => {
    expect(() => check({}, [])).toThrow(/prompt is "empty"/);
    expect(() => check({}, [5, 100])).toThrow(/token id is 100/);
    expect(() => check({}, [5, Number.NaN])).toThrow(/token id is NaN/);
    expect(() => check({ stop: 'a' }, [5], { hasTokenizer: false })).toThrow(/without tokenizer.json/);
  });
});

describe('sizes of an engine', () => {
  const config = { contextLength: 1024, numLayers: 4, numKvHeads: 2, headDim: 16 } as ModelConfig;

  it('hold as many sequences as run at once, and no less than one', () => {
    expect(engineSizes({}, config)).toEqual({
      ...{ contextLength: 1024, maxSequences: 8, maxTokensPerStep: 512, maxBlocksPerSequence: 64, numBlocks: 8 * 64 + 1 },
    });
    expect(engineSizes({ maxSequences: 2, maxTokensPerStep: 4096 }, config)).toMatchObject({ maxTokensPerStep: 2048, numBlocks: 129 });
    // 512 MiB hold 4,096 blocks of these layers.
    const large = { ...config, numLayers: 32, contextLength: 8192 } as ModelConfig;
    expect(engineSizes({ maxSequences: 64 }, large).numBlocks).toBe(4096 + 1);
    expect(engineSizes({ maxSequences: 64 }, { ...large, contextLength: 131072 } as ModelConfig).numBlocks).toBe(8192 + 1);
    expect(engineSizes({ numBlocks: 7 }, config).numBlocks).toBe(7);
  });

  it('hold no more than a window and a step for one sequence', () => {
    const large = { ...config, numLayers: 32, contextLength: 131072, slidingWindow: 65536 } as ModelConfig;
    // 65,535 keys before those of a step of 512 tokens, which may begin anywhere in a block.
    expect(engineSizes({}, large).numBlocks).toBe(4096 + 32 + 1 + 1);
    expect(engineSizes({ longPrefillThreshold: 64 }, large).numBlocks).toBe(4096 + 4 + 1 + 1);
    expect(engineSizes({}, { ...large, slidingWindow: 4096 } as ModelConfig).numBlocks).toBe(4096 + 1);
    expect(engineSizes({}, { ...large, contextLength: 512, slidingWindow: 4096 } as ModelConfig).numBlocks).toBe(8 * 32 + 1);
  });

  it.each([
    [{ maxSequences: 0 }, /maxSequences is 0/],
    [{ maxSequences: 2000 }, /maxSequences is 2000/],
    [{ maxTokensPerStep: 0 }, /maxTokensPerStep is 0/],
    [{ longPrefillThreshold: 0 }, /longPrefillThreshold is 0/],
    [{ maxWaiting: -1 }, /maxWaiting is -1/],
    [{ runAhead: 40 }, /runAhead is 40/],
    [{ speculate: { numTokens: 16 } }, /speculate\.numTokens is 16/],
    [{ contextLength: 1 }, /contextLength is 1/],
    [{ contextLength: 2048 }, /contextLength is 2048/],
    [{ blockSize: 12 }, /blockSize is 12/],
    [{ kvDtype: 'f8' as 'f16' }, /kvDtype is "f8"/],
  ])('%j are refused by name', (options, message) => {
    expect(() => engineSizes(options, config)).toThrow(message);
  });
});

/** A tokenizer of one letter a token. */
const letters = () => ({ push: (id: number) => String.fromCharCode(97 + id), flush: () => '' });
const token = (id: number, finished = false) => ({ token: id, finished });

describe('a sample', () => {
  const choose = (options: GenerateOptions = {}) => new Choice(0, check({ seed: 1, ...options }), letters(), undefined);

  it('gives text, ids and why it ended', () => {
    const choice = choose({ maxTokens: 2 });
    expect(choice.take(token(0))).toEqual({ index: 0, text: 'a', ids: [0] });
    expect(choice.take(token(1))).toEqual({ index: 0, text: 'b', ids: [1], finishReason: 'length' });
    expect(choice.result).toEqual({ index: 0, text: 'ab', ids: [0, 1], finishReason: 'length' });
  });

  it('leaves stop tokens out of the text, stop strings too, and gives out what was held back in vain', () => {
    const stopped = choose();
    stopped.take(token(0));
    expect(stopped.take(token(9, true))).toEqual({ index: 0, text: '', ids: [9], finishReason: 'stop' });
    const atText = choose({ stop: 'bcd' });
    expect([0, 1, 2, 3].map((id) => atText.take(token(id)).text)).toEqual(['a', '', '', '']);
    expect(atText.result).toMatchObject({ text: 'a', ids: [0, 1, 2, 3], finishReason: 'stop' });
    const inVain = choose({ stop: 'bcd', maxTokens: 3 });
    expect([0, 1, 2].map((id) => inVain.take(token(id)).text)).toEqual(['a', '', 'bc']);
    expect(inVain.finishReason).toBe('length');
    const aborted = choose({ stop: 'bcd' });
    aborted.take(token(1));
    expect(aborted.abort()).toEqual({ index: 0, text: 'b', ids: [], finishReason: 'abort' });
  });

  it('lets no stop string end its fewest tokens', () => {
    const write = (options: GenerateOptions, ids: readonly number[]) => {
      const choice = choose(options);
      for (const id of ids) if (!choice.finishReason) choice.take(token(id));
      return [choice.text, choice.ids.length, choice.finishReason];
    };
    const ids = [0, 1, 2, 1, 0, 1];
    expect(write({ stop: 'b' }, ids)).toEqual(['a', 2, 'stop']);
    expect(write({ stop: 'b', minTokens: 1 }, ids)).toEqual(['a', 2, 'stop']);
    expect(write({ stop: 'b', minTokens: 2 }, ids)).toEqual(['abc', 4, 'stop']);
    expect(write({ stop: 'b', minTokens: 4 }, ids)).toEqual(['abcba', 6, 'stop']);
    expect(write({ stop: 'ab', minTokens: 1 }, ids)).toEqual(['', 2, 'stop']);
    expect(write({ stop: 'ba', minTokens: 6, maxTokens: 6 }, ids)).toEqual(['abcbab', 6, 'length']);
    // The bytes of a letter that came last, given out at the end, are of the fewest tokens, too.
    const flushing = new Choice(0, check({ stop: 'b', minTokens: 2, maxTokens: 2 }), { push: () => '', flush: () => 'ab' }, undefined);
    for (const id of [0, 1]) flushing.take(token(id));
    expect([flushing.text, flushing.finishReason]).toEqual(['ab', 'length']);
  });

  it('bans stop tokens until it has its fewest tokens', () => {
    const choice = choose({ minTokens: 2 });
    expect([0, 1, 2, 3].map((place) => choice.parametersAt(place).banStopTokens)).toEqual([true, true, false, false]);
    expect(choose().parametersAt(0).banStopTokens).toBe(false);
  });

  it('keeps log-probabilities where they were asked for', () => {
    const choice = choose({ logprobs: 1 });
    const top = [{ token: 4, logprob: -0.5 }];
    expect(choice.take({ token: 4, finished: false, logprob: -0.5, top })).toMatchObject({
      logprobs: [{ token: 4, logprob: -0.5, top }],
    });
    expect(choice.result.logprobs).toEqual([{ token: 4, logprob: -0.5, top }]);
    expect(choose().result.logprobs).toBeUndefined();
  });

  it('asks its hook once for each token, when all before are known', () => {
    const asked: number[][] = [];
    const masks = [Uint32Array.of(1), undefined, Uint32Array.of(2)];
    const choice = choose({
      allowedTokens: (ids) => {
        asked.push([...ids]);
        return masks[ids.length];
      },
    });
    const { request } = choice;
    choice.consult(() => {});
    choice.consult(() => {});
    expect(choice.parametersAt(0).allowedTokens).toBe(masks[0]);
    request.inFlight = 1;
    choice.consult(() => {});
    choice.take(token(8));
    request.tokens.push(8);
    request.inFlight = 0;
    choice.consult(() => {});
    expect(choice.parametersAt(1).allowedTokens).toBeUndefined();
    expect(asked).toEqual([[], [8]]);
    choice.take(token(9));
    request.tokens.push(9);
    expect(() =>
      choice.consult(({ allowedTokens }) => {
        throw new RangeError(String(allowedTokens));
      }),
    ).toThrow('2');
  });
});

describe('a generation', () => {
  function start(options: GenerateOptions = {}) {
    const calls = { aborted: 0, notified: 0 };
    const host = {
      abort: () => {
        calls.aborted++;
      },
      notify: () => {
        calls.notified++;
      },
      pipelinesCompiled: () => 3,
    };
    const generation = new RunningGeneration(host, check({ seed: 1, ...options }), letters);
    const write = (count: number, index = 0) => {
      for (let i = 0; i < count; i++) generation.push(generation.choices[index]!.take(token(i % 3)));
      generation.end();
    };
    return { generation, calls, write };
  }

  it('ends when all its samples have', async () => {
    const { generation, write } = start({ n: 2, maxTokens: 2 });
    write(2, 1);
    expect(generation.ended).toBe(false);
    write(2, 0);
    const { choices, text, finishReason, cachedTokens } = await generation.result;
    expect([choices.length, text, finishReason, cachedTokens]).toEqual([2, 'ab', 'length', 0]);
    const chunks = [];
    for await (const { index, text } of generation) chunks.push([index, text]);
    expect(chunks).toEqual([
      [1, 'a'],
      [1, 'b'],
      [0, 'a'],
      [0, 'b'],
    ]);
  });

  it('is behind when somebody iterates and has more than 256 chunks to read', async () => {
    const unlimited = new RunningGeneration(
      { abort() {}, notify() {}, pipelinesCompiled: () => 0 },
      checkOptions([5], { seed: 1 }, { ...limits, contextLength: 1000 }),
      undefined,
    );
    for (let i = 0; i < 400; i++) unlimited.push(unlimited.choices[0]!.take(token(2)));
    expect(unlimited.isBehind).toBe(false);
    const reader = unlimited[Symbol.asyncIterator]();
    await reader.next();
    expect(unlimited.isBehind).toBe(true);
    for (let i = 0; i < 142; i++) await reader.next();
    expect(unlimited.isBehind).toBe(true);
    await reader.next();
    expect(unlimited.isBehind).toBe(false);
  });

  it('tells its host once that a reader has caught up', async () => {
    let notified = 0;
    const generation = new RunningGeneration(
      { abort() {}, notify: () => void notified++, pipelinesCompiled: () => 0 },
      checkOptions([5], { seed: 1 }, { ...limits, contextLength: 1000 }),
      undefined,
    );
    for (let i = 0; i < 300; i++) generation.push(generation.choices[0]!.take(token(2)));
    const reader = generation[Symbol.asyncIterator]();
    for (let i = 0; i < 300; i++) await reader.next();
    expect(notified).toBe(1);
  });

  it('is aborted by its caller, its signal, and whoever breaks the iteration off', async () => {
    const abort = new AbortController();
    const [called, signalled, broken] = [start(), start({ signal: abort.signal }), start()];
    called.generation.abort();
    called.generation.abort();
    abort.abort();
    broken.write(2);
    for await (const _ of broken.generation) break;
    for (const { generation, calls } of [called, signalled, broken]) {
      expect((await generation.result).finishReason).toBe('abort');
      expect(calls.aborted).toBe(1);
    }
    const chunks = [];
    for await (const chunk of called.generation) chunks.push(chunk);
    expect(chunks).toEqual([{ index: 0, text: '', ids: [], finishReason: 'abort' }]);
  });

  it('rejects iteration and result with its error, and nothing that is unhandled', async () => {
    const { generation, write } = start();
    write(2);
    generation.fail(new RangeError('gone'));
    generation.fail(new RangeError('twice'));
    await expect(generation.result).rejects.toThrow('gone');
    const texts: string[] = [];
    await expect(
      (async () => {
        for await (const { text } of generation) texts.push(text);
      })(),
    ).rejects.toThrow('gone');
    expect(texts).toEqual(['a', 'b']);
  });

  it('has figures', () => {
    const { generation, write } = start({ maxTokens: 9 });
    expect(generation.stats()).toMatchObject({ promptTokens: 3, outputTokens: 0, timeToFirstToken: 0, hostTimePerStep: 0, runAhead: 4 });
    expect(generation.stats().queueTime).toBeUndefined();
    generation.stepped(performance.now(), 5, 40, false);
    generation.stepped(performance.now(), 2, 39, true);
    generation.stepped(performance.now(), 4, 39, true);
    write(3);
    const stats = generation.stats();
    expect(stats).toMatchObject({ outputTokens: 3, launchesPerToken: 39, hostTimePerStep: 3, pipelinesCompiled: 3 });
    expect(stats.queueTime).toBeGreaterThanOrEqual(0);
    expect(stats.timeToFirstToken).toBeGreaterThanOrEqual(stats.queueTime!);
  });
});
