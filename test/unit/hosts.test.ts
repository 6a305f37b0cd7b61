import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findDriver } from '../../scripts/hosts/drivers.mjs';
import { compareSkips } from '../../scripts/hosts/expected-skips.mjs';
import { driverExists, isLibrary } from '../../scripts/hosts/vulkan.mjs';
import { seedFrom } from '../../scripts/hosts/watch-specs.mjs';

describe('the search for a driver', () => {
  let folder: string;
  const nowhere = async () => undefined;
  const library = process.execPath;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  async function driverFile(library_path: unknown): Promise<string> {
    const file = join(folder, 'driver.json');
    await writeFile(file, JSON.stringify({ file_format_version: '1.0.0', ICD: { library_path } }));
    return file;
  }

  test.runIf(process.platform === 'linux')('takes a library for one only when it fits this processor', async () => {
    expect(await isLibrary(library)).toBe(true);
    await writeFile(join(folder, 'empty.so'), '');
    await writeFile(join(folder, 'text.so'), 'INPUT(libvulkan.so.1 and enough text to be twenty bytes)');
    const foreign = (await readFile(library)).subarray(0, 64);
    foreign.writeUInt16LE(8, 18);
    await writeFile(join(folder, 'foreign.so'), foreign);
    for (const name of ['empty.so', 'text.so', 'foreign.so', 'missing.so', '.'])
      expect(await isLibrary(join(folder, name)), name).toBe(false);
  });

  test.runIf(process.platform === 'linux')('reads absolute, relative and bare names of libraries', async () => {
    await writeFile(join(folder, 'driver.so'), (await readFile(library)).subarray(0, 64));
    expect(await driverExists(await driverFile(library), nowhere)).toBe(true);
    expect(await driverExists(await driverFile('./driver.so'), nowhere)).toBe(true);
    expect(await driverExists(await driverFile('driver.so'), nowhere)).toBe(false);
    expect(await driverExists(await driverFile('driver.so'), async (name) => join(folder, name))).toBe(true);
    expect(await driverExists(await driverFile('./missing.so'), nowhere)).toBe(false);
  });

  test('is not stopped by files that are no driver files', async () => {
    await writeFile(join(folder, 'broken.json'), '{ "ICD": ');
    expect(await driverExists(join(folder, 'broken.json'), nowhere)).toBe(false);
    expect(await driverExists(join(folder, 'missing.json'), nowhere)).toBe(false);
    expect(await driverExists(await driverFile(7), nowhere)).toBe(false);
  });

  test.runIf(process.platform === 'linux')('names what to install when there is nothing, in one line', async () => {
    const search = findDriver({ only: 'system', works: async () => false });
    await expect(search).rejects.toThrow(/^No Vulkan driver found \(system: .*Install one .*mesa-vulkan-drivers.*$/);
    await expect(findDriver({ only: 'elsewhere' })).rejects.toThrow('There is no driver source "elsewhere".');
  });
});

describe('the count of skipped specs', () => {
  const expected = { 'deno/swiftshader': { 'shader-f16': 4, subgroups: 2 } };

  test('is checked on software adapters, in any order of features', () => {
    expect(compareSkips(expected, 'deno', 'SwiftShader Device (Subzero)', { subgroups: 2, 'shader-f16': 4 })).toBeUndefined();
    expect(compareSkips(expected, 'deno', 'llvmpipe (LLVM 15)', {})).toBeUndefined();
  });

  test('of one version go before those of all', () => {
    const all = { 'chromium 147/swiftshader': { immediates: 5 } };
    expect(compareSkips(all, 'chromium', 'swiftshader', { immediates: 5 }, '147')).toBeUndefined();
    expect(compareSkips(all, 'chromium', 'swiftshader', {}, '156')).toBeUndefined();
    expect(compareSkips(all, 'chromium', 'swiftshader', {}, '147')).toContain('{"immediates":5}');
    expect(compareSkips(all, 'chromium', 'swiftshader', { immediates: 5 }, '156')).toContain('{"immediates":5}');
  });

  test('says what differs and how to write it down', () => {
    const problem = compareSkips(expected, 'deno', 'SwiftShader Device (Subzero)', { subgroups: 3 });
    expect(problem).toContain('skipped {"subgroups":3}');
    expect(problem).toContain('{"shader-f16":4,"subgroups":2}');
    expect(problem).toContain('npm run test:gpu -- --host deno --update-skips');
  });

  test('is not checked on a real GPU', () => {
    expect(compareSkips(expected, 'deno', 'NVIDIA H200', { subgroups: 9 })).toBeUndefined();
  });
});

test('a seed is the one asked for, or another one each time', () => {
  expect([seedFrom('0'), seedFrom('4294967295')]).toEqual([0, 4294967295]);
  for (const text of ['-1', '1.5', '4294967296', 'x']) expect(() => seedFrom(text)).toThrow(/--seed is an integer/);
  expect(seedFrom()).not.toBe(seedFrom());
});
