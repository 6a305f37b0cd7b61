import { describe, expect, test } from 'vitest';
import { describeBlocks, layOutGrid, nullState, readBlockStates } from '../../demo/page/block-states.ts';
import { webGpuAdvice } from '../../demo/page/help.ts';
import { readQuery } from '../../demo/page/query.ts';
import { adapterName, generationFigures, unknownValue } from '../../demo/shared/figures.ts';
import { loadingText } from '../../demo/shared/loading.ts';
import { numberRules, parseNumber, randomSeed } from '../../demo/shared/numbers.ts';
import type { BlockSnapshot } from '../../src/worker/index.ts';

describe('numbers that people type', () => {
  test.each([
    ['0', 'temperature', 0],
    [' 0.7 ', 'temperature', 0.7],
    ['1e-1', 'temperature', 0.1],
    ['.5', 'topP', 0.5],
    ['1', 'topP', 1],
    ['40', 'topK', 40],
    ['1e3', 'maxTokens', 1000],
    ['4294967295', 'seed', 4294967295],
    ['24', 'blockSize', 24],
    ['32', 'runAhead', 32],
  ] as const)('%j is a %s', (text, name, value) => {
    expect(parseNumber(text, numberRules[name])).toBe(value);
  });

  test.each([
    ['NaN', 'temperature'],
    ['', 'temperature'],
    ['Infinity', 'temperature'],
    ['1e999', 'temperature'],
    ['-0.1', 'temperature'],
    ['0x10', 'topK'],
    ['1,5', 'topP'],
    ['0', 'topP'],
    ['1.01', 'topP'],
    ['1.5', 'topK'],
    ['-1', 'topK'],
    ['0', 'maxTokens'],
    ['9007199254740993', 'maxTokens'],
    ['4294967296', 'seed'],
    ['12', 'blockSize'],
    ['0', 'blockSize'],
    ['33', 'runAhead'],
    ['7 8', 'seed'],
  ] as const)('%j is no %s', (text, name) => {
    expect(parseNumber(text, numberRules[name])).toBeUndefined();
  });

  test('a random seed is a seed', () => {
    expect(parseNumber(String(randomSeed()), numberRules.seed)).toBeTypeOf('number');
  });
});

describe('figures', () => {
  const stats = {
    promptTokens: 14,
    outputTokens: 1234,
    timeToFirstToken: 1405.4,
    tokensPerSecond: 47.345,
    launchesPerToken: 39,
    pipelinesCompiled: 15,
    hostTimePerStep: 0.3062,
    runAhead: 8,
  };

  test('have three digits that count', () => {
    const values = generationFigures(stats).map(({ value, unit }) => `${value} ${unit}`.trim());
    expect(values).toEqual(['14 tokens', '1,234 tokens', '1,405 ms', '47.3 tokens/s', '39', '15', '0.31 ms', '8 steps']);
  });

  test('say so when nothing is known yet', () => {
    expect(new Set(generationFigures(undefined).map(({ value }) => value))).toEqual(new Set([unknownValue]));
    const early = generationFigures({ ...stats, outputTokens: 0, tokensPerSecond: 0, timeToFirstToken: Number.NaN });
    expect(early.filter(({ value }) => value === unknownValue).map(({ name }) => name)).toEqual(['timeToFirstToken', 'tokensPerSecond']);
  });

  test('name the adapter by what it says of itself', () => {
    const facts = { vendor: 'google', architecture: 'swiftshader', device: '', description: '', software: true };
    expect(adapterName(facts)).toBe('google swiftshader');
    expect(adapterName({ ...facts, description: 'llvmpipe' })).toBe('llvmpipe');
    expect(adapterName({ ...facts, device: 'nvidia-h200', description: 'NVIDIA: 570' })).toBe('nvidia-h200, NVIDIA: 570');
    expect(adapterName({ ...facts, vendor: '0x10de', architecture: '', device: '9093' })).toMatch(/does not name itself/);
  });

  test('loading is told in megabytes, or in kernels', () => {
    expect(loadingText({ phase: 'files', loaded: 8_200_000, total: 16_400_000 })).toMatchObject({
      fraction: 0.5,
      amount: '8.2 of 16.4 MB',
    });
    expect(loadingText({ phase: 'files', loaded: 8_200_000, total: 0 })).toMatchObject({ fraction: 0, amount: '8.2 MB' });
    expect(loadingText({ phase: 'pipelines', loaded: 3, total: 12 })).toMatchObject({ fraction: 0.25, amount: '3 of 12' });
  });
});

describe('the picture of the KV cache', () => {
  const source = (sequences: BlockSnapshot['sequences'], size = 9): BlockSnapshot => ({ size, blockSize: 16, sequences });

  test('tells null, free, full and partly filled blocks apart', () => {
    const kv = source([{ blocks: [5, 2, 7], length: 36 }]);
    const states = readBlockStates(kv);
    expect([...states]).toEqual([nullState, 0, 1, 0, 0, 1, 0, 0.25, 0]);
    expect(describeBlocks(kv, states, 3)).toBe('3 of 8 blocks in use, 16 tokens each; block 7 has 4 of 16 slots filled.');
    expect(readBlockStates(source([]), states)).toBe(states);
    expect(describeBlocks(source([]), states, 3)).toBe('0 of 8 blocks in use (3 at most so far), 16 tokens each.');
  });

  test('a shared block is as full as its fullest owner says, and null blocks of a table stay null', () => {
    const states = readBlockStates(
      source([
        { blocks: [0, 3], length: 20 },
        { blocks: [0, 3], length: 24 },
      ]),
    );
    expect([...states]).toEqual([nullState, 0, 0, 0.5, 0, 0, 0, 0, 0]);
  });

  test.each([
    [65, 505],
    [65, 316],
    [129, 505],
    [2, 300],
    [8193, 316],
    [8193, 505],
  ])('%i cells fit into %i pixels', (count, width) => {
    const { columns, pitch, cell, height } = layOutGrid(count, width, 150);
    expect((columns - 1) * pitch + cell).toBeLessThanOrEqual(width + 1e-6);
    expect(cell).toBeGreaterThan(2.5);
    expect(Math.ceil(count / columns) * pitch).toBeGreaterThanOrEqual(height);
  });

  test('rows are filled evenly where they can be', () => {
    expect(layOutGrid(65, 505, 150).columns).toBe(17);
    expect(layOutGrid(64, 505, 150).columns).toBe(16);
  });
});

describe("the page's address", () => {
  const read = (query: string) => readQuery(new URL(`http://localhost:5173/${query}`));

  test('says which model to load and how', () => {
    expect(read('').model.href).toBe('http://localhost:5173/model/');
    expect(read('?model=https://example.org/a/').model.href).toBe('https://example.org/a/');
    expect(read('?kv-dtype=f16&run-ahead=4&launch-cache=off&block-size=32').engine).toEqual({
      kvDtype: 'f16',
      runAhead: 4,
      launchCache: 'off',
      blockSize: 32,
    });
  });

  test.each([
    ['?kv-dtype=f8', /"kv-dtype".*"f8".*f32 or f16/],
    ['?run-ahead=0', /"run-ahead".*from 1 to 32/],
    ['?model=http://', /"model".*URL/],
  ])('%s is refused by name', (query, expected) => {
    expect(() => read(query)).toThrow(expected);
  });
});

describe('advice without WebGPU', () => {
  const linux = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36';
  const android = 'Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/118.0.0.0 Mobile Safari/537.36';
  const mac = 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 Safari/605.1.15';
  const firefox = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0';

  test.each([
    [linux, /on Linux/],
    [android, /^Chrome, Edge/],
    [mac, /Safari/],
    [firefox, /Firefox/],
  ])('%s', (userAgent, expected) => {
    const advice = webGpuAdvice({ userAgent, secure: true, hasApi: false });
    expect(advice[0]?.browser).toMatch(expected);
    expect(advice).toHaveLength(3);
  });

  test('begins with the address where that is the reason', () => {
    expect(webGpuAdvice({ userAgent: firefox, secure: false, hasApi: false })[0]?.advice).toMatch(/https/);
  });
});
