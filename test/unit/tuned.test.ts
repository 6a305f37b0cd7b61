/** What a tuning from a file may and may not do. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { chooseKernels, nearestSplit, tileSpace, tuningOrigin } from '../../src/attention/tuned.ts';
import { splitSpace } from '../../src/attention/tuner.ts';
import { hostName } from '../../src/host.ts';
import {
  type AttentionShape,
  type Gpu,
  InvalidArgumentError,
  KvCache,
  LaunchCache,
  PagedAttention,
  type TunedSplit,
  type Tuning,
  type TuningEntry,
  textTunings,
  tune,
  tuneOnce,
  tuningKey,
} from '../../src/index.ts';
import { fakeGpu } from './fake-gpu.ts';

afterEach(() => vi.unstubAllGlobals());

const shape: AttentionShape = { numHeads: 8, numKvHeads: 2, headDim: 64, blockSize: 16, dtype: 'f16' };

/** A GPU with these names and features, and more limits. */
function gpuOf(changes: { vendor?: string; features?: readonly string[]; memory?: number } = {}): Gpu {
  const { gpu } = fakeGpu();
  const { vendor = 'v', features = ['subgroups'], memory = 32768 } = changes;
  return {
    ...gpu,
    device: Object.assign(gpu.device, { features: new Set(features) }),
    limits: { ...gpu.limits, maxComputeWorkgroupStorageSize: memory },
    adapter: { vendor, architecture: 'a', device: 'd', description: 'e', software: false },
  };
}

let gpu: Gpu;
let problems: string[];
const onTuningProblem = (problem: string) => void problems.push(problem);
beforeEach(() => {
  gpu = gpuOf();
  problems = [];
});

const tuningOf = (...entries: TuningEntry[]): Tuning => ({ version: 1, origin: tuningOrigin(gpu), entries });
const choose = (tuning: unknown, one = shape) => chooseKernels(gpu, one, { tuning, onTuningProblem });
const defaults = () => chooseKernels(gpu, shape);

/** Not the default ones. */
function tiles(one = shape) {
  const space = tileSpace(gpu, one);
  return { decode: space.decode[3], prefill: space.prefill[3] };
}

describe('products in f16, and of bytes', () => {
  const on = () => ({ ...gpu.features, shaderF16: true, subgroups: true });
  const halvesOf = (one: Gpu, dtype: AttentionShape['dtype'], options = {}) =>
    chooseKernels(one, { ...shape, dtype }, options).plainDecode.halves;

  it('serve 8-bit codes where the device has shader-f16', () => {
    expect((['f32', 'f16', 'int8', 'fp8_e4m3', 'fp8_e5m2'] as const).map((dtype) => halvesOf({ ...gpu, features: on() }, dtype))).toEqual([
      ...[false, false],
      ...[true, true, true],
    ]);
    expect(halvesOf(gpu, 'int8')).toBe(false);
  });

  it('are of bytes for keys in int8 where WGSL has dot products of bytes, with or without shader-f16', () => {
    const withBytes = { ...gpu, wgslLanguageFeatures: new Set(['packed_4x8_integer_dot_product']) };
    const bytesOf = (one: Gpu, dtype: AttentionShape['dtype'], options = {}) =>
      chooseKernels(one, { ...shape, dtype }, options).plainDecode.byteKeys;
    expect((['f16', 'int8', 'fp8_e4m3'] as const).map((dtype) => bytesOf(withBytes, dtype))).toEqual([false, true, false]);
    expect(bytesOf({ ...withBytes, features: on() }, 'int8', { shaderF16: false })).toBe(true);
    expect(bytesOf(gpu, 'int8')).toBe(false);
  });

  it('are left out on request, also when tuning, and where a CPU computes', () => {
    const device = { ...gpu, features: on() };
    expect(halvesOf(device, 'int8', { shaderF16: false })).toBe(false);
    const space = (options = {}) =>
      tileSpace(device, { ...shape, dtype: 'int8' }, options).decode.map((tile) => 'halves' in tile && tile.halves);
    expect(space()[0]).toBe(true);
    expect(new Set(space())).toEqual(new Set([true, false])); // not every GPU has f16 fast
    expect(new Set(space({ shaderF16: false }))).toEqual(new Set([false]));
    expect(halvesOf({ ...device, adapter: { ...gpu.adapter, software: true } }, 'int8')).toBe(false);
  });
});

describe('a tuning', () => {
  it('of this shape is taken, after a way through JSON too', () => {
    const splits = [{ sequences: 4, keys: 1024, targetWorkgroups: 1024, minSegmentKeys: 64 }];
    const tuning = JSON.parse(JSON.stringify(tuningOf({ shape, ...tiles(), splits })));
    expect(choose(tuning)).toMatchObject({ ...tiles(), splits });
    expect(problems).toEqual([]);
  });

  it('without this shape gives way to the nearest, and that to the default', () => {
    const far = { ...shape, numHeads: 32, numKvHeads: 8, blockSize: 64 };
    const near = { ...shape, numHeads: 16, numKvHeads: 4 };
    const space = tileSpace(gpu, shape);
    const tuning = tuningOf({ shape: far, decode: space.decode[1] }, { shape: near, decode: space.decode[2] });
    expect(choose(tuning).decode).toEqual(space.decode[2]);
    expect(choose(tuning, { ...shape, numHeads: 64, numKvHeads: 16, blockSize: 128 }).decode).toEqual(space.decode[1]);
    expect(choose(tuning).prefill).toEqual(space.prefill[0]);
    for (const other of [{ headDim: 128 }, { dtype: 'f32' }, { numHeads: 4 }] as const)
      expect(choose(tuning, { ...shape, ...other })).toEqual(chooseKernels(gpu, { ...shape, ...other }));
    expect(problems).toEqual([]);
  });

  it('gives way to options', () => {
    const splits = [{ sequences: 1, keys: 1024, targetWorkgroups: 1024, minSegmentKeys: 64 }];
    const tuning = tuningOf({ shape, splits });
    for (const options of [{ targetWorkgroups: 99 }, { minSegmentKeys: 32 }, { deterministic: true }] as const)
      expect(chooseKernels(gpu, shape, { tuning, ...options }).splits).toEqual(chooseKernels(gpu, shape, options).splits);
    const small = chooseKernels(gpu, shape, { tuning: tuningOf({ shape, ...tiles() }), maxInvocations: 16 });
    expect(small.decode).toBe(small.plainDecode);
    expect(small.plainDecode.invocations).toBeLessThanOrEqual(16);
  });

  it.each([
    ['undefined fields', {}],
    ['null', null],
    ['a text', 'tuning'],
    ['another version', { version: 2, origin: {}, entries: [] }],
    ['an entry without a shape', { entries: [{}] }],
    ['a dtype that is none', { entries: [{ shape: { ...shape, dtype: 'toString' } }] }],
    ['a tile that is none', { entries: [{ shape, decode: [1, 2] }] }],
    ['a tile of fractions', { entries: [{ shape, decode: { headTile: 0.5 } }] }],
    ['splits that are none', { entries: [{ shape, splits: [{ sequences: 1, keys: 1, targetWorkgroups: 1e9, minSegmentKeys: 64 }] }] }],
    ['endless splitting', { entries: [{ shape, splits: [{ sequences: 1, keys: 1, targetWorkgroups: 512, minSegmentKeys: 1 }] }] }],
  ])('%s is ignored, with a reason', (_, damage) => {
    const damaged = typeof damage === 'object' && damage !== null && 'entries' in damage ? { ...tuningOf(), ...damage } : damage;
    expect(choose(damaged)).toEqual(defaults());
    expect(problems).toEqual([expect.stringMatching(/^the tuning is damaged.*; it is ignored$/)]);
  });

  it.each([
    ['library', /library is "0.0.1"/],
    ['wgsl', /wgsl is/],
    ['adapter', /adapter is \{.*"w".*\}, not \{.*"v".*\}/],
    ['host', /host is/],
    ['features', /features is \["shader-f16".*, not \["subgroups"/],
  ])('of another %s is ignored, with a reason', (name, reason) => {
    const foreign = {
      ...{ library: '0.0.1', wgsl: '0', host: 'deno' },
      adapter: { ...tuningOrigin(gpu).adapter, vendor: 'w' },
      features: tuningOrigin(gpuOf({ features: ['shader-f16'] })).features,
    };
    const tuning = tuningOf({ shape, ...tiles() });
    expect(choose({ ...tuning, origin: { ...tuning.origin, [name]: Reflect.get(foreign, name) } })).toEqual(defaults());
    expect(problems).toEqual([expect.stringMatching(reason)]);
  });

  it.each([
    { headTile: 4, keyThreads: 3, keysPerThread: 1, valueThreads: 3, invocations: 6 },
    { headTile: 4, keyThreads: 8, keysPerThread: 4, valueThreads: 8, invocations: 1024 },
    { headTile: 64, keyThreads: 8, keysPerThread: 4, valueThreads: 8, invocations: 64 },
    { headTile: 4, keyThreads: 8, keysPerThread: 4, valueThreads: 8 },
  ])('with a tile that this device or shape cannot run is ignored as far: %o', (tile) => {
    const entry = { shape, decode: tile, prefill: tiles().prefill } as TuningEntry;
    expect(choose(tuningOf(entry))).toEqual({ ...defaults(), prefill: tiles().prefill });
    expect(problems).toEqual([expect.stringMatching(/^the tuned decode tile .* does not fit this device and shape; it is ignored$/)]);
  });
});

describe('the nearest split', () => {
  const split = (sequences: number, keys: number) => ({ sequences, keys, targetWorkgroups: sequences, minSegmentKeys: 64 });
  const splits = [split(1, 1024), split(1, 16384), split(16, 2048)];
  it.each([
    [1, 1, 0],
    [1, 1024, 0],
    [2, 5000, 1],
    [40, 100, 2],
    [6, 2048, 2],
    [0, 0, 0],
  ])('for %i sequences of %i keys is number %i', (sequences, keys, expected) => {
    expect(nearestSplit(splits, sequences, keys)).toBe(splits[expected]);
  });

  it('cuts rows in a plan, and takes no more room than the defaults have', () => {
    vi.stubGlobal('GPUBufferUsage', { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, UNIFORM: 64, STORAGE: 128 });
    const kv = new KvCache(gpu, { ...shape, numLayers: 1, numBlocks: 300, maxSequences: 2, maxBlocksPerSequence: 260 });
    const lone = { sequences: 1, keys: 2048, targetWorkgroups: 65536, minSegmentKeys: 256 };
    const pair = { sequences: 2, keys: 64, targetWorkgroups: 512, minSegmentKeys: 512 };
    const open = (tuning?: Tuning) => new PagedAttention(new LaunchCache(gpu), kv, { numHeads: 8, maxTokensPerStep: 8, tuning });
    const items = (attention: PagedAttention, keys: readonly number[]) => {
      const sequences = keys.map((length) => {
        const sequence = kv.open();
        kv.extend(sequence, length);
        return sequence;
      });
      attention.plan(sequences.map((sequence) => ({ sequence, queryLen: 1 })));
      for (const sequence of sequences) kv.close(sequence);
      return attention.writer.read('NUM_DECODE_ITEMS');
    };
    const tuned = open(tuningOf({ shape, splits: [lone, pair] }));
    expect([items(open(), [4096]), items(tuned, [4096]), items(tuned, [100, 100])]).toEqual([64, 16, 2]);
    const fromFile = { ...lone, leastWorkgroups: 'many' } as unknown as TunedSplit;
    expect(chooseKernels(gpu, shape, { tuning: tuningOf({ shape, splits: [fromFile] }) }).splits).toEqual([
      { ...lone, targetWorkgroups: 2 * 512 },
    ]);
  });
});

it('splits to try are the default and such as cut differently', () => {
  const choice = chooseKernels(gpu, shape);
  const space = splitSpace(shape, choice, { sequences: 1, tokens: 1, keys: 2048 });
  // By parts of 128 keys there would be 32 workgroups.
  expect(space[0]).toEqual({ targetWorkgroups: 512, minSegmentKeys: 64 });
  expect(splitSpace(shape, choice, { sequences: 1, tokens: 1, keys: 16384 })[0]).toEqual({ targetWorkgroups: 512, minSegmentKeys: 128 });
  expect(space.map(({ minSegmentKeys }) => minSegmentKeys)).toEqual(expect.arrayContaining([128, 256, 512]));
  expect(splitSpace(shape, choice, { sequences: 1, tokens: 1, keys: 32 })).toHaveLength(1);
});

describe('a store', () => {
  it('gives what it has for a shape without touching the device', async () => {
    const texts = new Map<string, string>();
    const store = textTunings({ read: async (name) => texts.get(name), write: async (name, text) => void texts.set(name, text) });
    const tuning = tuningOf({ shape, ...tiles() });
    await store.save(tuningKey(gpu), tuning);
    // The fake device has no method that could measure anything.
    expect(await tuneOnce(gpu, store, { shape })).toEqual(tuning);
    await expect(tuneOnce(gpu, store, { shape: { ...shape, headDim: 128 } })).rejects.toThrow();
    expect(await store.load(tuningKey(gpuOf({ vendor: 'w' })))).toBeUndefined();
  });

  it('that holds something else says so', async () => {
    const texts = new Map<string, string>();
    const files = {
      read: async (name: string) => texts.get(name),
      write: async (name: string, text: string) => void texts.set(name, text),
    };
    const store = textTunings(files, { onProblem: onTuningProblem });
    await store.save('key', tuningOf());
    const [name] = texts.keys();
    texts.set(name, '{"key":"key","tuning":{"version":1}}');
    expect([await store.load('key'), problems]).toEqual([
      undefined,
      [expect.stringMatching(/is no tuning of this version; it is ignored/)],
    ]);
  });
});

it.each([
  ['numHeads', { shape: { ...shape, numHeads: 7 } }],
  ['headDim', { shape: { ...shape, headDim: 7 } }],
  ['budget', { shape, budget: 0 }],
  ['keys', { shape, decode: [{ sequences: 1, keys: 0.5 }] }],
  ['tokens', { shape, prefill: [{ tokens: 9, keys: 8 }] }],
])('tuning checks %s', async (name, options) => {
  await expect(tune(gpu, options)).rejects.toThrow(InvalidArgumentError);
  await expect(tune(gpu, options)).rejects.toThrow(new RegExp(`^${name} is`));
});

it.each([
  ['Deno/2.9.5', 'deno'],
  ['Node.js/22', 'node'],
  ['Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/147.0.0.0 Safari/537.36', 'chromium'],
  ['Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0', 'firefox'],
  ['Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15', 'safari'],
  ['Something/1', 'Something/1'],
])('the host of %s is %s', (userAgent, expected) => {
  expect(hostName(userAgent)).toBe(expected);
});
