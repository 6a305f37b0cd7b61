/** Runs cases of the grid on a device, holds them against float64, and remembers what they add up to. */
import type { Gpu, LaunchCache } from '../../src/index.ts';
import { type Random, random, type SpecContext, type Tolerance } from '../harness/harness.ts';
import { describe, type GridCase, headsOf, layoutName, storages } from './grid.ts';
import { chooseRows, expectedRow, type RowPlace, readStored, unstored, type Without } from './grid-check.ts';
import { type CaseChange, type CaseInputs, makeInputs } from './grid-inputs.ts';
import { type Attended, type CaseRun, GridSession, margin } from './grid-session.ts';
import { poison } from './paged.ts';

const sixteen = { atol: 2e-3, rtol: 1e-2 };
const close: Readonly<Record<string, Tolerance>> = { f32: { atol: 1e-5, rtol: 1e-4 }, f16: sixteen };
/** Against rows that were not rounded to codes. */
const quantised: Readonly<Record<string, number>> = { int8: 3e-2, fp8_e4m3: 1.5e-1, fp8_e5m2: 1.5e-1 };

/** Those that change what a row is. */
export const gridOptions = ['window', 'keepFirst', 'softcap', 'alibi', 'sinks', 'order', 'modified'] as const;

/** What the cases that ran on a device add up to. */
export class GridTotals {
  cases = 0;
  /** Options whose absence would have changed a result. */
  readonly effects = new Map<NonNullable<Without['option']>, number>();
  /** By storage: output rows held against attention over rows that were not rounded, and those with a value that codes themselves keep from being near. */
  readonly coarse = new Map<string, { rows: number; beyond: number; where: string }>();
  readonly #layouts = new Set<string>();
  readonly #caches = new Set<LaunchCache>();

  /** Notes where a case took its pipelines from. */
  note(of: GridCase, cache: LaunchCache): void {
    this.#layouts.add(layoutName(of));
    this.#caches.add(cache);
  }

  get layouts(): number {
    return this.#layouts.size;
  }

  /** Pipelines of all cases together. */
  get pipelines(): number {
    return [...this.#caches].reduce((sum, cache) => sum + cache.stats().pipelines, 0);
  }
}

/** A context whose buffers go when `close` is called, on a device of the caller's choice. */
function caseContext(t: SpecContext, gpu: Gpu): { readonly context: SpecContext; close(): Promise<void> } {
  const cleanups: (() => void | Promise<void>)[] = [];
  return {
    context: { ...t, gpu, defer: (cleanup) => void cleanups.push(cleanup) },
    async close() {
      for (const cleanup of cleanups.reverse()) await cleanup();
    },
  };
}

/** Runs the cases one after another. Throws when all have run, with every case that failed: its parameters, and the worst place. */
export async function runCases(
  t: SpecContext,
  gpu: Gpu,
  cases: readonly (readonly [index: number, of: GridCase])[],
  totals: GridTotals,
  change: CaseChange = {},
): Promise<void> {
  const failures: string[] = [];
  for (const [index, of] of cases) {
    const { context, close: end } = caseContext(t, gpu);
    try {
      await runCase(context, of, random(t.seed + 7919 * index), totals, change);
    } catch (error) {
      failures.push(`case ${index} (${describe(of)}): ${error instanceof Error ? error.message : error}`);
    } finally {
      await end();
    }
  }
  if (failures.length > 0) {
    throw new Error(`${failures.length} of ${cases.length} cases fail with --host ${t.host} --seed ${t.seed}\n${failures.join('\n')}`);
  }
}

async function runCase(t: SpecContext, of: GridCase, numbers: Random, totals: GridTotals, change: CaseChange): Promise<void> {
  const inputs = makeInputs(of, t.seed, numbers, change);
  const session = await GridSession.open(t, of, inputs, numbers, change);
  totals.note(of, session.cache);
  const busy = inputs.sequences.flatMap(({ queryLen }, i) => (queryLen > 0 ? [i] : []));
  const run = await session.run(of.deterministic ? busy[numbers.integer(busy.length)] : undefined);
  checkWritten(of, inputs, run);
  const rows = chooseRows(of, inputs, numbers);
  const stored = readStored(of, inputs, run);
  const { dtype } = storages[of.storage];
  const results = rows.map((row) => expectedRow(of, inputs, row, stored[row.sequence]));
  const actual = rows.map((row) => rowOf(of, run, row));
  const outputs = results.map(({ output }) => output);
  compare('output', rows, actual, outputs, close[dtype] ?? sixteen);
  if (run.logSumExp) {
    const sums = rows.map(({ batchToken, head }) => run.logSumExp!.subarray(batchToken * headsOf(of).numHeads + head).subarray(0, 1));
    const expected = results.map(({ logSumExp }) => Float64Array.of(logSumExp));
    compare('log-sum-exp', rows, sums, expected, close[dtype] ?? sixteen);
  }
  if (quantised[dtype]) compareUnstored(of, inputs, rows, actual, outputs, totals);
  if (run.alone) checkAlone(of, inputs, run, run.alone);
  countEffects(of, inputs, rows, stored, totals);
  totals.cases++;
}

/** Every value of every row was written, and nothing behind them. */
function checkWritten(of: GridCase, inputs: CaseInputs, { output, logSumExp }: Attended): void {
  const { numHeads } = headsOf(of);
  const tokens = inputs.sequences.reduce((sum, { queryLen }) => sum + queryLen, 0);
  const end = tokens * numHeads * of.headDim;
  for (let i = 0; i < end; i++) if (!Number.isFinite(output[i]) || output[i] === poison) throw new Error(`output[${i}] is ${output[i]}`);
  for (let i = end; i < end + margin; i++) if (output[i] !== poison) throw new Error(`output[${i}], behind the last row, is ${output[i]}`);
  const wrong = logSumExp?.findIndex((value) => !(Math.abs(value) < 1e30)) ?? -1;
  if (wrong >= 0) throw new Error(`the log-sum-exp of row ${wrong} is ${logSumExp![wrong]}`);
}

function rowOf(of: GridCase, { output }: Attended, { batchToken, head }: Pick<RowPlace, 'batchToken' | 'head'>): Float32Array {
  const first = (batchToken * headsOf(of).numHeads + head) * of.headDim;
  return output.subarray(first, first + of.headDim);
}

/** Throws with the first and the worst value outside the tolerance, and where they are. @param skips values not to look at */
function compare(
  label: string,
  rows: readonly RowPlace[],
  actual: readonly Float32Array[],
  expected: readonly Float64Array[],
  { atol = 0, rtol = 0 }: Tolerance,
  skips: (row: number, d: number) => boolean = () => false,
): void {
  const bad: { readonly text: string; readonly excess: number }[] = [];
  let values = 0;
  rows.forEach(({ batchToken, sequence, token, head }, r) => {
    for (let d = 0; d < expected[r].length; d++) {
      values++;
      const excess = Math.abs(actual[r][d] - expected[r][d]) / (atol + rtol * Math.abs(expected[r][d]));
      if (excess <= 1 || skips(r, d)) continue;
      const place = `[${batchToken}, ${head}, ${d}] (token ${token} of sequence ${sequence})`;
      const times = excess.toPrecision(3);
      const text = `${place} is ${actual[r][d]}, expected ${expected[r][d]}, ${times} times the tolerance`;
      bad.push({ text, excess: Number.isNaN(excess) ? Number.POSITIVE_INFINITY : excess });
    }
  });
  if (bad.length === 0) return;
  const worst = bad.reduce((a, b) => (b.excess > a.excess ? b : a));
  const count = `${bad.length} of ${values} values in ${rows.length} rows outside atol ${atol}, rtol ${rtol}`;
  throw new Error(`${label}: ${count}; first ${bad[0].text}; worst ${worst.text}`);
}

/**
 * Results against attention over rows that were not rounded to codes. Where float64 attention over the rounded rows is outside the tolerance,
 * that is the format's doing: rows with such values are counted. Values are compared where the rounding to codes leaves as much of the tolerance as
 * results may be off from the rounded rows.
 */
function compareUnstored(
  of: GridCase,
  inputs: CaseInputs,
  rows: readonly RowPlace[],
  actual: readonly Float32Array[],
  rounded: readonly Float64Array[],
  totals: GridTotals,
): void {
  const { dtype } = storages[of.storage];
  const tolerance = quantised[dtype];
  const known = new Map<number, ReturnType<typeof unstored>>();
  const exact = rows.map((row) => {
    const keys = known.get(row.sequence) ?? unstored(of, inputs, inputs.sequences[row.sequence]);
    known.set(row.sequence, keys);
    return expectedRow(of, inputs, row, keys).output;
  });
  const count = totals.coarse.get(of.storage) ?? { rows: 0, beyond: 0, where: '' };
  totals.coarse.set(of.storage, count);
  const left = (r: number, d: number) => tolerance + tolerance * Math.abs(exact[r][d]) - Math.abs(rounded[r][d] - exact[r][d]);
  const leavesTooLittle = (r: number, d: number) => left(r, d) < sixteen.atol + sixteen.rtol * Math.abs(rounded[r][d]);
  rows.forEach(({ batchToken, head }, r) => {
    count.rows++;
    const d = exact[r].findIndex((_, d) => left(r, d) < 0);
    if (d < 0) return;
    count.beyond++;
    count.where = `[${batchToken}, ${head}, ${d}] is ${rounded[r][d]}, expected ${exact[r][d]} (${describe(of)})`;
  });
  compare('output, against unrounded rows', rows, actual, exact, { atol: tolerance, rtol: tolerance }, leavesTooLittle);
}

/** The same bits alone and in the batch. */
function checkAlone(of: GridCase, inputs: CaseInputs, batch: Attended, alone: NonNullable<CaseRun['alone']>): void {
  const { numHeads } = headsOf(of);
  const first = inputs.sequences.slice(0, alone.sequence).reduce((sum, { queryLen }) => sum + queryLen, 0);
  const same = (label: string, one: Float32Array, all: Float32Array, size: number) => {
    for (let i = 0; i < inputs.sequences[alone.sequence].queryLen * size; i++) {
      if (!Object.is(one[i], all[first * size + i]))
        throw new Error(
          `${label}[${first * size + i}] is ${all[first * size + i]} in the batch and ${one[i]} alone (sequence ${alone.sequence})`,
        );
    }
  };
  same('output', alone.output, batch.output, numHeads * of.headDim);
  if (alone.logSumExp && batch.logSumExp) same('log-sum-exp', alone.logSumExp, batch.logSumExp, numHeads);
}

/** Which options matter: the last row changes where one is left out. */
function countEffects(
  of: GridCase,
  inputs: CaseInputs,
  rows: readonly RowPlace[],
  stored: ReturnType<typeof readStored>,
  totals: GridTotals,
): void {
  const row = rows.reduce((last, one) => (one.batchToken > last.batchToken ? one : last));
  const values = (without: Without) => [...expectedRow(of, inputs, row, stored[row.sequence], without).output];
  const expected = values({});
  for (const option of gridOptions) {
    if (of[option] === 'none' || of[option] === 0 || of[option] === false || of[option] === 'causal') continue;
    if (values({ option }).some((value, d) => Math.abs(value - expected[d]) > 0.05))
      totals.effects.set(option, (totals.effects.get(option) ?? 0) + 1);
  }
}
