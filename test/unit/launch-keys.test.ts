import { describe, expect, it } from 'vitest';
import { fullKey, type KernelEntry, keysOf, namedKeys, sameKeys, selectorsOf, type Values } from '../../src/launch/entry.ts';
import { Histogram } from '../../src/launch/histogram.ts';
import {
  type ArgumentDeclarations,
  bucket,
  defineKernel,
  frozen,
  type Kernel,
  key,
  perCall,
  type SelectorValue,
  shapeOf,
  writeBuffer,
} from '../../src/launch/kernel.ts';
import { describeEntries, readManifest } from '../../src/launch/manifest.ts';
import { random } from '../harness/random.ts';

/** Values that look alike as text, or compare alike. */
const alike: readonly SelectorValue[] = [
  ...[0, -0, 1, 11, 16, 6, 116, 1.5, -1, 1e21, 2 ** 32, Number.NaN, Number.POSITIVE_INFINITY],
  ...[
    '0',
    '-0',
    '1',
    '11',
    '16',
    '6',
    '116',
    '1.5',
    'NaN',
    'Infinity',
    'true',
    'false',
    '',
    ' ',
    ',',
    '1,16',
    '"',
    '\\',
    '["number","1"]',
    '1,string16',
    '16,string6',
  ],
  ...[true, false],
];

function kernelOf(keys: number, frozenValues: number): Kernel {
  const declarations: ArgumentDeclarations = Object.fromEntries([
    ...Array.from({ length: keys }, (_, i) => [`key${i}`, key('text')] as const),
    ...Array.from({ length: frozenValues }, (_, i) => [`frozen${i}`, frozen('text')] as const),
  ]);
  return defineKernel({
    name: 'any',
    source: [''],
    arguments: declarations,
    workgroups: { x: () => 1 },
    singleVariant: true,
  }) as unknown as Kernel;
}

const minusZero = Symbol('a Map takes 0 and -0 for one');
const end = Symbol('end of a tuple');

/** Tuples told apart by value and type, one position after the other. */
class Trie {
  size = 0;
  readonly #root = new Map<unknown, unknown>();

  add(tuple: readonly SelectorValue[]): void {
    let node = this.#root;
    for (const value of tuple) {
      const step = Object.is(value, -0) ? minusZero : value;
      if (!node.has(step)) node.set(step, new Map());
      node = node.get(step) as Map<unknown, unknown>;
    }
    if (!node.has(end)) this.size++;
    node.set(end, true);
  }
}

const identical = (a: readonly SelectorValue[], b: readonly SelectorValue[]) =>
  a.length === b.length && a.every((value, i) => typeof value === typeof b[i] && Object.is(value, b[i]));

describe('keys', () => {
  const numbers = random(1_606_16);
  const anyValue = (): SelectorValue => {
    const kind = numbers.integer(4);
    if (kind === 0) return numbers.integer(20) - 4;
    if (kind === 1) return String(numbers.integer(20) - 4);
    return alike[numbers.integer(alike.length)];
  };
  const tuples = (count: number, length: number) =>
    Array.from({ length: count }, () => Array.from({ length }, anyValue) as readonly SelectorValue[]);

  it('of 100,000 random tuples, no two different ones have the same full key, and the same ones have one', () => {
    for (const [keys, frozenValues] of [
      [1, 0],
      [2, 0],
      [1, 1],
      [3, 1],
      [2, 3],
    ]) {
      const shape = shapeOf(kernelOf(keys, frozenValues));
      const names = [...shape.keys.map(({ name }) => name), ...shape.frozen];
      const known = new Map<string, readonly SelectorValue[]>();
      const distinct = new Trie();
      for (const tuple of tuples(20_000, keys + frozenValues)) {
        const text = fullKey(shape, Object.fromEntries(names.map((name, i) => [name, tuple[i]])));
        const before = known.get(text);
        if (before && !identical(before, tuple)) expect.unreachable(`${text} stands for ${String(before)} and ${String(tuple)}`);
        known.set(text, tuple);
        distinct.add(tuple);
      }
      expect(known.size).toBe(distinct.size);
      expect(known.size).toBeGreaterThan(20);
    }
  });

  it('100,000 random pairs are the same where they are identical, value by value', () => {
    let same = 0;
    for (let pair = 0; pair < 100_000; pair++) {
      const [a] = tuples(1, 1 + (pair % 4));
      const b = [...a];
      if (pair % 3 > 0) b[numbers.integer(b.length)] = anyValue();
      const expected = identical(a, b);
      if (sameKeys(a, b) !== expected) expect.unreachable(`${JSON.stringify(a)} and ${JSON.stringify(b)}`);
      same += expected ? 1 : 0;
    }
    expect(same).toBeGreaterThan(33_333);
    expect(same).toBeLessThan(50_000);
  });

  it('tells every pair of values that look alike', () => {
    for (const [i, a] of alike.entries()) {
      for (const [j, b] of alike.entries()) expect([a, b, sameKeys([a], [b])]).toEqual([a, b, i === j]);
    }
  });

  it('of a bucket is what its function makes of the value', () => {
    const shape = shapeOf(sized);
    const args = (size: number): Values => ({ size, label: 'x', heads: 3, place: 0 });
    expect(keysOf(shape, args(8))).toEqual([true, 'x']);
    expect(keysOf(shape, args(9))).toEqual([false, 'x']);
    expect(fullKey(shape, args(8))).toBe(fullKey(shape, args(12)));
    expect(fullKey(shape, args(8))).not.toBe(fullKey(shape, args(9)));
    expect(namedKeys(shape, [true, 'x'])).toEqual({ size: true, label: 'x' });
    expect(selectorsOf(shape, new Map([['heads', 3]]), [true, 'x'])).toEqual({ heads: 3, size: true, label: 'x' });
  });
});

const sized = defineKernel({
  name: 'sized',
  source: ['fn main() {}'],
  prelude: ({ label, heads }) => `// ${label} ${heads}`,
  arguments: {
    output: writeBuffer,
    size: bucket('bool', (size) => size % 4 === 0),
    label: key('text'),
    heads: frozen('u32'),
    place: perCall('u32'),
  },
  workgroups: { x: () => 1 },
}) as unknown as Kernel;

function entryOf(kernel: Kernel, keys: readonly (readonly SelectorValue[])[], heads: number): KernelEntry {
  return {
    kernel,
    shape: shapeOf(kernel),
    frozen: new Map([['heads', heads]]),
    variants: keys.map((one) => ({ keys: one, pipeline: {}, used: 0 })),
  } as unknown as KernelEntry;
}

describe('manifests', () => {
  const manifest = describeEntries([
    entryOf(
      sized,
      [
        [true, 'a'],
        [false, '1'],
        [false, 1],
      ],
      4,
    ),
  ]);
  const parsed = () => JSON.parse(JSON.stringify(manifest)) as { version: number; variants: Record<string, unknown>[] };

  it('bring back kernels, keys and frozen values, typed', () => {
    const { variants, skipped } = readManifest(parsed(), [sized]);
    expect(skipped).toEqual([]);
    expect(variants).toEqual([
      { kernel: sized, frozen: { heads: 4 }, keys: { size: true, label: 'a' } },
      { kernel: sized, frozen: { heads: 4 }, keys: { size: false, label: '1' } },
      { kernel: sized, frozen: { heads: 4 }, keys: { size: false, label: 1 } },
    ]);
  });

  it('find their kernel among namesakes', () => {
    const twin = { ...sized, source: ['fn main() { other(); }'] } as Kernel;
    for (const kernels of [
      [twin, sized],
      [sized, twin],
    ])
      expect(readManifest(parsed(), kernels).variants.map(({ kernel }) => kernel)).toEqual([sized, sized, sized]);
    expect(readManifest(parsed(), [twin]).skipped).toHaveLength(3);
  });

  it('leave out what changed, variant by variant', () => {
    const changed = parsed();
    changed.variants[0].frozen = { heads: 5 }; // the prelude says so
    changed.variants[1].keys = { size: null, label: '1' };
    const { variants, skipped } = readManifest(changed, [sized]);
    expect(variants.map(({ keys }) => keys)).toEqual([{ size: false, label: 1 }]);
    expect(skipped).toEqual(Array(2).fill('sized: its WGSL or its arguments have changed'));
    expect(readManifest(parsed(), []).skipped).toEqual(Array(3).fill('sized: no such kernel'));
  });

  it('that are damaged hold nothing and say so', () => {
    const [variant] = parsed().variants;
    const without = (name: string) => ({ version: 1, variants: [{ ...variant, [name]: undefined }] });
    const damaged = ['kernel', 'wgsl', 'frozen', 'keys'].map(without);
    for (const bad of [undefined, null, 3, '', [], {}, { version: 2, variants: [] }, { version: 1, variants: {} }, ...damaged]) {
      const { variants, skipped } = readManifest(bad, [sized]);
      expect(variants).toEqual([]);
      expect(skipped).toEqual(['the manifest is damaged or of another version']);
    }
  });
});

describe('Histogram', () => {
  it('counts by powers of two', () => {
    const histogram = new Histogram();
    expect(histogram.entries()).toEqual([]);
    for (const microseconds of [0, 0.5, 1, 1.5, 2, 3.9, 4, 100, 127, 128]) histogram.add(microseconds / 1000);
    expect(histogram.entries()).toEqual([
      [1, 2],
      [2, 2],
      [4, 2],
      [8, 1],
      [128, 2],
      [256, 1],
    ]);
  });

  it('puts every duration below its bound and not below half of it; the last bucket takes what is longer', () => {
    const numbers = random(3);
    for (let i = 0; i < 1000; i++) {
      const microseconds = 2 ** (numbers.uniform() * 18);
      const histogram = new Histogram();
      histogram.add(microseconds / 1000);
      const [[bound]] = histogram.entries();
      const seen = (microseconds / 1000) * 1000;
      expect(seen < bound && seen >= bound / 2).toBe(true);
    }
    const long = new Histogram();
    for (const milliseconds of [1e3, 1e6, Number.POSITIVE_INFINITY]) long.add(milliseconds);
    expect(long.entries()).toEqual([[2 ** 19, 3]]);
  });
});
