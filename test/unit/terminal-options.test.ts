/** What the terminal programs load an engine with. */
import { describe, expect, test } from 'vitest';
import * as generate from '../../demo/terminal/options.ts';
import * as serve from '../../demo/terminal/serve-options.ts';

describe('the engine of npm run generate', () => {
  const of = (...words: readonly string[]) => generate.engineOptions(generate.readOptions(['Once', ...words])!);

  test('is what was asked for', () => {
    expect(of()).toEqual({ maxSequences: 1, subgroupMatrices: true });
    expect(of('--no-subgroup-matrices')).toEqual({ maxSequences: 1, subgroupMatrices: false });
    expect(of('--kv-dtype', 'f16', '--block-size', '32', '--launch-cache', 'verify', '--run-ahead', '3')).toEqual({
      ...{ maxSequences: 1, kvDtype: 'f16', blockSize: 32, subgroupMatrices: true, launchCache: 'verify', runAhead: 3 },
    });
  });
});

describe('the engine of npm run serve', () => {
  const of = (...words: readonly string[]) => serve.engineOptions(serve.readServeOptions(words)!);

  test('is what was asked for', () => {
    expect(of()).toEqual({ maxWaiting: 256, prefixCaching: true, subgroupMatrices: true });
    expect(of('--no-subgroup-matrices', '--no-prefix-caching', '--num-blocks', '99', '--max-waiting', '7')).toEqual({
      ...{ maxWaiting: 7, numBlocks: 99, prefixCaching: false, subgroupMatrices: false },
    });
    expect(of('--speculate', '5')).toMatchObject({ speculate: { numTokens: 5 } });
    const sizes = ['--max-sequences', '4', '--context-length', '100', '--max-tokens-per-step', '64'];
    expect(of(...sizes, '--kv-dtype', 'int8', '--block-size', '8', '--launch-cache', 'off', '--run-ahead', '2')).toEqual({
      ...{ maxSequences: 4, maxWaiting: 256, contextLength: 100, maxTokensPerStep: 64, prefixCaching: true },
      ...{ kvDtype: 'int8', blockSize: 8, subgroupMatrices: true, launchCache: 'off', runAhead: 2 },
    });
  });
});
