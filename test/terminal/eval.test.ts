/** `npm run eval`, as a person would run it. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Outcome } from './terminal.ts';

const limit = 120_000;
const fixtures = 'test/terminal/fixtures';
const questions = ['--gsm8k', `${fixtures}/gsm8k-test.jsonl`, '--train', `${fixtures}/gsm8k-train.jsonl`, '--shots', '2'];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
});
afterAll(() => rm(folder, { recursive: true }));

function run(...args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NO_COLOR: '1', INIT_CWD: process.cwd() };
    const child = spawn(process.execPath, ['scripts/eval.mjs', ...args], { env });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output, errors }));
  });
}

describe('npm run eval', { timeout: limit }, () => {
  test('the perplexity of held-out passages is the recorded one', async () => {
    const golden: { passages: { ids: number[]; nll: number[] }[] } = JSON.parse(await readFile('test/golden/eval.json', 'utf8'));
    // One of each source, and the last.
    const passages = [0, 16, 26, 31].map((index) => golden.passages[index]);
    const file = join(folder, 'passages.jsonl');
    await writeFile(file, passages.map(({ ids }) => JSON.stringify({ ids })).join('\n'));
    const { code, output } = await run('--perplexity', file, '--json');
    expect(code).toBe(0);
    const [measured] = JSON.parse(output).runs;
    const recorded = passages.flatMap(({ nll }) => nll);
    const mean = recorded.reduce((a, b) => a + b, 0) / recorded.length;
    expect(measured).toMatchObject({ launchCache: 'on', documents: 4, tokens: recorded.length });
    expect(measured.meanNll).toBeCloseTo(mean, 4);
    expect(measured.perplexity).toBeCloseTo(Math.exp(mean), 2);
  });

  test('perplexity of a text that is longer than a window', async () => {
    const file = join(folder, 'story.txt');
    await writeFile(
      file,
      'Once upon a time, there was a little girl named Lily. She liked to play in the park. One day, she saw a big dog.',
    );
    const { code, output, errors } = await run('--perplexity', file, '--context', '16', '--stride', '4');
    expect([code, errors]).toEqual([0, expect.not.stringContaining('pagewise:')]);
    expect(output).toMatch(
      /^Perplexity +\d+\.\d{4}\nNats per token +[\d.]+\nBits per byte +0\.\d+\nTokens +\d+ of 1 text, windows of 16, 4 apart\n$/,
    );
  });

  test('GSM8K gives the same answers with the launch cache on, off and in verify', async () => {
    const { code, output, errors } = await run(...questions, '--max-tokens', '12', '--compare', '--json');
    expect([code, errors]).toEqual([0, expect.stringContaining('The 3 answers are the same in all modes.')]);
    const { runs, measure } = JSON.parse(output);
    expect(measure).toMatchObject({ task: 'gsm8k', shots: 2, maxTokens: 12 });
    expect(runs.map(({ launchCache }: { launchCache: string }) => launchCache)).toEqual(['on', 'off', 'verify']);
    for (const { falseHits, samples, scores, generatedTokens } of runs) {
      expect([falseHits, samples.length, Object.keys(scores)]).toEqual([0, 3, ['flexible-extract', 'strict-match']]);
      expect(samples).toEqual(runs[0].samples);
      expect(generatedTokens).toBeGreaterThan(3);
      expect(samples.every(({ response }: { response: string }) => response.length > 0)).toBe(true);
    }
    expect(runs[0].samples.map(({ target }: { target: string }) => target)).toEqual(['15', '6', '84']);
  });

  test('prints the table of lm-evaluation-harness', async () => {
    const { code, output } = await run(...questions, '--max-tokens', '4', '--limit', '2', '--concurrency', '2');
    expect(code).toBe(0);
    expect(output).toMatch(
      /^\|Tasks\|Version\|.*\n\|-+.*\n\|gsm8k\| {6}3\|flexible-extract\| +2\|exact_match\|↑ {2}\|\d\.\d{3}\|± {2}\|0\.\d{4}\|\n/,
    );
  });

  test.each([
    [['--perplexity', 'nowhere.txt'], /--perplexity is "nowhere\.txt", but must be a file that can be read/],
    [['--gsm8k', `${fixtures}/gsm8k-test.jsonl`], /--shots needs --train/],
    [[...questions, '--shots', '5'], /--shots is 5, but must be at most 4/],
    [[...questions, '--max-tokens', '1024'], /--max-tokens is 1024, but must be less than the model's context, 1024/],
    [['--gsm8k', 'README.md', '--shots', '0'], /README\.md, line 1, is .* but must be a JSON object/],
    [[...questions, '--host', 'firefox'], /There is no host "firefox"\. There are: deno, node\./],
  ] as const)('says what is wrong with %j', async (args, problem) => {
    const { code, output, errors } = await run(...args);
    expect([code, output, errors.trimEnd().split('\n').at(-1)]).toEqual([1, '', expect.stringMatching(problem)]);
  });
});
