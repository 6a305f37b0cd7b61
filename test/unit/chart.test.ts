import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BenchReport, type BenchRow, rowOf } from '../../bench/report.ts';
import { drawAttention } from '../../scripts/attention-drawing.mjs';
import { drawSteps } from '../../scripts/step-drawing.mjs';

const report = (bench: string, rows: readonly BenchRow[], software = false): BenchReport => ({
  ...{ bench, host: 'node', runtime: 'Node 20', adapter: 'a <GPU> & more', software },
  ...{ version: '1', commit: 'abc', date: '2026-01-01', notes: [], rows },
});

const share = (title: string, name: string, kv: string, percent: number): BenchRow[] => [
  rowOf(title, { case: name, kv }, 'us', [1000 / percent]),
  rowOf(`${title}, share`, { case: name, kv }, '%', [percent]),
];
const decodes = [
  ...share('decode', '1 x 1024', 'f16', 10),
  ...share('decode', '1 x 4096', 'f16', 20),
  ...share('decode', '8 x 1024', 'f16', 40),
  ...share('decode', '32 ragged, one of 16384', 'f16', 50),
];
const attention = report('attention', [
  rowOf('read ceiling', {}, 'GB/s', [4575]),
  ...decodes,
  ...share('KV dtypes', '64 x 4096', 'f16', 80),
  ...share('KV dtypes', '64 x 4096', 'int8', 60),
]);

const stepRows = (sweep: string, cases: readonly (readonly [batch: number, context: number])[]) =>
  cases.flatMap(([batch, context]) =>
    ['host-time', 'record-time', 'plan-time'].map((name, i) => rowOf(name, { sweep, batch, context }, 'ms/step', [batch / (i + 1)])),
  );
const rows = [
  ...stepRows('batch', [
    [1, 512],
    [64, 512],
  ]),
  ...stepRows('context', [
    [4, 64],
    [4, 16384],
  ]),
];

const count = (svg: string, pattern: RegExp) => [...svg.matchAll(pattern)].length;

describe('every chart', () => {
  it.each([
    ['attention', drawAttention([attention, attention])],
    ['step', drawSteps([report('step', rows), report('step', rows)])],
  ])('%s stands alone, in both colour schemes, with a caption for each report', (_, svg) => {
    expect(svg.startsWith('<svg xmlns="http://www.w3.org/2000/svg"')).toBe(true);
    expect(svg).toContain('prefers-color-scheme: dark');
    expect(count(svg, /a &lt;GPU&gt; &amp; more; commit abc, 2026-01-01/g)).toBe(2);
    expect(count(svg, /<svg /g)).toBe(5); // two panels for each report in one picture
    expect(count(svg, /<style/g)).toBe(1);
    expect(svg).not.toMatch(/NaN|undefined|Infinity|\u26a0/);
    for (const [, colour] of svg.matchAll(/(?:fill|stroke)="([^"]*)"/g)) expect(colour).toMatch(/^(none|currentColor|var\(--[\w-]+\))$/);
  });
});

describe('the chart of attention', () => {
  it('has a line for each batch, a point for each case of one length, and a bar for each dtype', () => {
    const svg = drawAttention([attention]);
    expect(count(svg, /<circle/g)).toBe(3);
    expect(['batch 1', 'batch 8'].map((label) => count(svg, new RegExp(`>${label}<`, 'g')))).toEqual([1, 1]);
    expect(svg).toContain('<title>1 x 4096: 50 µs</title>');
    expect(svg).toContain('100 % is 4,580 GB/s');
    expect(svg).toContain('60 %, 16.7 µs');
    expect(count(svg, /<rect/g)).toBe(2);
  });

  it('leaves out what a filtered run did not measure, and refuses one that measured neither', () => {
    expect(count(drawAttention([report('attention', decodes)]), /<svg /g)).toBe(2);
    expect(() => drawAttention([report('attention', share('prefill', '1 x 512', 'f16', 5))])).toThrow('of Node 20 has rows neither of');
  });
});

describe('the chart of a step', () => {
  it('has the whole step, recording and planning; on a software adapter not the submit', () => {
    expect(count(drawSteps([report('step', rows)]), /<circle/g)).toBe(12);
    const software = drawSteps([report('step', rows, true)]);
    expect(count(software, /<circle/g)).toBe(8);
    expect(software).not.toContain('whole step');
    expect(software).toContain('against batch, context 512');
    expect(software).toContain('against context, batch 4');
  });

  it('refuses a report without its rows', () => {
    expect(() => drawSteps([report('step', [])])).toThrow('The report of Node 20 has no rows');
  });
});

describe('the command', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const file = async (name: string, content: unknown) => {
    const path = join(folder, name);
    await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  };
  const draw = (...args: string[]) => promisify(execFile)(process.execPath, ['scripts/bench-chart.mjs', ...args]);

  it('draws what the report is of', async () => {
    const output = join(folder, 'chart.svg');
    const { stdout } = await draw(await file('attention.json', attention), '--output', output);
    expect(stdout).toBe(`${output}\n`);
    expect(await readFile(output, 'utf8')).toBe(drawAttention([attention]));
  });

  it('refuses foreign files, and reports of several benches in one picture', async () => {
    const [good, cold] = [await file('good.json', attention), await file('cold.json', report('cold', []))];
    const refused = async (...files: string[]) => {
      const { code, stderr } = await draw(...files, '--output', join(folder, 'none.svg')).catch((error) => error);
      expect(code).toBe(1);
      return stderr as string;
    };
    expect(await refused(cold)).toContain('cold.json is of the bench "cold". Drawn are: launch, attention, step.');
    expect(await refused(good, await file('step.json', report('step', rows)))).toMatch(
      /step.json is of the bench "step", and .*good.json of/,
    );
    expect(await refused(await file('other.json', { rows: 3 }))).toContain('other.json is no report of a bench.');
    expect(await refused(await file('null.json', 'null'))).toContain('null.json is no report of a bench.');
    expect(await refused(await file('text.json', 'text'))).toContain('text.json is no JSON');
    expect(await refused(join(folder, 'missing.json'))).toContain('ENOENT');
  });
});
