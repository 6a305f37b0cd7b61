import type { Gpu } from 'pagewise';
import { hasImmediates } from '../../src/launch/self-test.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { anySubject } from './by-hand.ts';
import { makeRungs, type Rung } from './rungs.ts';
import { decodeSubject, type Subject, trivialSubject } from './subjects.ts';

/** Microseconds per launch of each turn of a rung. */
interface Samples {
  readonly host: number[];
  readonly done: number[];
}

interface Effort {
  /** Rounds that do not count: the host's compiler goes on improving a rung for hundreds of steps. */
  readonly warmUp: number;
  readonly rounds: number;
  /** Most steps of a rung's turn. The fastest is its sample: on a busy machine the others tell of the neighbours. */
  readonly steps: number;
  /** Milliseconds after which a turn ends, once it has had three steps. */
  readonly turn: number;
  readonly launches: number;
}

/** What a launch costs the host, by every way to make one: the ladder. */
export async function benchLaunch(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const effort: Effort = options.quick
    ? { warmUp: 1, rounds: options.rounds ?? 2, steps: 1, turn: 0, launches: 64 }
    : { warmUp: 4, rounds: options.rounds ?? 15, steps: 30, turn: 250, launches: 400 };
  const rows: BenchRow[] = [];
  for (const subject of [anySubject(decodeSubject(gpu)), anySubject(trivialSubject(gpu.device))]) {
    rows.push(...(await climb(gpu, host, subject, effort)));
    subject.destroy();
  }
  const { launches, rounds, steps } = effort;
  const notes = [
    `${launches} launches (rebuild: as many as take 0.1 s) in one pass and one submit; host time of recording, finishing and submitting, per launch.`,
    `Medians of ${rounds} rounds; a round takes every rung in turn, for up to ${steps} steps, of which the fastest counts. Rows in x are medians of the rounds' ratios.`,
  ];
  return { rows, notes };
}

async function climb(gpu: Gpu, host: BenchHost, subject: Subject, effort: Effort): Promise<readonly BenchRow[]> {
  const immediates = hasImmediates(gpu);
  const rungs = await makeRungs({ gpu, subject, launches: effort.launches, immediates });
  const samples = new Map<string, Samples>(rungs.map(({ name }) => [name, { host: [], done: [] }]));
  const counts = new Map<Rung, number>();
  for (const rung of rungs) counts.set(rung, rung.compiles ? await compilesOf(gpu.device, rung) : rung.launches);
  let step = 0;
  for (let round = -effort.warmUp; round < effort.rounds; round++) {
    // The first rounds warm up. Every rung starts some round, and none always follows the same one.
    const first = (round + rungs.length) % rungs.length;
    const turn = [...rungs.slice(first), ...rungs.slice(0, first)];
    for (const rung of round % 2 === 0 ? turn : turn.reverse()) {
      const launches = counts.get(rung) ?? 1;
      const best = { host: Number.POSITIVE_INFINITY, done: Number.POSITIVE_INFINITY };
      const start = performance.now();
      const most = rung.compiles ? 1 : effort.steps;
      for (let i = 0; i < most && (i < 3 || performance.now() - start < effort.turn); i++) {
        const { host, done } = await timeStep(gpu.device, rung, step++, launches);
        best.host = Math.min(best.host, host);
        best.done = Math.min(best.done, done);
      }
      if (round < 0) continue;
      samples.get(rung.name)?.host.push(best.host);
      samples.get(rung.name)?.done.push(best.done);
    }
  }
  for (const rung of rungs) rung.destroy();
  const rows: BenchRow[] = [];
  const kernel = subject.name;
  for (const [time, suffix] of host.name === 'chromium' ? sides : sides.slice(0, 1)) {
    for (const rung of rungs) {
      const launches = counts.get(rung) ?? 1;
      rows.push(rowOf(`${rung.name}${suffix}`, { kernel, launches }, 'us', samples.get(rung.name)?.[time] ?? []));
    }
  }
  return [...rows, ...ratios(samples, host.name === 'chromium' ? 'done' : 'host', kernel)];
}

/** Times and the suffix of their rows; the second only where another process drives the GPU. */
const sides = [
  ['host', ''],
  ['done', '-done'],
] as const;

/** The rungs that the targets compare. */
const compared = [
  ['cached', 'floor'],
  ['cached-unchanged', 'floor'],
  ['cached-immediates', 'immediates'],
  ['cached', 'bare'],
  ['rebuild', 'cached'],
  ['new-bind-group', 'cached'],
  ['cache-off', 'cached'],
] as const;

function ratios(samples: ReadonlyMap<string, Samples>, time: keyof Samples, kernel: string): BenchRow[] {
  return compared.flatMap(([above, below]) => {
    const [dividends, divisors] = [samples.get(above)?.[time], samples.get(below)?.[time]];
    if (!dividends?.length || !divisors) return [];
    return [
      rowOf(
        `${above}/${below}`,
        { kernel },
        'x',
        dividends.map((value, round) => value / divisors[round]),
      ),
    ];
  });
}

/** Milliseconds that a step of compiling launches may take. */
const compileBudget = 100;

async function compilesOf(device: GPUDevice, rung: Rung): Promise<number> {
  const { host } = await timeStep(device, rung, 0, 1);
  return Math.max(1, Math.min(40, Math.floor((compileBudget * 1000) / host)));
}

/** The GPU is idle before and after, so that no backlog holds the host up. */
async function timeStep(device: GPUDevice, rung: Rung, step: number, launches: number): Promise<{ host: number; done: number }> {
  const { queue } = device;
  const start = performance.now();
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  rung.record(pass, step, launches);
  pass.end();
  const commands = encoder.finish();
  rung.flush();
  queue.submit([commands]);
  const submitted = performance.now();
  await queue.onSubmittedWorkDone();
  const done = performance.now();
  rung.tidy();
  const perLaunch = (milliseconds: number) => (milliseconds * 1000) / launches;
  return { host: perLaunch(submitted - start), done: perLaunch(done - start) };
}
