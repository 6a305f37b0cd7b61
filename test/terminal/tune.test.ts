/** `npm run tune`, as a person would run it, with as little time as shows that it works. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
});
afterAll(() => rm(folder, { recursive: true }));

function tune(...args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string; readonly errors: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['scripts/tune.mjs', ...args], { env: { ...process.env, NO_COLOR: '1', INIT_CWD: folder } });
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

it('prints what it compared, and writes what it found', { timeout: 60_000 }, async () => {
  const { code, output, errors } = await tune('--shape', '4/2x16', '--kv-dtype', 'f16', '--budget', '0.5', '--output', 'tuning.json');
  expect([code, errors]).toEqual([0, expect.stringContaining('4 query heads, 2 KV heads of 16, blocks of 16 in f16')]);
  expect(output).toMatch(/decode tile +│ +1 │ +1 │ +512 │/);
  const tuning = JSON.parse(await readFile(join(folder, 'tuning.json'), 'utf8'));
  expect(tuning.entries).toMatchObject([{ shape: { numHeads: 4, numKvHeads: 2, headDim: 16, blockSize: 16, dtype: 'f16' } }]);
  expect(tuning.entries[0].decode.invocations).toBeGreaterThan(0);
});

it.each([
  [['--shape', '8/2'], /argument '8\/2' is invalid.*32\/8x128.*--help/],
  [['--shape', '8/3x64'], /numHeads is 8, but must be a positive multiple of numKvHeads \(3\)/],
  [['--budget', '0'], /--budget is "0", but must be a number of seconds above 0/],
  [['--kv-dtype', 'f8'], /--kv-dtype is "f8", but must be f32 or/],
  [['--host', 'firefox'], /There is no host "firefox". There are: deno, node\./],
  [['--model', 'nowhere'], /Model file config.json/],
] as const)('says what is wrong with %o', { timeout: 60_000 }, async (args, problem) => {
  const { code, output, errors } = await tune(...args);
  expect([code, output, errors]).toEqual([1, '', expect.stringMatching(problem)]);
});
