/** Runs the examples of the documentation as a reader would: `deno run -A examples/NAME.ts`. */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { denoEnvironment, denoPath } from '../../scripts/hosts/deno.mjs';
import { findDriver } from '../../scripts/hosts/drivers.mjs';

const timeout = 120_000;

async function runExample(name: string): Promise<string> {
  const [deno, driver] = await Promise.all([denoPath(), findDriver()]);
  const env = { ...process.env, ...denoEnvironment, ...driver.env, NO_COLOR: '1' };
  const { stdout, stderr } = await promisify(execFile)(deno, ['run', '-A', '--no-prompt', `examples/${name}.ts`], { env });
  expect(stderr).toBe('');
  return stdout;
}

test('reflect: a shader of somebody else, in three lines', { timeout }, async () => {
  // The last speed is (1.998, 1.999), damped by half; the winds sum up to (1, 0.505).
  expect(await runExample('reflect')).toBe('The last point drifted to 1.999, 1.505.\n100 launches, 1 pipeline, 0 misses.\n');
});

test('false-hit: what verification prints is what the page shows', { timeout }, async () => {
  const shown = /prints:\n\n```\n([\s\S]*?)```/.exec(await readFile('docs/launch-cache.md', 'utf8'))?.[1];
  expect(await runExample('false-hit')).toBe(shown);
});

test('worker: a story from another thread, stopped, and an error that keeps its class', { timeout }, async () => {
  expect(await runExample('worker/main')).toBe(
    'Once upon a time, there was a little girl named Lily.\nEnded by: abort.\nContextLengthError: 1103 tokens in a context of 1024.\n',
  );
  const example = await readFile('examples/worker/main.ts', 'utf8');
  const [served, shown] = [...(await readFile('docs/worker.md', 'utf8')).matchAll(/```ts\n([\s\S]*?)```/g)].map(([, block]) => block);
  expect(await readFile('examples/worker/engine-worker.ts', 'utf8')).toContain(served);
  for (const line of shown.trim().split('\n')) expect(example).toContain(line);
});

test('constrained: JSON by a schema, from a model that knows none', { timeout }, async () => {
  expect(await runExample('constrained')).toMatch(/^A (cat|dog) of ([12]?\d|30) years, with a name of \d{1,2} letters\.\n$/);
  const example = await readFile('examples/constrained.ts', 'utf8');
  const shown = /```ts\n([\s\S]*?)```/.exec(await readFile('docs/constrained.md', 'utf8'))?.[1] ?? '';
  expect(shown).toContain('jsonSchema');
  for (const line of shown.trim().split('\n')) expect(example).toContain(line);
});

test('serve: the page shows its lines, and what it prints', { timeout }, async () => {
  const page = await readFile('docs/serving.md', 'utf8');
  const shown = /```ts\n([\s\S]*?)```/.exec(page)?.[1].trimEnd().split('\n') ?? [];
  expect(shown.length).toBeGreaterThan(5);
  const example = await readFile('examples/serve.ts', 'utf8');
  for (const line of shown) expect(example).toContain(line);
  expect(await runExample('serve')).toBe(/prints:\n\n```\n([\s\S]*?)```/.exec(page)?.[1]);
});

test.each(['README.md', 'docs/launch-cache.md'])('%s shows lines of the example', async (file) => {
  const example = await readFile('examples/reflect.ts', 'utf8');
  const shown = /```ts\n(const cache = new LaunchCache\(gpu\);\nconst drift = [\s\S]*?)```/.exec(await readFile(file, 'utf8'))?.[1] ?? '';
  const lines = shown.split('\n').filter((line) => line.trim() !== '' && !line.includes('//'));
  expect(lines.length).toBeGreaterThanOrEqual(4);
  for (const line of lines) expect(example).toContain(line.trim());
});

/** The pages on attention, each with the program that it shows. */
const pages = (await readdir('docs/attention')).filter((name) => name !== 'README.md');
const outputs = new Map<string, Promise<string>>();

test.each(pages)('docs/attention/%s shows lines of its example, and what it prints', { timeout }, async (page) => {
  const text = await readFile(`docs/attention/${page}`, 'utf8');
  const name = /\(\.\.\/\.\.\/examples\/(attention\/\w+)\.ts\)/.exec(text)?.[1] ?? '';
  const example = await readFile(`examples/${name}.ts`, 'utf8');
  const shown = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].flatMap(([, block]) => block.trimEnd().split('\n'));
  expect(shown.length).toBeGreaterThan(0);
  for (const line of shown) expect(example).toContain(line);
  const output = outputs.get(name) ?? runExample(name);
  outputs.set(name, output);
  const lines = (await output).split('\n');
  const printed = /prints[^\n]*:\n\n```\n([\s\S]*?)\n```/.exec(text)?.[1].split('\n') ?? [];
  expect(printed.length).toBeGreaterThan(0);
  for (const line of printed) expect(lines).toContain(line);
});
