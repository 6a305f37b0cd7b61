import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type Gpu, indexedDbManifests, manifestKey, type TextFiles, textManifests, version } from '../../src/index.ts';

const manifest = { version: 1, variants: [{ kernel: 'set', wgsl: '0123', frozen: { a: 1 }, keys: { b: true } }] } as const;

let folder: string;
let problems: string[];
const onProblem = (problem: string) => void problems.push(problem);

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
  problems = [];
});
afterEach(() => rm(folder, { recursive: true }));

/** The functions that docs/launch-cache.md shows. */
const files = (): TextFiles => ({
  read: (name) => readFile(join(folder, name), 'utf8').catch(() => undefined),
  write: (name, text) => writeFile(join(folder, name), text),
});

it('the version is that of the package', async () => {
  expect(version).toBe(JSON.parse(await readFile('package.json', 'utf8')).version);
});

it('a key names the version, the adapter and the program', () => {
  const adapter = { vendor: 'v', architecture: 'a', device: 'd', description: 'e"', software: false };
  const key = manifestKey({ adapter } as Gpu, 'story');
  expect(JSON.parse(key)).toEqual([version, 'v', 'a', 'd', 'e"', 'story']);
  expect(manifestKey({ adapter: { ...adapter, vendor: 'va', architecture: '' } } as Gpu, 'story')).not.toBe(key);
});

it('files keep what they are given, one for each key', async () => {
  const store = textManifests(files(), { onProblem });
  expect(await store.load('one')).toBeUndefined();
  await store.save('one', manifest);
  await store.save('two / "..', { version: 1, variants: [] });
  expect(await store.load('one')).toEqual(manifest);
  expect(await store.load('two / "..')).toEqual({ version: 1, variants: [] });
  expect(await store.load('three')).toBeUndefined();
  expect((await readdir(folder)).every((name) => /^[0-9a-f]{16}\.json$/.test(name))).toBe(true);
  expect(problems).toEqual([]);
});

it.each([
  ['a truncated file', '{"key":"one","manifest":{"version":1,"var', /cannot be read \(.*\); it is ignored/],
  ['an empty file', '', /cannot be read/],
  ['another version', '{"key":"one","manifest":{"version":2,"variants":[]}}', /is no launch manifest of this version; it is ignored/],
  ['damaged variants', '{"key":"one","manifest":{"version":1,"variants":[{"kernel":7}]}}', /is no launch manifest/],
  ['another JSON', '[1, 2]', /is no launch manifest/],
])('%s is ignored, with a reason', async (_, text, problem) => {
  const store = textManifests(files(), { onProblem });
  await store.save('one', manifest);
  const [name] = await readdir(folder);
  await writeFile(join(folder, name), text);
  expect(await store.load('one')).toBeUndefined();
  expect(problems).toEqual([expect.stringMatching(problem)]);
});

it('the file of another key with the same name is no problem', async () => {
  const store = textManifests(files(), { onProblem });
  await store.save('one', manifest);
  const [name] = await readdir(folder);
  await writeFile(join(folder, name), JSON.stringify({ key: 'two', manifest }));
  expect([await store.load('one'), problems]).toEqual([undefined, []]);
});

it('a store that does not work says so and stops nobody', async () => {
  const fail = () => Promise.reject(new Error('disk full'));
  const store = textManifests({ read: fail, write: fail }, { onProblem });
  expect(await store.load('one')).toBeUndefined();
  await store.save('one', manifest);
  expect(problems).toEqual([expect.stringMatching(/cannot be read \(disk full\)/), expect.stringMatching(/cannot be kept \(disk full\)/)]);
});

it('a host without IndexedDB says so and stops nobody', async () => {
  const store = indexedDbManifests('pagewise', { onProblem });
  expect(await store.load('one')).toBeUndefined();
  await store.save('one', manifest);
  expect(problems).toEqual([expect.stringMatching(/indexedDB/), expect.stringMatching(/indexedDB/)]);
});
