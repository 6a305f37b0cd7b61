/** `npm run bench -- serving` and `-- soak`, as a person would run them, with as little as shows that they work. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BenchReport } from '../../bench/report.ts';
import { metricOf, type RunningServer, startServer } from './server.ts';

const limit = 180_000;
let folder: string;
let server: RunningServer;

beforeAll(async () => {
  [folder, server] = await Promise.all([mkdtemp(join(tmpdir(), 'pagewise-')), startServer()]);
}, limit);

afterAll(async () => {
  server.process.kill('SIGKILL');
  await server.ended;
  await rm(folder, { recursive: true });
});

function bench(...args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string; readonly errors: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['scripts/bench.mjs', ...args], { env: { ...process.env, NO_COLOR: '1' } });
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

async function benchRows(...args: readonly string[]) {
  const file = join(folder, 'bench.json');
  const { code, output, errors } = await bench(...args, '--json', file);
  expect([code, errors]).toEqual([0, '']);
  const report: BenchReport = JSON.parse(await readFile(file, 'utf8'));
  const value = (name: string) => report.rows.find((row) => row.name === name)?.value ?? Number.NaN;
  return { report, value, output };
}

describe('the serving bench', { timeout: limit }, () => {
  test('serves conversations in process, and prints the table', async () => {
    const dataset = ['--dataset', 'bench/serving/conversations.json', '--num-prompts', '3'];
    const { report, value, output } = await benchRows('serving', ...dataset, '--goodput', 'ttft:100000', 'tpot:100000');
    expect(output).toContain('============ Serving Benchmark Result ============\nSuccessful requests:                     3');
    expect(output).toMatch(/^P99 ITL \(ms\): +\d+\.\d\d/m);
    expect(report).toMatchObject({
      bench: 'serving',
      host: 'deno',
      notes: expect.arrayContaining([expect.stringContaining('conversations, seed 0')]),
    });
    expect(value('successful requests')).toBe(3);
    expect(value('goodput')).toBe(value('request throughput'));
    expect(value('generated tokens')).toBeGreaterThan(60);
    expect(report.rows.find(({ name }) => name === 'ITL')?.samples).toBeGreaterThanOrEqual(value('generated tokens') - 3);
    for (const name of ['TTFT', 'TPOT', 'ITL', 'TTFT mean', 'TPOT P99', 'host time of a step'])
      expect(value(name), name).toBeGreaterThan(0);
  });

  test('compares the launch cache off and on with a model made up', async () => {
    const { report, output } = await benchRows(
      'serving',
      '--quick',
      '--model',
      'synthetic:tiny',
      '--launch-cache',
      'both',
      '--rounds',
      '2',
    );
    expect(output.match(/Serving Benchmark Result/g)).toHaveLength(2);
    const generated = report.rows.filter(({ name }) => name === 'generated tokens');
    expect(generated.map(({ params }) => params.launchCache)).toEqual(['off', 'on']);
    expect(generated[0].value).toBe(generated[1].value);
    expect(report.rows.find(({ name }) => name === 'request throughput on/off')).toMatchObject({ unit: 'x', samples: 2 });
    // Only what each round's own untimed request left: nothing of the other round's.
    expect(report.rows.filter(({ name }) => name === 'prefix hits').map(({ value }) => value <= 32)).toEqual([true, true]);
  });

  test('asks a server, which makes as many tokens as the client counts', async () => {
    const before = await metricOf(server.url, 'generation_tokens_total');
    const { report, value } = await benchRows('serving', '--quick', '--url', server.url, '--request-rate', '20', '--burstiness', '0.5');
    expect(report.adapter).toBe('a server');
    expect(value('successful requests')).toBe(6);
    const untimed = (await metricOf(server.url, 'generation_tokens_total')) - before - value('generated tokens');
    expect(untimed).toBeGreaterThanOrEqual(3);
    expect(untimed).toBeLessThanOrEqual(9); // of the one request before
  });

  test('asks a server in rounds, none of which finds what another has left', async () => {
    const hits = () => metricOf(server.url, 'prefix_cache_hits_total');
    const before = await hits();
    const { report, value, output } = await benchRows('serving', '--quick', '--url', server.url, '--rounds', '3');
    expect(output).toContain(`${server.url}, round `);
    expect(output.match(/Serving Benchmark Result/g)).toHaveLength(1);
    const all = report.rows.find(({ name }) => name === 'request throughput, all rounds');
    expect(all).toMatchObject({ unit: 'req/s', samples: 3 });
    expect(all?.value).toBeCloseTo(value('request throughput'), 0);
    expect(report.notes.join()).toContain('Of 3 rounds');
    // Only what each round's own untimed request left.
    expect((await hits()) - before).toBeLessThanOrEqual(3 * 32);
  });

  test.each([
    [['--url', 'http://127.0.0.1:9', '--max-sequences', '3'], /--max-sequences is of an engine.*npm run serve -- --max-sequences 3/],
    [['--url', 'http://127.0.0.1:9'], /Error: .*fetch|Error: .*connect/i],
    [['--model', 'synthetic:huge'], /there is no such shape. There are: llama-3.2-1b, tiny/],
    [['--num-prompts', '0'], /--num-prompts is "0", but must be an integer of at least 1/],
    [['--dataset', 'package.json'], /--dataset must be a JSON array/],
  ])('says what is wrong with %j', async (args, problem) => {
    const { code, errors } = await bench('serving', '--quick', ...args);
    expect([code, errors]).toEqual([1, expect.stringMatching(problem)]);
  });
});

describe('the soak', { timeout: limit }, () => {
  test('of 64 streams by HTTP loses nothing, and nothing grows', async () => {
    const { report, value } = await benchRows('soak', '--minutes', '0.4', '--streams', '64', '--max-sequences', '16');
    expect(report.notes.join()).toContain('Served by HTTP');
    expect(value('streams read to the end')).toBeGreaterThan(20);
    expect(value('streams broken off')).toBeGreaterThan(5);
    expect([value('GPU objects made'), value('KV blocks in use at the end')]).toEqual([0, 0]);
    expect(value('heap, late')).toBeGreaterThan(0);
  });

  test('of a server elsewhere', async () => {
    const { value } = await benchRows('soak', '--minutes', '0.05', '--streams', '8', '--url', server.url);
    expect(value('streams read to the end')).toBeGreaterThan(0);
  });
});
