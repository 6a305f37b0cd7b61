import { afterAll, describe, expect, it, vi } from 'vitest';
import { PlanWriter } from '../../src/attention/plan.ts';
import { Sampler } from '../../src/engine/sampler.ts';
import { checkSampling, deriveSeed, type SamplingOptions, type SamplingParameters, usesPenalties } from '../../src/engine/sampling.ts';
import {
  allowsOnly,
  Extensions,
  needsExtension,
  packSampling,
  plainResultWords,
  samplingExtensionWords,
  samplingPlanWords,
  samplingPrelude,
  samplingWords,
} from '../../src/engine/sampling-plan.ts';
import { InvalidArgumentError, LimitExceededError } from '../../src/errors.ts';
import { type Gpu, LaunchCache } from '../../src/index.ts';
import { fakeGpu } from './fake-gpu.ts';

afterAll(() => vi.unstubAllGlobals());

const layout = new Map([...samplingPrelude.matchAll(/const (\w+) = (\d+)u;/g)].map(([, name, value]) => [name, Number(value)]));
const at = (name: string): number => layout.get(name) ?? Number.NaN;
const greedy: SamplingParameters = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };

describe('checkSampling', () => {
  const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, token) => [token, 1]));
  const bad: readonly (readonly [SamplingOptions, RegExp])[] = [
    [{ temperature: Number.NaN }, /temperature is NaN.*0 \(greedy\)/],
    [{ temperature: -0.1 }, /temperature is -0.1/],
    [{ temperature: Number.POSITIVE_INFINITY }, /temperature is Infinity/],
    [{ topK: -1 }, /topK is -1/],
    [{ topK: 2.5 }, /topK is 2.5/],
    [{ topP: 0 }, /topP is 0/],
    [{ topP: 1.01 }, /topP is 1.01/],
    [{ minP: -0.1 }, /minP is -0.1.*from 0 to 1/],
    [{ minP: 1.1 }, /minP is 1.1/],
    [{ repetitionPenalty: 0 }, /repetitionPenalty is 0,.*from 0.01 to 100/],
    [{ repetitionPenalty: 101 }, /repetitionPenalty is 101/],
    [{ presencePenalty: 2.1 }, /presencePenalty is 2.1.*from -2 to 2/],
    [{ presencePenalty: Number.NaN }, /presencePenalty is NaN/],
    [{ frequencyPenalty: -3 }, /frequencyPenalty is -3/],
    [{ logitBias: { 100: 1 } }, /logitBias token is 100.*from 0 to 99/],
    [{ logitBias: { [-1]: 1 } }, /logitBias token is -1/],
    [{ logitBias: { 1.5: 1 } }, /logitBias token is 1.5/],
    [{ logitBias: { 5: 101 } }, /logitBias of token 5 is 101.*from -100 to 100/],
    [{ logitBias: { 5: Number.NaN } }, /logitBias of token 5 is NaN/],
    [{ logitBias: many(1025) }, /logitBias is "of 1025 tokens".*1024/],
    [{ seed: -1 }, /seed is -1/],
    [{ seed: 2 ** 32 }, /seed is 4294967296/],
    [{ stopTokens: [3, 100] }, /stopTokens is 100/],
    [{ stopTokens: [0.5] }, /stopTokens is 0.5/],
    [{ minTokens: -1 }, /minTokens is -1/],
    [{ minTokens: 9, maxTokens: 8 }, /minTokens is 9.*from 0 to 8/],
    [{ maxTokens: 0 }, /maxTokens is 0/],
    [{ logprobs: 21 }, /logprobs is 21.*from 0 to 20/],
    [{ logprobs: -1 }, /logprobs is -1/],
  ];
  it.each(bad)('refuses %j', (options, message) => {
    expect(() => checkSampling(options, 100)).toThrow(InvalidArgumentError);
    expect(() => checkSampling(options, 100)).toThrow(message);
  });

  it('refuses what is no number at all', () => {
    const wrong = { presencePenalty: '1' } as unknown as SamplingOptions;
    expect(() => checkSampling(wrong, 100)).toThrow(/presencePenalty is "1"/);
  });

  it("refuses more stop tokens than there is room for, the model's own among them", () => {
    const stopTokens = Array.from({ length: 128 }, (_, token) => token);
    expect(checkSampling({ stopTokens }, 200).stopTokens).toHaveLength(128);
    expect(() => checkSampling({ stopTokens }, 200, { temperature: 1, topK: 0, topP: 1, eosTokenIds: [150] })).toThrow(/129 tokens/);
  });

  it('takes what is left out from the defaults, and draws a seed', () => {
    const eosTokenIds = [7, 9];
    const defaults = { temperature: 0.7, topK: 40, topP: 0.9, eosTokenIds };
    const parameters = checkSampling({}, 100, defaults);
    expect(parameters).toMatchObject({ temperature: 0.7, topK: 40, topP: 0.9, minP: 0, logitBias: [], banStopTokens: false });
    expect(parameters.stopTokens).toBe(eosTokenIds); // the same list for all requests: it is sent once
    expect(parameters.seed).toBeGreaterThanOrEqual(0);
    expect(new Set(Array.from({ length: 20 }, () => checkSampling({}, 100).seed)).size).toBeGreaterThan(15);
    expect(needsExtension(parameters)).toBe(false);
  });

  it('joins stop tokens, sorts biases, and keeps the rest', () => {
    const defaults = { temperature: 0.7, topK: 40, topP: 0.9, eosTokenIds: [7, 9] };
    const options = {
      stopTokens: [9, 3],
      logitBias: { 50: -100, 4: 1.5, 12: 2 },
      minTokens: 3,
      maxTokens: 3,
      logprobs: 0,
      seed: 5,
      temperature: 0,
    };
    const parameters = checkSampling(options, 100, defaults);
    expect(parameters.stopTokens).toEqual([7, 9, 3]);
    expect(checkSampling({ ...options, ignoreEos: true }, 100, defaults).stopTokens).toEqual([9, 3]);
    expect(checkSampling({ ignoreEos: true }, 100, defaults).stopTokens).toEqual([]);
    expect(parameters.logitBias).toEqual([
      [4, 1.5],
      [12, 2],
      [50, -100],
    ]);
    expect(parameters).toMatchObject({ banStopTokens: true, logprobs: 0, seed: 5, temperature: 0 });
  });
});

it("seeds of several samples differ, and the first is the request's own", () => {
  expect(deriveSeed(42, 0)).toBe(42);
  const seeds = [0, 1, 42, 0xffffffff].flatMap((seed) => Array.from({ length: 500 }, (_, index) => deriveSeed(seed, index)));
  expect(seeds.every((seed) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)).toBe(true);
  expect(new Set(seeds).size).toBe(2000);
});

describe('what a row needs', () => {
  it.each([
    [{ minP: 0.1, temperature: 1 }, true],
    [{ minP: 0.1 }, false], // greedy
    [{ repetitionPenalty: 1.1 }, true],
    [{ repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 }, false],
    [{ presencePenalty: -0.1 }, true],
    [{ frequencyPenalty: 0.1 }, true],
    [{ logitBias: [] }, false],
    [{ logitBias: [[1, 2]] }, true],
    [{ banStopTokens: true }, false], // there is none
    [{ banStopTokens: true, stopTokens: [1] }, true],
    [{ allowedTokens: Uint32Array.of(1) }, true],
    [{ logprobs: 0 }, true],
    [{ temperature: 2, topK: 5, topP: 0.5, stopTokens: [1] }, false],
  ] as const)('%j: an extension %j', (options, needed) => {
    expect(needsExtension({ ...greedy, ...options })).toBe(needed);
  });

  it('counts of tokens for penalties alone', () => {
    expect([greedy, { ...greedy, logprobs: 1 }, { ...greedy, presencePenalty: 1 }].map(usesPenalties)).toEqual([false, false, true]);
  });
});

it('a mask that allows none but given tokens is known, whatever lies behind the vocabulary', () => {
  const mask = Uint32Array.of(0b1000, 0, 0xffffff00 | 1);
  expect(allowsOnly(mask, 72, [3, 64])).toBe(true);
  expect(allowsOnly(mask, 73, [3, 64])).toBe(false);
  expect(allowsOnly(mask, 73, [3, 64, 72])).toBe(true);
  expect(allowsOnly(mask, 72, [3])).toBe(false);
  expect(allowsOnly(Uint32Array.of(0x80000000), 32, [31])).toBe(true);
  expect(allowsOnly(Uint32Array.of(0x80000000), 32, [])).toBe(false);
});

describe('the plan', () => {
  const pack = (parameters: readonly SamplingParameters[], vocabSize = 100) => {
    const writer = new PlanWriter(64 + samplingPlanWords(parameters.length));
    writer.begin();
    const before = writer.words.length;
    const extensions = new Extensions(samplingExtensionWords(parameters.length, vocabSize));
    const rows = parameters.map((one, i) => ({ tableRow: 10 + i, position: 20 + i, parameters: one, first: i === 0, last: i !== 1 }));
    const packed = packSampling(writer, extensions, rows, vocabSize);
    const start = writer.read('SAMPLING');
    const word = (row: number, name: string) => writer.words[start + row * samplingWords + at(name)];
    return { ...packed, word, words: writer.words, written: writer.words.length - before, extensions };
  };

  it('of plain rows is nine words each, and a shared list of stop tokens once', () => {
    const stopTokens = [5, 6, 7];
    const { written, extended, resultWords, word, words } = pack([
      { ...greedy, stopTokens },
      { ...greedy, stopTokens },
      { ...greedy, stopTokens: [8] },
    ]);
    expect([written, extended, resultWords]).toEqual([3 * 9 + 3 + 1, false, plainResultWords]);
    expect([0, 1, 2].map((row) => words[word(row, 'SAMPLING_STOPS')])).toEqual([5, 5, 8]);
    expect([0, 1, 2].map((row) => word(row, 'SAMPLING_NUM_STOPS'))).toEqual([3, 3, 1]);
    expect([0, 1, 2].map((row) => word(row, 'SAMPLING_FLAGS'))).toEqual([
      at('SAMPLING_FIRST') | at('SAMPLING_LAST'),
      0,
      at('SAMPLING_LAST'),
    ]);
    expect([word(2, 'SAMPLING_SEQUENCE'), word(2, 'SAMPLING_POSITION')]).toEqual([12, 22]);
  });

  it('of others has records of as many words as they ask for', () => {
    const allowedTokens = Uint32Array.of(1, 2, 3, 4);
    const { extensions, extended, resultWords, word, written } = pack([
      {
        ...greedy,
        temperature: 2,
        minP: 0.5,
        logitBias: [
          [3, 1],
          [9, -2],
        ],
      },
      { ...greedy, allowedTokens, logprobs: 2 },
      greedy,
    ]);
    const record = at('EXTENSION_WORDS');
    expect([extended, resultWords, written]).toEqual([true, 2 + 1 + 4, 27]);
    expect(extensions.length).toBe(record + (record + 4) + (record + 4));
    expect([0, 1, 2].map((row) => word(row, 'SAMPLING_FLAGS') >> at('EXTENSION_SHIFT'))).toEqual([record, 2 * record + 4, 0]);
    expect(word(0, 'SAMPLING_FLAGS') & 0xff).toBe(at('SAMPLING_FIRST') | at('SAMPLING_LAST') | at('SAMPLING_MIN_P'));
    expect(word(1, 'SAMPLING_FLAGS') & 0xff).toBe(at('SAMPLING_MASK') | at('SAMPLING_LOGPROBS'));
    expect(extensions.f32[record + at('EXTENSION_MIN_P')]).toBeCloseTo(2 * Math.log(0.5), 6);
    expect([...extensions.u32.subarray(0, record)], 'the record of rows without one').toEqual(Array(record).fill(0));
    expect([...extensions.u32.subarray(3 * record + 4, extensions.length)]).toEqual([1, 2, 3, 4]);
  });

  it('is finite in 32 bits', () => {
    const { extensions, words, word } = pack([{ ...greedy, temperature: 1e300, minP: 1e-300 }]);
    const floats = new Float32Array(words.slice().buffer);
    expect(word(0, 'SAMPLING_TEMPERATURE')).toBeLessThan(0x7f800000);
    expect(floats.some((value) => value === Number.POSITIVE_INFINITY)).toBe(false);
    expect(extensions.f32[at('EXTENSION_WORDS') + at('EXTENSION_MIN_P')]).toBe(Math.fround(-1e30));
  });

  it('has results no longer than the vocabulary', () => {
    expect(pack([{ ...greedy, logprobs: 20 }], 7).resultWords).toBe(2 + 1 + 14);
    expect(pack([{ ...greedy, logprobs: 0 }]).resultWords).toBe(3);
  });

  it('has room for the most that rows can ask for', () => {
    const stopTokens = () => Array.from({ length: 128 }, (_, i) => i);
    const logitBias = Array.from({ length: 1024 }, (_, i) => [200 + i, 1] as const);
    const most = () => ({
      ...greedy,
      logitBias,
      stopTokens: stopTokens(),
      banStopTokens: true,
      allowedTokens: new Uint32Array(63).fill(-1),
      logprobs: 20,
    });
    const { extensions } = pack(Array.from({ length: 9 }, most), 2000);
    expect(extensions.length).toBe(extensions.u32.length);
  });

  it('merges banned stop tokens into the biases, in order', () => {
    const { extensions } = pack([
      {
        ...greedy,
        logitBias: [
          [2, 1],
          [5, 1],
          [9, 1],
        ],
        stopTokens: [9, 4],
        banStopTokens: true,
      },
    ]);
    const pairs = 2 * at('EXTENSION_WORDS');
    const banned = Math.fround(-3e38);
    const list = Array.from({ length: 4 }, (_, i) => [extensions.u32[pairs + 2 * i], extensions.f32[pairs + 2 * i + 1]]);
    expect(list).toEqual([
      [2, 1],
      [4, banned],
      [5, 1],
      [9, banned],
    ]);
  });
});

it('counts that the device has no room for are refused before anything is made', () => {
  const { gpu } = fakeGpu();
  const cache = new LaunchCache(gpu);
  const buffer = gpu.device.createBuffer({ size: 16, usage: 0 });
  const made = vi.spyOn(gpu.device, 'createBuffer');
  const options = { maxSequences: 600, maxRows: 8, vocabSize: 128_256, maxLogprobs: 0 };
  expect(() => new Sampler(cache, buffer, buffer, { ...options, penalties: true })).toThrow(LimitExceededError);
  expect(() => new Sampler(cache, buffer, buffer, { ...options, penalties: true })).toThrow(/"token counts".*penalties: false/);
  const many = { ...options, penalties: false, maxRows: 20_000 };
  expect(() => new Sampler(cache, buffer, buffer, many)).toThrow(InvalidArgumentError);
  expect(() => new Sampler(cache, buffer, buffer, many)).toThrow(/maxLogitRows is 20000.*128256 tokens/);
  const small: Gpu = { ...gpu, limits: { ...gpu.limits, maxStorageBufferBindingSize: 100_000 } };
  expect(() => new Sampler(new LaunchCache(small), buffer, buffer, { ...options, penalties: false })).toThrow(
    /"sampling extensions".*maxLogitRows/,
  );
  expect(made).not.toHaveBeenCalled();
  new Sampler(cache, buffer, buffer, { ...options, penalties: false }).destroy();
  expect(made).toHaveBeenCalledTimes(4);
});
