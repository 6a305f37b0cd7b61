import { readFile } from 'node:fs/promises';
import { createHandler } from 'pagewise/serve';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { figuresOf, percentile, type RequestTrace, summaryOf, timesOf } from '../../bench/serving/arithmetic.ts';
import { arrivalTimes, gamma } from '../../bench/serving/arrivals.ts';
import { engineClient, eventsOf, httpClient } from '../../bench/serving/clients.ts';
import { randomRequests, shareGptRequests } from '../../bench/serving/dataset.ts';
import { drive } from '../../bench/serving/drive.ts';
import { syntheticConfigs, syntheticFiles } from '../../bench/serving/synthetic.ts';
import { servingTable } from '../../bench/serving/table.ts';
import { filesFromFolder } from '../../demo/terminal/folder.ts';
import { readServingOptions, servingArguments } from '../../scripts/serving-options.mjs';
import { readModelConfig } from '../../src/engine/config.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { createTokenizer } from '../../src/engine/tokenizer.ts';
import { random } from '../harness/random.ts';
import { fakeEngine } from './fake-engine.ts';

/** Sent at 100, pieces at 130, 150, 160, 200: TTFT 30, ITL 20, 10, 40, latency 100, TPOT 70 / 3. */
const first: RequestTrace = { promptTokens: 10, outputTokens: 4, start: 100, chunks: [130, 150, 160, 200] };
/** Two tokens in the first piece: TTFT 50, ITL 30, latency 80, TPOT 30 / 2. */
const second: RequestTrace = { promptTokens: 7, outputTokens: 3, start: 0, chunks: [50, 80] };
/** One token: no ITL and no TPOT. */
const third: RequestTrace = { promptTokens: 3, outputTokens: 1, start: 200, chunks: [210] };

describe('the arithmetic', () => {
  test('of one request', () => {
    expect(timesOf(first)).toEqual({ ttft: 30, itl: [20, 10, 40], latency: 100, tpot: 70 / 3 });
    expect(timesOf(second)).toEqual({ ttft: 50, itl: [30], latency: 80, tpot: 15 });
    expect(timesOf(third)).toEqual({ ttft: 10, itl: [], latency: 10, tpot: undefined });
  });

  test('of a run: ITL is pooled, TPOT is one value for each request of more than one token', () => {
    expect(figuresOf([first, second, third], 500)).toEqual({
      ...{ completed: 3, duration: 0.5, inputTokens: 20, outputTokens: 8 },
      ...{ requestThroughput: 6, goodput: undefined, outputThroughput: 16, totalThroughput: 56 },
      ...{ ttft: [30, 50, 10], tpot: [70 / 3, 15], itl: [20, 10, 40, 30], latency: [100, 80, 10] },
    });
  });

  test('good requests keep every limit that is given', () => {
    const goodput = (limits: object) => figuresOf([first, second, third], 500, limits).goodput;
    expect(goodput({})).toBe(6);
    expect(goodput({ ttft: 30 })).toBe(4);
    expect(goodput({ ttft: 50, tpot: 20 })).toBe(4);
    expect(goodput({ tpot: 14 })).toBe(2);
    expect(goodput({ ttft: 40, e2el: 99 })).toBe(2);
  });

  test('percentiles lie between the nearest ranks, as numpy has them', () => {
    expect([0, 25, 50, 99, 100].map((share) => percentile([40, 10, 30, 20], share))).toEqual([10, 17.5, 25, expect.closeTo(39.7), 40]);
    expect(percentile([5], 99)).toBe(5);
    expect(summaryOf([1, 2, 6])).toEqual({ mean: 3, median: 2, p99: expect.closeTo(5.92) });
    expect(summaryOf([])).toEqual({ mean: 0, median: 0, p99: 0 });
  });

  test('the table is the one that everybody knows', () => {
    expect(servingTable(figuresOf([first, second, third], 500, { ttft: 30 })).map((line) => line.trimEnd())).toEqual([
      '============ Serving Benchmark Result ============',
      'Successful requests:                     3',
      'Benchmark duration (s):                  0.50',
      'Total input tokens:                      20',
      'Total generated tokens:                  8',
      'Request throughput (req/s):              6.00',
      'Request goodput (req/s):                 4.00',
      'Output token throughput (tok/s):         16.00',
      'Total Token throughput (tok/s):          56.00',
      '---------------Time to First Token----------------',
      'Mean TTFT (ms):                          30.00',
      'Median TTFT (ms):                        30.00',
      'P99 TTFT (ms):                           49.60',
      '-----Time per Output Token (excl. 1st token)------',
      'Mean TPOT (ms):                          19.17',
      'Median TPOT (ms):                        19.17',
      'P99 TPOT (ms):                           23.25',
      '---------------Inter-token Latency----------------',
      'Mean ITL (ms):                           25.00',
      'Median ITL (ms):                         25.00',
      'P99 ITL (ms):                            39.70',
      '==================================================',
    ]);
  });
});

describe('arrivals', () => {
  test('are all at once at an infinite rate', () => {
    expect(arrivalTimes(3, Number.POSITIVE_INFINITY, 1, random(1))).toEqual([0, 0, 0]);
  });

  test.each([0.25, 1, 4])('come at the rate asked for, with intervals as irregular as asked for (burstiness %s)', (burstiness) => {
    const times = arrivalTimes(20_001, 50, burstiness, random(7));
    expect(times[0]).toBe(0);
    const intervals = times.slice(1).map((time, i) => time - times[i]);
    const mean = intervals.reduce((sum, one) => sum + one, 0) / intervals.length;
    const variance = intervals.reduce((sum, one) => sum + (one - mean) ** 2, 0) / intervals.length;
    // 1000 / 50 ms; of a Gamma distribution the squared coefficient of variation is 1 / shape.
    expect(mean / 20).toBeCloseTo(1, 1);
    expect((variance / mean ** 2) * burstiness).toBeCloseTo(1, 0.9);
    expect(arrivalTimes(5, 50, burstiness, random(7))).toEqual(times.slice(0, 5));
  });

  test('a Gamma variate of shape 1 is exponential', () => {
    const source = random(3);
    const values = Array.from({ length: 20_000 }, () => gamma(1, source));
    const above = (limit: number) => values.filter((value) => value > limit).length / values.length;
    for (const limit of [0.1, 0.5, 1, 2]) expect(above(limit)).toBeCloseTo(Math.exp(-limit), 1.7);
  });
});

describe('what is asked', () => {
  const words = {
    ...fakeEngine().tokenizer,
    encode: (text: string) =>
      text
        .split(' ')
        .filter(Boolean)
        .map(() => 1),
  } as never;
  const of = (...lengths: (readonly [prompt: number, answer: number])[]) =>
    lengths.map((turns) => ({ conversations: turns.map((count) => ({ from: 'x', value: 'word '.repeat(count) })) }));
  const lengthsOf = (json: unknown, context = 4096) =>
    shareGptRequests(json, 100, words, context, random(1))
      .map(({ promptTokens, outputTokens }) => [promptTokens, outputTokens])
      .sort(([a, b], [c, d]) => a - c || b - d);

  test("is filtered by the original's limits, and by the model's context", () => {
    const edges = of([3, 9], [4, 3], [4, 4], [1024, 1024], [1024, 1025], [1025, 4], [5, 2043], [5, 2044]);
    expect(lengthsOf(edges)).toEqual([
      [4, 4],
      [5, 2043],
      [1024, 1024],
    ]);
    expect(lengthsOf(edges, 1000)).toEqual([[4, 4]]);
    expect(lengthsOf([...of([9, 9]), { conversations: [{ value: 'word '.repeat(9) }] }, {}])).toEqual([[9, 9]]);
    expect(() => lengthsOf(of([1, 1]))).toThrow('no conversation of two turns that fits');
    expect(() => lengthsOf({})).toThrow('must be a JSON array');
  });

  test('is shuffled by the seed and cut to the number asked for', () => {
    const json = of(...Array.from({ length: 20 }, (_, i) => [i + 4, 9] as const));
    const order = (seed: number) => shareGptRequests(json, 6, words, 4096, random(seed)).map(({ promptTokens }) => promptTokens);
    expect(order(1)).toEqual(order(1));
    expect(order(1)).not.toEqual(order(2));
    expect(order(1)).toHaveLength(6);
  });

  test('the conversations that come along are those of which six are left out', async () => {
    const json = JSON.parse(await readFile('bench/serving/conversations.json', 'utf8'));
    const read = async (name: string) => JSON.parse(await readFile(`demo/model/${name}`, 'utf8'));
    const named = { bosTokenId: 0, eosTokenIds: [0] };
    const tokenizer = createTokenizer(await read('tokenizer.json'), await read('tokenizer_config.json'), named);
    const requests = shareGptRequests(json, 100, tokenizer, 1024, random(1));
    expect([json.length, requests.length]).toEqual([13, 7]);
    for (const { prompt, promptTokens } of requests) expect(tokenizer.encode(prompt as string)).toHaveLength(promptTokens);
  });

  test('at random begins with the same token, then with the same two, only when no other is left', () => {
    const prompts = (count: number, seed = 3) =>
      randomRequests(count, { input: 40, output: 1, rangeRatio: 0.5 }, 116, random(seed)).map(({ prompt }) => prompt as number[]);
    const different = (list: number[][], tokens: number) => new Set(list.map((prompt) => prompt.slice(0, tokens).join())).size;
    expect([1, 2].map((tokens) => different(prompts(100), tokens))).toEqual([100, 100]);
    expect([1, 2].map((tokens) => different(prompts(1000), tokens))).toEqual([100, 1000]);
    expect(prompts(200)).toEqual(prompts(200));
    expect(prompts(200)).not.toEqual(prompts(200, 4));
    expect(prompts(200).slice(0, 50)).toEqual(prompts(50));
    // Vocabularies of next to nothing are served, too.
    expect(randomRequests(3, { input: 2, output: 1, rangeRatio: 0 }, 1, random(1)).map(({ prompt }) => prompt)).toEqual([
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
  });

  test('at random has lengths within the range, and other tokens each time', () => {
    const requests = randomRequests(200, { input: 20, output: 10, rangeRatio: 0.5 }, 100, random(5));
    const range = (values: number[]) => [Math.min(...values), Math.max(...values)];
    expect(range(requests.map(({ promptTokens }) => promptTokens))).toEqual([10, 30]);
    expect(range(requests.map(({ outputTokens }) => outputTokens))).toEqual([5, 15]);
    for (const { prompt, promptTokens } of requests) expect(prompt).toHaveLength(promptTokens);
    expect(range(requests.flatMap(({ prompt }) => prompt as number[]))).toEqual([16, 99]);
    expect(new Set(requests.map(({ prompt }) => prompt[0])).size).toBeGreaterThan(40);
    const fixed = randomRequests(5, { input: 7, output: 3, rangeRatio: 0 }, 100, random(5));
    expect(fixed.map(({ promptTokens, outputTokens }) => [promptTokens, outputTokens])).toEqual(new Array(5).fill([7, 3]));
  });
});

describe('clients', () => {
  const request = { prompt: 'abc', promptTokens: 3, outputTokens: 4 };
  afterEach(() => void vi.unstubAllGlobals());

  /** A clock that goes on by 10 each time that it is looked at. */
  function clock(): () => number {
    let time = 0;
    return () => {
      time += 10;
      return time;
    };
  }

  test('of an engine look at the clock before, and at each piece', async () => {
    const engine = fakeEngine();
    const trace = await engineClient(engine, { ignoreEos: true, cacheSalt: 'pepper' }, clock())(request);
    expect(trace).toEqual({ promptTokens: 3, outputTokens: 4, start: 10, chunks: [20, 30, 40, 50] });
    expect(engine.asked[0].options).toEqual({ maxTokens: 4, temperature: 0, ignoreEos: true, cacheSalt: 'pepper' });
  });

  test('of a server, too; usage is no piece', async () => {
    const engine = fakeEngine();
    const handler = createHandler(engine, { modelName: 'm' });
    vi.stubGlobal('fetch', (url: string, init: RequestInit) => handler(new Request(url, init)));
    const trace = await httpClient('http://host/', { ignoreEos: false }, clock())(request);
    expect(trace).toEqual({ promptTokens: 3, outputTokens: 4, start: 10, chunks: [20, 30, 40, 50] });
    await httpClient('http://host/', { ignoreEos: true, cacheSalt: 'pepper' })(request);
    const [options, salted] = engine.asked.map(({ options: { signal: _, ...others } }) => others);
    expect(options).toEqual({ maxTokens: 4, temperature: 0 });
    expect(salted).toEqual({ maxTokens: 4, temperature: 0, ignoreEos: true, cacheSalt: 'pepper' });
  });

  test('of a server say what it refused, and that a stream broke off', async () => {
    const handler = createHandler(fakeEngine({ contextLength: 2 }), { modelName: 'm' });
    vi.stubGlobal('fetch', (url: string, init: RequestInit) => handler(new Request(url, init)));
    await expect(httpClient('http://host', { ignoreEos: false })(request)).rejects.toThrow(/answered 400: .*context/);
    const failing = fakeEngine();
    failing.failWith(new Error('broken'));
    const other = createHandler(failing, { modelName: 'm' });
    vi.stubGlobal('fetch', (url: string, init: RequestInit) => other(new Request(url, init)));
    await expect(httpClient('http://host', { ignoreEos: false })(request)).rejects.toThrow('The server failed to answer');
    vi.stubGlobal('fetch', async () => new Response('data: {"choices":[{}]}\n\n'));
    await expect(httpClient('http://host', { ignoreEos: false })(request)).rejects.toThrow('broke off after 1 pieces');
  });

  test('read events that come in any pieces', async () => {
    const bytes = new TextEncoder().encode('data: {"a":"é"}\n\ndata: [DONE]\n\n');
    const pieces = new ReadableStream<Uint8Array<ArrayBuffer>>({
      start(controller) {
        for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
        controller.close();
      },
    });
    const events: string[] = [];
    for await (const data of eventsOf(new Response(pieces))) events.push(data);
    expect(events).toEqual(['{"a":"é"}', '[DONE]']);
  });
});

describe('a drive', () => {
  const requests = Array.from({ length: 6 }, () => ({ prompt: 'a', promptTokens: 1, outputTokens: 1 }));

  test('keeps the limit of concurrency, starts at the times given, and goes on after failures', async () => {
    let now = 0;
    let most = 0;
    let calls = 0;
    const done: number[] = [];
    const begin = performance.now();
    const starts: number[] = [];
    const client = async () => {
      starts.push(performance.now() - begin);
      now++;
      most = Math.max(most, now);
      await new Promise((resolve) => setTimeout(resolve, 5));
      now--;
      if (++calls === 3) throw new Error('refused');
      return second;
    };
    const result = await drive(client, requests, {
      arrivals: [0, 0, 0, 60, 60, 60],
      maxConcurrency: 2,
      onDone: (count) => done.push(count),
    });
    expect([most, result.traces.length, result.failures.map(String), done.at(-1)]).toEqual([2, 5, ['Error: refused'], 6]);
    expect(starts.filter((time) => time < 55)).toHaveLength(3);
    expect(result.duration).toBeGreaterThanOrEqual(60);
  });
});

describe('options', () => {
  test('have defaults, and come through a second command line as they were', () => {
    expect(readServingOptions({})).toMatchObject({
      model: 'shipped',
      numPrompts: 100,
      requestRate: Infinity,
      burstiness: 1,
      ignoreEos: true,
    });
    const values = { 'num-prompts': '7', 'request-rate': '2.5', 'no-ignore-eos': true, goodput: ['ttft:200'], 'launch-cache': 'both' };
    expect(servingArguments(values)).toEqual([
      '--num-prompts',
      '7',
      '--request-rate',
      '2.5',
      '--no-ignore-eos',
      '--launch-cache',
      'both',
      '--goodput',
      'ttft:200',
    ]);
    expect(readServingOptions(values, ['tpot:20.5'])).toMatchObject({
      ...{ numPrompts: 7, requestRate: 2.5, ignoreEos: false, launchCache: 'both', goodput: { ttft: 200, tpot: 20.5 } },
    });
    expect(readServingOptions({ 'request-rate': 'inf' }).requestRate).toBe(Infinity);
    expect(servingArguments({ 'no-subgroup-matrices': true })).toEqual(['--no-subgroup-matrices']);
    expect(readServingOptions({}).engine).toEqual({ maxSequences: 64, prefixCaching: true, subgroupMatrices: true });
    expect(readServingOptions({ 'no-subgroup-matrices': true, 'no-prefix-caching': true }).engine).toEqual({
      ...{ maxSequences: 64, prefixCaching: false, subgroupMatrices: false },
    });
  });

  test.each([
    [{ 'num-prompts': '0' }, '--num-prompts is "0", but must be an integer of at least 1'],
    [{ 'request-rate': 'fast' }, '--request-rate is "fast", but must be a number above 0'],
    [{ burstiness: '0' }, '--burstiness is "0"'],
    [{ 'random-range-ratio': '1' }, '--random-range-ratio is "1", but must be a number from 0, below 1'],
    [{ 'launch-cache': 'maybe' }, '--launch-cache is on, off or both'],
    [{ goodput: ['itl:3'] }, '--goodput has "itl:3"'],
  ])('%j is refused', (values, problem) => {
    expect(() => readServingOptions(values)).toThrow(problem);
  });

  test.each([
    [{ 'launch-cache': 'both' }, '--launch-cache is of an engine.*Start one server with --launch-cache off and one with'],
    [{ 'launch-cache': 'off' }, 'npm run serve -- --launch-cache off$'],
    [{ 'max-sequences': '3' }, '--max-sequences is of an engine.*npm run serve -- --max-sequences 3$'],
    [{ 'max-tokens-per-step': '64' }, '--max-tokens-per-step is of an engine'],
    [{ 'num-blocks': '64' }, '--num-blocks is of an engine'],
    [{ 'block-size': '8' }, '--block-size is of an engine'],
    [{ 'kv-dtype': 'f16' }, '--kv-dtype is of an engine'],
    [{ 'run-ahead': '2' }, '--run-ahead is of an engine'],
    [{ 'context-length': '512' }, '--context-length is of an engine'],
    [{ 'no-prefix-caching': true }, 'npm run serve -- --no-prefix-caching$'],
    [{ 'no-subgroup-matrices': true }, '--no-subgroup-matrices is of an engine'],
    [{ 'no-subgroup-matrices': true, dataset: '/a', 'context-length': '512' }, '--no-subgroup-matrices is of an engine'],
  ])("%j is refused with --url, for the engine is the server's", (values, problem) => {
    expect(() => readServingOptions({ ...values, url: 'http://host' })).toThrow(new RegExp(problem));
    expect(() => readServingOptions(values)).not.toThrow();
  });

  test('--url takes what is of the client', () => {
    const asked = { url: 'http://host', dataset: '/a', 'context-length': '512', 'no-prefix-caching': false, 'num-prompts': '3' };
    expect(readServingOptions(asked)).toMatchObject({ url: 'http://host', numPrompts: 3, engine: { contextLength: 512 } });
  });

  test('a second word that belongs to nothing is refused', () => {
    expect(() => readServingOptions({}, ['step'])).toThrow('"step" is no option');
  });
});

test('a synthetic model has all tensors, in any slices the same, with gains of one', async () => {
  const files = syntheticFiles('tiny', syntheticConfigs.tiny, filesFromFolder('demo/model'));
  expect(await readModelConfig(files)).toMatchObject({ hiddenSize: 64, numLayers: 2, numKvHeads: 2, vocabSize: 4096 });
  const file = await files.open('model.safetensors');
  const whole = await file.read(0, file.size);
  for (const [start, end] of [
    [3, 20],
    [1000, 70_001],
    [file.size - 200_001, file.size - 3],
  ])
    expect(Buffer.compare(await file.read(start, end), whole.subarray(start, end)), `${start} to ${end}`).toBe(0);
  const tensors = await openSafetensors(files, () => {});
  const gains = new Uint16Array((await tensors.tensor('model.norm.weight').read()).buffer);
  expect([gains.length, new Set(gains)]).toEqual([64, new Set([0x3c00])]);
  expect(new Set(new Uint16Array((await tensors.tensor('model.layers.1.mlp.up_proj.weight').read()).buffer)).size).toBeGreaterThan(1000);
  expect(await readModelConfig(syntheticFiles('1b', syntheticConfigs['llama-3.2-1b'], files))).toMatchObject({
    numLayers: 16,
    rope: { type: 'llama3' },
  });
});
