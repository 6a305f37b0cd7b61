/** Sets of cases in which every two values of different axes meet that may meet. Pure. */
import type { Random } from '../harness/random.ts';

/** The values that each property of a case can have. */
export type Axes<C> = { readonly [K in keyof C]: readonly C[K][] };

/** What holds of every case; asked as soon as all of its axes have a value. */
export interface Rule<C> {
  readonly axes: readonly (keyof C & string)[];
  holds(of: C): boolean;
}

export interface PairwiseOptions<C> {
  readonly axes: Axes<C>;
  readonly rules?: readonly Rule<C>[];
  readonly random: Random;
  /** The only combinations of some axes: every case has one of these. Pairs within them are not searched for. */
  readonly bases?: readonly Partial<C>[];
  /** Cases to make: fewer leave pairs out, more let pairs meet again. Default: as many as let all pairs meet once. */
  readonly count?: number;
}

export interface PairwiseCases<C> {
  readonly cases: readonly C[];
  /** Pairs that the rules allow in no case, as "axis value, axis value". */
  readonly impossible: readonly string[];
}

/** The pairs of values that a case has, each as "axis value, axis value". */
export function pairsOf<C extends object>(of: C): string[] {
  const values = Object.entries(of).map(([name, value]) => `${name} ${value}`);
  return values.flatMap((a, i) => values.slice(i + 1).map((b) => `${a}, ${b}`));
}

/** Rows tried for each case; the one with the most new pairs is taken. */
const tries = 6;

/**
 * Greedy, in the way of AETG (Cohen et al. 1997): each row starts from a pair that has not met, so that it ends, and goes on axis by axis with
 * the value that meets most others for the first time. Where rules forbid the rest of a row, it turns back; a pair for which no row is
 * left is impossible.
 */
export function pairwise<C extends object>({ axes, rules = [], random, bases = [{}], count }: PairwiseOptions<C>): PairwiseCases<C> {
  const names = Object.keys(axes) as (keyof C & string)[];
  const fixed = Object.keys(bases[0]) as (keyof C & string)[];
  const values = names.map((name) => (fixed.includes(name) ? [...new Set(bases.map((base) => base[name] as C[typeof name]))] : axes[name]));
  const offsets = values.map((_, axis) => values.slice(0, axis).reduce((sum, list) => sum + list.length, 0));
  const total = values.reduce((sum, list) => sum + list.length, 0);
  const axisOf = values.flatMap((list, axis) => list.map(() => axis));
  const free = names.map((_, axis) => axis).filter((axis) => !fixed.includes(names[axis]));
  const baseRows = bases.map((base) =>
    fixed.map((name) => [names.indexOf(name), values[names.indexOf(name)].indexOf(base[name]!)] as const),
  );
  const ofAxis = names.map((name) => rules.filter((rule) => rule.axes.includes(name)));

  /** By two values' numbers: 1 where they are still to meet, 2 where no case has both. */
  const state = new Uint8Array(total * total);
  const expectAll = () => {
    for (let a = 0; a < total; a++)
      for (let b = 0; b < total; b++) {
        const searched = axisOf[a] < axisOf[b] && !(fixed.includes(names[axisOf[a]]) && fixed.includes(names[axisOf[b]]));
        if (searched && state[a * total + b] !== 2) state[a * total + b] = 1;
      }
  };
  const numberOf = (axis: number, value: number) => offsets[axis] + value;
  const pairOf = (a: number, b: number) => Math.min(a, b) * total + Math.max(a, b);
  const gain = (row: readonly number[], axis: number, value: number) =>
    row.reduce(
      (sum, other, i) => sum + (other >= 0 && i !== axis && state[pairOf(numberOf(i, other), numberOf(axis, value))] === 1 ? 1 : 0),
      0,
    );
  const caseOf = (row: readonly number[]) => Object.fromEntries(names.map((name, i) => [name, values[i][row[i]]])) as C;
  const allowed = (row: readonly number[], axis: number) =>
    ofAxis[axis].every((rule) => rule.axes.some((name) => row[names.indexOf(name)] < 0) || rule.holds(caseOf(row)));
  const byGain = (gains: readonly number[]) => random.permutation(gains.length).sort((a, b) => gains[b] - gains[a]);

  const set = (row: number[], assignments: readonly (readonly [axis: number, value: number])[]): number[] | undefined => {
    const next = [...row];
    for (const [axis, value] of assignments) {
      if (next[axis] >= 0 && next[axis] !== value) return undefined;
      next[axis] = value;
    }
    return assignments.every(([axis]) => allowed(next, axis)) ? next : undefined;
  };
  /** Completes a row; undefined where that is impossible. */
  const fill = (row: number[], order: readonly number[]): number[] | undefined => {
    const axis = order.find((one) => row[one] < 0);
    if (axis === undefined) return row;
    for (const value of byGain(values[axis].map((_, i) => gain(row, axis, i)))) {
      const next = set(row, [[axis, value]]);
      const done = next && fill(next, order);
      if (done) return done;
    }
    return undefined;
  };
  const used = baseRows.map(() => 0);
  const rowWith = (pair: number): number[] | undefined => {
    const start = [Math.floor(pair / total), pair % total].map((number) => [axisOf[number], number - offsets[axisOf[number]]] as const);
    const seed = set(
      names.map(() => -1),
      start,
    );
    // Axes of many rules first: what cannot be is found early.
    const order = random
      .permutation(free.length)
      .map((i) => free[i])
      .sort((a, b) => ofAxis[b].length - ofAxis[a].length);
    for (const base of seed ? byGain(used.map((times) => -times)) : []) {
      const row = set(seed!, baseRows[base]);
      const done = row && fill(row, order);
      if (done) return done;
    }
    return undefined;
  };

  const cases: C[] = [];
  const impossible: string[] = [];
  expectAll();
  while (cases.length < (count ?? Number.POSITIVE_INFINITY)) {
    let open = [...state.keys()].filter((pair) => state[pair] === 1);
    if (open.length === 0 && count !== undefined) {
      expectAll();
      open = [...state.keys()].filter((pair) => state[pair] === 1);
    }
    if (open.length === 0) break;
    let best: { readonly row: number[]; readonly pairs: number[] } | undefined;
    for (let i = 0; i < tries && open.length > 0; i++) {
      const pair = open[random.integer(open.length)];
      const row = rowWith(pair);
      if (!row) {
        state[pair] = 2;
        const text = (number: number) => `${names[axisOf[number]]} ${values[axisOf[number]][number - offsets[axisOf[number]]]}`;
        impossible.push(`${text(Math.floor(pair / total))}, ${text(pair % total)}`);
        open = open.filter((one) => one !== pair);
        continue;
      }
      const numbers = row.map((value, axis) => numberOf(axis, value));
      const pairs = numbers.flatMap((a, i) => numbers.slice(i + 1).map((b) => pairOf(a, b))).filter((one) => state[one] === 1);
      if (!best || pairs.length > best.pairs.length) best = { row, pairs };
    }
    if (!best) continue;
    const { row, pairs } = best;
    for (const pair of pairs) state[pair] = 0;
    const base = baseRows.findIndex((assignments) => assignments.every(([axis, value]) => row[axis] === value));
    used[base]++;
    cases.push(caseOf(row));
  }
  return { cases, impossible };
}
