import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { type BenchReport, rowOf } from '../../bench/report.ts';
import { slopeOf } from '../../bench/step/bench.ts';
import { describeReport } from '../../bench/table.ts';
import { tableOfComparison } from '../../scripts/comparison-table.mjs';
import { drawLadder } from '../../scripts/ladder-drawing.mjs';
import { namesIn, runQuick } from './run-quick.ts';

const rungs = ['rebuild', 'pipeline-cached', 'new-bind-group', 'write-per-launch', 'cached', 'floor', 'bare'];

const report: BenchReport = {
  ...{ bench: 'launch', host: 'deno', runtime: 'Deno 2', adapter: 'a <GPU> & more', software: true },
  ...{ version: '1', commit: 'abc', date: '2026-01-01', notes: ['A note.'] },
  rows: ['decode', 'trivial'].flatMap((kernel) => rungs.map((name, i) => rowOf(name, { kernel }, 'us', [10 ** (3 - i / 2)]))),
};

describe('bench', () => {
  test('a row has the median and the deciles of its samples', () => {
    expect(rowOf('a', {}, 'us', [9, 1, 2, 3, 4, 5, 6, 7, 8, 10, 0])).toMatchObject({ value: 5, p10: 1, p90: 9, samples: 11 });
    expect(rowOf('a', {}, 'us', [2])).toMatchObject({ value: 2, p10: 2, p90: 2, samples: 1 });
  });

  test('a table names the run and has a line for each row', () => {
    const lines = describeReport(report);
    expect(lines[0]).toContain('Deno 2 (deno) on a <GPU> & more; Pagewise 1, commit abc');
    expect(lines[1]).toBe('A note.');
    expect(lines.filter((line) => /^cached\b/.test(line))).toHaveLength(2);
  });

  test('the ladder is drawn with every rung, escaped, in both colour schemes', () => {
    const svg = drawLadder([report, { ...report, host: 'chromium', software: false }]);
    expect(svg.match(/<rect class="ours/g)).toHaveLength(5); // the legend's, and two kernels in each of two panels of host time
    expect(svg).toContain('a &lt;GPU&gt; &amp; more');
    expect(svg).toContain('prefers-color-scheme: dark');
    expect(svg).not.toContain('NaN');
  });

  test.each([
    ['deno', process.env.PATH, '--registers goes with --host node.'],
    ['node', '', "--registers needs a C compiler and Vulkan's headers, on Linux"],
  ])('registers, with %s and PATH %o, say what they need', async (host, PATH, problem) => {
    const args = ['scripts/bench.mjs', 'attention', '--host', host, '--registers'];
    const run = promisify(execFile)(process.execPath, args, { env: { ...process.env, PATH } });
    await expect(run).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining(problem) });
  });

  test('the slope is that of the nearest line', () => {
    expect(slopeOf([1, 2, 4, 8].map((x) => [x, 3 * x - 7]))).toBeCloseTo(3);
    expect(slopeOf([0, 1, 2].map((x) => [x, x === 1 ? 6 : 0]))).toBeCloseTo(0);
  });

  test('a comparison becomes a table with a line for each case, holes where a subject was not run', () => {
    const row = (name: string, kv: string, value: number, unit = 'us') => rowOf(name, { case: 'decode 1 x 8', kv }, unit, [value]);
    const rows = [row('ours', 'f32', 50), row('plain', 'f32', 25), row('plain / ours', 'f32', 0.5, 'x'), row('ours', 'f16', 40)];
    const lines = tableOfComparison({ ...report, bench: 'compare', rows }).split('\n');
    expect(lines).toContain('| decode 1 x 8 | f32 | 50.0 | 25.0 (0.500x) |');
    expect(lines).toContain('| decode 1 x 8 | f16 | 40.0 |  |');
    expect(lines.at(-1)).toBe('- A note.');
  });

  test('a comparison of whole models becomes a table with a line for each way', () => {
    const row = (name: string, value: number, unit: string) => rowOf(name, { case: 'whole model', kv: 'f32' }, unit, [value]);
    const rows = [
      ...[row('ours', 500, 'tokens/s'), row('ours, per token', 2, 'ms'), row('ours, first token', 3, 'ms')],
      ...[row('other', 100, 'tokens/s'), row('other, per token', 10, 'ms'), row('other, first token', 6, 'ms')],
      ...[row('other / ours', 5, 'x'), row('other / ours, first token', 2, 'x'), row('other, error', 1, '1e-6')],
    ];
    const lines = tableOfComparison({ ...report, bench: 'compare', rows }).split('\n');
    expect(lines.filter((line) => line.startsWith('|')).slice(2)).toEqual([
      '| ours | f32 | 500 | 2.00 | 3.00 |',
      '| other | f32 | 100 | 10.0 (5.00x) | 6.00 (2.00x) |',
    ]);
    expect(lines.join()).not.toContain('Microseconds');
  });

  test('the launch bench runs in Deno and writes its rows', { timeout: 120_000 }, async () => {
    const { written, stdout } = await runQuick('launch');
    expect(written).toMatchObject({ bench: 'launch', host: 'deno', version: expect.any(String), commit: expect.any(String) });
    for (const kernel of ['decode', 'trivial']) {
      const rows = written.rows.filter(({ params }) => params.kernel === kernel);
      for (const name of rungs) {
        const row = rows.find((one) => one.name === name);
        expect(row, name).toMatchObject({ unit: 'us', samples: 2 });
        expect(row?.value, name).toBeGreaterThan(0);
      }
    }
    expect(stdout).toContain('new-bind-group');
  });

  test('the step bench runs in Deno, and what a step asks of the device does not depend on the machine', { timeout: 120_000 }, async () => {
    const { written } = await runQuick('step');
    const counts = (sweep: string, name: string) =>
      written.rows.filter((row) => row.name === name && row.params.sweep === sweep).map(({ value }) => value);
    for (const sweep of ['batch', 'context']) {
      expect(counts(sweep, 'objects made'), sweep).toEqual([0, 0]);
      expect(counts(sweep, 'queue writes'), sweep).toEqual([1, 1]);
      for (const name of ['host-time', 'record-time', 'plan-time'])
        for (const time of counts(sweep, name)) expect(time, name).toBeGreaterThan(0);
    }
    // Of one and of four sequences; of one with 64 keys, and with 512, which are split.
    expect([counts('batch', 'launches'), counts('context', 'launches')]).toEqual([
      [39, 39],
      [39, 45],
    ]);
    expect([counts('batch', 'bytes written'), counts('context', 'bytes written')]).toEqual([
      [180, 480],
      [180, 240],
    ]);
    expect(written.rows.find(({ name }) => name === 'launches per token')).toMatchObject({ params: { model: 'shipped' }, value: 39 });
  });

  test('the bench of guesses runs in Deno, and tokens a step are one without', { timeout: 120_000 }, async () => {
    const { written } = await runQuick('speculate');
    for (const text of ['repeating', 'story']) {
      const rows = written.rows.filter(({ params }) => params.text === text);
      const perStep = Object.fromEntries(
        rows.filter(({ name }) => name === 'tokens a step').map(({ params, value }) => [params.way, value]),
      );
      expect(perStep).toMatchObject({ ahead: 1, 'depth 1': 1 });
      expect(perStep['guess 4']).toBeGreaterThanOrEqual(1);
      for (const { value } of rows.filter(({ name }) => name === 'tokens')) expect(value).toBeGreaterThan(0);
    }
  });

  test('the comparison runs in Deno, without onnxruntime-web, and says so', { timeout: 120_000 }, async () => {
    const { written } = await runQuick('compare', '--filter', 'decode');
    for (const kv of ['f16', 'f32'])
      expect(namesIn(written, kv)).toEqual(expect.arrayContaining(['ours', 'plain', 'plain / ours', 'ours, error']));
    expect(written.notes.join()).toContain('onnxruntime-web runs in Chromium alone');
  });
});
