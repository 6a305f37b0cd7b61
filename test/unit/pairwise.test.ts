import { describe, expect, it } from 'vitest';
import { everyRun, fullRun, type GridCase, gridAxes, gridCases, gridRules, layoutName, lengthLists } from '../gpu/grid.ts';
import { type Axes, pairsOf, pairwise, type Rule } from '../gpu/pairwise.ts';
import { random } from '../harness/random.ts';

type Pair = string;

/** The pairs of all cases that the rules allow, by trying every one. */
function possiblePairs<C extends object>(axes: Axes<C>, rules: readonly Rule<C>[]): Set<Pair> {
  const names = Object.keys(axes) as (keyof C & string)[];
  const rows = names.reduce<Partial<C>[]>(
    (list, name) => list.flatMap((row) => axes[name].map((value) => ({ ...row, [name]: value }))),
    [{}],
  );
  const allowed = (rows as C[]).filter((row) => rules.every((rule) => rule.holds(row)));
  return new Set(allowed.flatMap(pairsOf));
}

interface Small {
  readonly a: number;
  readonly b: number;
  readonly c: string;
  readonly d: boolean;
  readonly e: number;
}
const small: Axes<Small> = { a: [1, 2, 3, 4], b: [1, 2, 3], c: ['x', 'y', 'z'], d: [false, true], e: [1, 2] };
const rules: readonly Rule<Small>[] = [
  { axes: ['a', 'b'], holds: ({ a, b }) => a !== 4 || b === 3 },
  { axes: ['b', 'c', 'd'], holds: ({ b, c, d }) => b !== 3 || (c === 'x' && d) },
  { axes: ['d', 'e'], holds: ({ d, e }) => !d || e === 1 },
];

describe('pairwise', () => {
  it.each([1, 2, 3, 4, 5])('lets exactly those pairs meet that can, with seed %s', (seed) => {
    const { cases, impossible } = pairwise({ axes: small, rules, random: random(seed) });
    const met = new Set(cases.flatMap(pairsOf));
    expect(met).toEqual(possiblePairs(small, rules));
    const all = possiblePairs(small, []);
    expect(new Set(impossible)).toEqual(new Set([...all].filter((pair) => !met.has(pair))));
    expect(cases.every((one) => rules.every((rule) => rule.holds(one)))).toBe(true);
    expect(cases.length).toBeLessThan(30);
  });

  it('needs not many more cases than the two longest axes have pairs', () => {
    const { cases } = pairwise({ axes: small, random: random(1) });
    expect(cases.length).toBeLessThanOrEqual(16);
  });

  it('goes on to the number asked for, and stops at it', () => {
    for (const count of [0, 1, 5, 50]) expect(pairwise({ axes: small, rules, random: random(1), count }).cases.length).toBe(count);
  });

  it('keeps to the bases given', () => {
    const bases = [
      { a: 1, b: 1 },
      { a: 2, b: 3 },
    ];
    const { cases, impossible } = pairwise({ axes: small, rules, random: random(1), bases });
    expect(new Set(cases.map(({ a, b }) => `${a} ${b}`))).toEqual(new Set(['1 1', '2 3']));
    const met = new Set(cases.flatMap(pairsOf));
    for (const pair of ['a 1, c y', 'a 1, e 2', 'c z, d false', 'd true, e 1']) expect(met).toContain(pair);
    expect(impossible).toContain('a 2, d false');
  });

  it('ends where nothing is allowed', () => {
    const never: Rule<Small> = { axes: ['a'], holds: () => false };
    expect(pairwise({ axes: small, rules: [never], random: random(1), count: 10 }).cases).toEqual([]);
  });
});

describe('the acceptance grid', () => {
  const names = Object.keys(gridAxes) as (keyof GridCase)[];
  /** Not only rare: excluded by a rule, whatever the layouts. */
  const excluded = (pair: Pair): boolean =>
    /^window none, keepFirst/.test(pair) ||
    pair === 'prefix told, deterministic true' ||
    pair === 'device default, buffers 3' ||
    /^lengths .*, (order (ranges|tree)|prefix (shared|told))$/.test(pair);

  /** Every pair of values, whether allowed or not. */
  const allPairs = names.flatMap((a, i) =>
    names.slice(i + 1).flatMap((b) => gridAxes[a].flatMap((x) => gridAxes[b].map((y) => ({ pair: `${a} ${x}, ${b} ${y}`, a, b })))),
  );
  const missingFrom = (cases: readonly GridCase[]) => {
    const met = new Set(cases.flatMap(pairsOf));
    return allPairs.filter(({ pair }) => !met.has(pair) && !excluded(pair));
  };

  it.each([1, 2])('with all layouts, lets any two values meet that may, with seed %s', (seed) => {
    const cases = gridCases({ seed, count: 300 });
    expect(cases.length).toBe(300);
    expect(missingFrom(cases)).toEqual([]);
    expect(cases.every((one) => gridRules.every((rule) => rule.holds(one)))).toBe(true);
  });

  const isOfLayout = (name: string) =>
    ['device', 'heads', 'headDim', 'blockSize', 'storage', 'buffers', 'maxInvocations', 'modified'].includes(name);
  const expectAllValues = (cases: readonly GridCase[]) => {
    for (const name of names) expect(new Set(cases.map((one) => one[name])), name).toEqual(new Set<unknown>(gridAxes[name]));
  };

  it.each([1, 3394590034])('in a full run, lets any two values meet that may, but for those of a layout, with seed %s', (seed) => {
    const cases = gridCases({ seed, ...fullRun });
    expect(cases.length).toBe(fullRun.count);
    expect(new Set(cases.map(layoutName)).size).toBeLessThanOrEqual(40);
    expect(missingFrom(cases).filter(({ a, b }) => !(isOfLayout(a) && isOfLayout(b)))).toEqual([]);
    expectAllValues(cases);
  });

  it.each([1, 2, 3, 3394590034])(
    'in a run, lets any two values of options meet, and hardly leaves one with a value of a layout out, with seed %s',
    (seed) => {
      const cases = gridCases({ seed, ...everyRun });
      expect(cases.length).toBe(everyRun.count);
      expect(new Set(cases.map(layoutName)).size).toBe(everyRun.layouts);
      const missing = missingFrom(cases);
      expect(missing.filter(({ a, b }) => !isOfLayout(a) && !isOfLayout(b))).toEqual([]);
      const searched = allPairs.filter(({ pair, a, b }) => !excluded(pair) && !(isOfLayout(a) && isOfLayout(b)));
      expect(missing.filter(({ a, b }) => !(isOfLayout(a) && isOfLayout(b))).length).toBeLessThan(searched.length / 100);
      expectAllValues(cases);
    },
  );

  it('gives lengths with several new tokens their ranges and trees, and those with a common prefix that', () => {
    const cases = gridCases({ seed: 5, count: 300 });
    for (const order of ['ranges', 'tree'] as const)
      expect(new Set(cases.filter((one) => one.order === order).map(({ lengths }) => lengths)).size).toBe(6);
    expect(new Set(cases.filter(({ prefix }) => prefix !== 'own').map(({ lengths }) => lengths)).size).toBeGreaterThanOrEqual(4);
  });

  it('makes the same cases of the same seed, and others of another', () => {
    const options = { count: 30, layouts: 4 };
    expect(gridCases({ seed: 7, ...options })).toEqual(gridCases({ seed: 7, ...options }));
    expect(gridCases({ seed: 8, ...options })).not.toEqual(gridCases({ seed: 7, ...options }));
  });

  it.each([
    [60, 8],
    [30, 4],
    [20, 2],
  ])('%s cases share %s layouts, half of them for each device', (count, layouts) => {
    for (const seed of [1, 2]) {
      const cases = gridCases({ seed, count, layouts });
      expect(cases.length).toBe(count);
      expect(new Set(cases.map(layoutName)).size).toBe(layouts);
      expect(new Set(cases.filter(({ device }) => device === 'default').map(layoutName)).size).toBe(layouts / 2);
      expect(new Set(cases.map(({ lengths }) => lengths)).size).toBeGreaterThan(8);
    }
  });

  it('has the lengths of the specification', () => {
    const sizes = Object.values(lengthLists).map((list) => list.length);
    expect(sizes).toContain(533);
    expect(lengthLists['one long among 31 short'].length).toBe(32);
  });
});
