import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { type BenchReport, rowOf } from '../../bench/report.ts';
import { describeReport } from '../../bench/table.ts';
import { drawLadder } from '../../scripts/ladder-drawing.mjs';

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

  test('the launch bench runs in Deno and writes its rows', { timeout: 120_000 }, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
    try {
      const file = join(folder, 'launch.json');
      const { stdout } = await promisify(execFile)(process.execPath, ['scripts/bench.mjs', 'launch', '--quick', '--json', file]);
      const written: BenchReport = JSON.parse(await readFile(file, 'utf8'));
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
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
