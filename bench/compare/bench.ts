import type { Gpu } from 'pagewise';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { openOurs } from './ours.ts';
import { watchPasses } from './pass-times.ts';
import { openPlain } from './plain.ts';
import type { CompareCase, Subject, Tolerance } from './subject.ts';
import { makeTensors, referenceRow, type Tensors } from './tensors.ts';
import { compareWholeModel, wholeModelCases } from './whole-model.ts';

type Open = (gpu: Gpu, one: CompareCase, tensors: Tensors) => Promise<Subject>;

/** A way to attend that is in the comparison, and what it cannot do. */
interface Rival {
  readonly open: Open;
  /** Why a case is not run, where it is not. */
  readonly refuses?: (gpu: Gpu, one: CompareCase) => string | undefined;
  /** Code of others: where it fails or is wrong, it has no times and a note instead. */
  readonly foreign?: boolean;
}

const tolerances: Readonly<Record<CompareCase['kv'], Tolerance>> = { f32: { atol: 1e-5, rtol: 1e-4 }, f16: { atol: 2e-3, rtol: 1e-2 } };

/** onnxruntime computes in f16 where its cache is in f16; a wrong key or value is still far off. */
const onnxruntimeHalves: Tolerance = { atol: 2e-2, rtol: 5e-2 };

/** How much is measured. */
interface Effort {
  readonly rounds: number;
  /** Milliseconds that a measurement takes in about. */
  readonly busy: number;
}

/** Attention, then the whole model: ours and that of onnxruntime-web, where the host is a browser, on one device; outputs compared, timed in turn. */
export async function benchCompare(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const chosen = (name: string) => name.includes(options.filter ?? '');
  const attention = await benchAttention(gpu, host, options, chosen);
  const types = wholeModelCases.filter(({ name }) => chosen(name)).map(({ type }) => type);
  const model = types.length > 0 ? await compareWholeModel(gpu, host, options, types) : { rows: [], notes: [] };
  const notes = host.onnxruntime ? [] : ['onnxruntime-web runs in Chromium alone (--host chromium): it is not in this table.'];
  return { rows: [...attention.rows, ...model.rows], notes: [...attention.notes, ...model.notes, ...notes] };
}

/** Our attention, that of onnxruntime-web and a plain contiguous one: the same tensors. */
async function benchAttention(gpu: Gpu, host: BenchHost, options: BenchOptions, chosen: (name: string) => boolean) {
  const { software } = gpu.adapter;
  // Deno learns of the end of the work only every 11 ms.
  const busy = options.quick ? 4 : host.name === 'deno' ? 100 : software ? 100 : 24;
  const effort = { rounds: options.rounds ?? (options.quick ? 2 : software ? 5 : 11), busy };
  const rivals: Rival[] = [{ open: openOurs }, { open: openPlain }];
  if (host.onnxruntime) rivals.push({ open: (await host.onnxruntime()).openOnnxruntime, refuses: onnxruntimeRefuses, foreign: true });
  const all = options.quick ? quickCases : software ? smallCases : largeCases;
  const cases = all.filter(({ name, kv }) => chosen(`${name}, ${kv}`));
  if (cases.length === 0) return { rows: [], notes: [] };
  const { numHeads, numKvHeads, headDim, blockSize } = all[0];
  const notes = new Set([
    `Heads ${numHeads}/${numKvHeads}, head dim ${headDim}, block size ${blockSize}. A step is new keys and values into the cache, then causal attention of the new queries, in each of several layers; us are of a layer.`,
    `Wall-clock time of so many steps between two waits for the queue, less that of half as many, so that the wait cancels; host time counts where the GPU waits for it. The subjects in turn, medians of ${effort.rounds} rounds.`,
    ...(gpu.features.timestampQuery
      ? ['"GPU time" rows: the same steps, timestamps at either end of every compute pass, whoever makes it.']
      : ['No "GPU time" rows: the device has no timestamp-query.']),
    '"Error" rows: the largest difference from float64 in the rows that were checked; every output was also held against ours, all of it.',
    "A ratio is the other's time over ours, of the same round: below 1 we lose.",
    ...(software || options.quick ? ['Small shapes, to show that it runs: these times rank nothing.'] : []),
  ]);
  const rows: BenchRow[] = [];
  for (const one of cases) {
    const found = await compare(gpu, one, rivals, effort);
    rows.push(...found.rows);
    for (const note of found.notes) notes.add(note);
    host.print(`${one.name}, ${one.kv}: done`);
  }
  return { rows, notes: [...notes] };
}

/** Sets up one case in all ways, checks the outputs, and times. @throws {Error} where an output of our code is wrong */
async function compare(gpu: Gpu, one: CompareCase, rivals: readonly Rival[], effort: Effort) {
  const tensors = await makeTensors(gpu, one);
  const reference = sampleOf(one).map(({ token, head }) => ({ token, head, expected: referenceRow(one, token, head) }));
  const opened: Subject[] = [];
  const subjects: CheckedSubject[] = [];
  const notes: string[] = [];
  try {
    for (const { open, refuses, foreign } of rivals) {
      const refusal = refuses?.(gpu, one);
      if (refusal) notes.push(refusal);
      if (refusal) continue;
      try {
        const subject = await open(gpu, one, tensors);
        opened.push(subject);
        subjects.push({ ...subject, ...(await check(one, subject, reference, subjects[0]?.checked)) });
      } catch (error) {
        if (!foreign) throw error;
        notes.push(`FAILED in ${one.name} (${one.kv}), and is not timed there: ${error instanceof Error ? error.message : error}`);
      }
    }
    const rows = rowsOf(one, subjects, '', await timeInTurn(gpu, one, subjects, effort));
    if (gpu.features.timestampQuery) rows.push(...rowsOf(one, subjects, ', GPU time', await gpuTimeInTurn(gpu, one, subjects, effort)));
    for (const { name, error } of subjects) rows.push(rowOf(`${name}, error`, { case: one.name, kv: one.kv }, '1e-6', [error * 1e6]));
    return { rows, notes: [...notes, ...subjects.flatMap((subject) => subject.notes)] };
  } finally {
    for (const subject of opened) await subject.destroy();
    tensors.destroy();
  }
}

/** Times and ratios, from samples by subject and round; the first subject is ours. */
function rowsOf(
  { name, kv }: CompareCase,
  subjects: readonly Subject[],
  suffix: string,
  samples: readonly (readonly number[])[],
): BenchRow[] {
  const params = { case: name, kv };
  const times = subjects.map((subject, i) => rowOf(`${subject.name}${suffix}`, params, 'us', samples[i]));
  const ratios = subjects.slice(1).map((subject, i) => {
    const ratio = samples[i + 1].map((time, round) => time / samples[0][round]);
    return rowOf(`${subject.name} / ours${suffix}`, params, 'x', ratio);
  });
  return [...times, ...ratios];
}

interface ReferenceRow {
  readonly token: number;
  readonly head: number;
  /** [headDim] */
  readonly expected: Float64Array;
}

interface CheckedSubject extends Subject {
  /** The largest difference from float64. */
  readonly error: number;
  /** The output that was checked. */
  readonly checked: Float32Array;
}

/** Holds a subject's output against float64 in a sample of rows, and against our output, where there is one yet, in all of it. @throws {Error} when it is wrong */
async function check(one: CompareCase, subject: Subject, reference: readonly ReferenceRow[], ours?: Float32Array) {
  await subject.enqueue(1);
  const checked = await subject.output();
  const tolerance = toleranceOf(subject.name, one);
  const where = `in ${one.name} (${one.kv})`;
  const errors = reference.map(({ token, head, expected }) => {
    const at = (token * one.numHeads + head) * one.headDim;
    const row = checked.subarray(at, at + one.headDim);
    return largestDifference(`${subject.name} is wrong ${where}: token ${token}, head ${head}`, row, expected, tolerance);
  });
  const { atol, rtol } = tolerances[one.kv];
  const both = { atol: tolerance.atol + atol, rtol: tolerance.rtol + rtol };
  if (ours) largestDifference(`${subject.name} differs from ours ${where}`, checked, ours, both);
  return { checked, error: Math.max(...errors) };
}

function toleranceOf(name: string, { kv }: CompareCase): Tolerance {
  return name === 'onnxruntime' && kv === 'f16' ? onnxruntimeHalves : tolerances[kv];
}

/** Rows of the first, a middle and the last sequence: their first, some and last tokens, in heads that differ. */
function sampleOf({ batch, queryLen, numHeads }: CompareCase): readonly { readonly token: number; readonly head: number }[] {
  const sequences = [...new Set([0, batch >> 1, batch - 1])];
  const tokens = [...new Set([0, (queryLen * 5) >> 3, queryLen - 1])];
  return sequences.flatMap((sequence) =>
    tokens.map((token) => ({ token: sequence * queryLen + token, head: (7 * token + 11 * sequence + 3) % numHeads })),
  );
}

/** @throws {Error} beyond the tolerance, or for what is no number */
function largestDifference(label: string, actual: Float32Array, expected: ArrayLike<number>, { atol, rtol }: Tolerance): number {
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!(difference <= atol + rtol * Math.abs(expected[i]))) throw new Error(`${label}: value ${i} is ${actual[i]}, not ${expected[i]}.`);
    worst = Math.max(worst, difference);
  }
  return worst;
}

/** Microseconds of wall-clock time for each layer, by subject and round. */
function timeInTurn({ device }: Gpu, one: CompareCase, subjects: readonly Subject[], effort: Effort): Promise<readonly number[][]> {
  const time = async (subject: Subject, steps: number) => {
    const start = performance.now();
    await subject.enqueue(steps);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - start;
  };
  return inTurn(one, subjects, effort, 1000, async (subject, steps) => (await time(subject, 2 * steps)) - (await time(subject, steps)));
}

/** Microseconds of the GPU's own time for each layer, by subject and round. */
async function gpuTimeInTurn(
  { device }: Gpu,
  one: CompareCase,
  subjects: readonly Subject[],
  effort: Effort,
): Promise<readonly number[][]> {
  const passes = watchPasses(device);
  try {
    return await inTurn(one, subjects, effort, 15, async (subject, steps) => {
      await subject.enqueue(steps);
      await device.queue.onSubmittedWorkDone();
      return passes.take();
    });
  } finally {
    passes.destroy();
  }
}

/** Measures the subjects in turn, each with as many steps as fill the time; the first round is for warming up. */
async function inTurn(
  { layers }: CompareCase,
  subjects: readonly Subject[],
  { rounds, busy }: Effort,
  maxSteps: number,
  measure: (subject: Subject, steps: number) => Promise<number>,
): Promise<readonly number[][]> {
  const steps: number[] = [];
  for (const subject of subjects) {
    await measure(subject, 1);
    // More and more, until it takes so long that the clock's noise does not count.
    let tried = 1;
    let took = await measure(subject, tried);
    for (; took < busy / 4 && 2 * tried <= maxSteps; took = await measure(subject, tried)) tried *= 2;
    steps.push(Math.max(1, Math.min(maxSteps, Math.ceil((tried * busy) / Math.max(took, busy / 8)))));
  }
  const samples = subjects.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    for (let i = 0; i < subjects.length; i++) {
      const at = (i + round + subjects.length) % subjects.length;
      const took = await measure(subjects[at], steps[at]);
      if (round >= 0) samples[at].push((took * 1000) / (steps[at] * layers));
    }
  }
  return samples;
}

/** onnxruntime-web 1.30 cannot, or not right, do some cases; these are not run and the notes say so. */
function onnxruntimeRefuses(gpu: Gpu, { kv, queryLen }: CompareCase): string | undefined {
  if (kv === 'f16' && !gpu.features.shaderF16) return 'onnxruntime: f16 is not run, for want of shader-f16 on this device.';
  if (gpu.adapter.software && queryLen >= 32)
    return 'onnxruntime: 32 and more new tokens are not run on a software adapter, where its results are wrong.';
  return undefined;
}

const kvs: readonly CompareCase['kv'][] = ['f16', 'f32'];

function caseOf(
  shape: Pick<CompareCase, 'numHeads' | 'numKvHeads' | 'headDim'>,
  kv: CompareCase['kv'],
  batch: number,
  queryLen: number,
  seqLen: number,
  layers: number,
): CompareCase {
  const bytes = batch * seqLen * shape.numKvHeads * shape.headDim * 2 * (kv === 'f32' ? 4 : 2);
  const caches = Math.max(1, Math.min(layers, Math.ceil(2 ** 28 / bytes)));
  const name = queryLen === 1 ? `decode ${batch} x ${seqLen}` : `prefill ${batch} x ${queryLen}`;
  return { ...shape, blockSize: 16, name, kv, batch, queryLen, seqLen, layers, caches };
}

const large = { numHeads: 32, numKvHeads: 8, headDim: 128 };
const largeCases = kvs.flatMap((kv) => [
  ...[1, 8].flatMap((batch) => [1024, 4096].map((keys) => caseOf(large, kv, batch, 1, keys, 32))),
  ...[512, 2048].map((tokens) => caseOf(large, kv, 1, tokens, tokens, 4)),
]);

const little = { numHeads: 8, numKvHeads: 2, headDim: 64 };
const quickCases = kvs.flatMap((kv) => [caseOf(little, kv, 2, 1, 48, 2), caseOf(little, kv, 1, 20, 20, 2)]);
const smallCases = kvs.flatMap((kv) => [
  ...[1, 4].map((batch) => caseOf(little, kv, batch, 1, 256, 2)),
  ...[24, 64].map((tokens) => caseOf(little, kv, 1, tokens, tokens, 2)),
]);
