import type { Gpu } from 'pagewise';
import { maxRunAhead } from '../../src/engine/options.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { type LoopRun, type Regime, StepLoop } from './loop.ts';
import { type BenchModel, shippedModel, syntheticModel } from './models.ts';

const modes = ['on', 'off'] as const;

/** Tokens per second and host time of a step with the launch cache on and off, where launches are what costs and where the GPU is. */
export async function benchGenerate(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const rounds = options.rounds ?? (options.quick ? 1 : 7);
  const shipped = await shippedModel(gpu, host);
  const { software } = gpu.adapter;
  // A software adapter is a GPU of which a few hundred tokens ask enough.
  const large = software ? shipped : syntheticModel(gpu, shipped.config);
  const rows: BenchRow[] = [];
  for (const regime of regimesOf(shipped, large, software, options.quick === true)) rows.push(...(await compare(gpu, regime, rounds)));
  for (const { weights } of new Set<BenchModel>([shipped, large])) weights.destroy();
  const notes = [
    `Medians of ${rounds} rounds, on and off in turn, each after a run that was not timed. Tokens per second: up to ${maxRunAhead} steps in flight.`,
    'Host time: planning, recording and submitting a step while the GPU is idle; its share: of the time of a step in flight. Record time: without submitting.',
    'On and off gave the same tokens. on/off: tokens per second, the median of the rounds.',
    ...(software
      ? ["A software adapter works on the host's processor, some in the submit: of the times, only the recording is the host's own."]
      : []),
  ];
  return { rows, notes };
}

function regimesOf(shipped: BenchModel, large: BenchModel, software: boolean, quick: boolean): readonly Regime[] {
  const steps = quick ? 4 : software ? 32 : 512;
  return [
    { name: 'decode, batch 1', model: shipped, batch: 1, queryLen: 1, steps },
    { name: 'decode, batch 8', model: shipped, batch: 8, queryLen: 1, steps },
    { name: 'decode, batch 64', model: shipped, batch: 64, queryLen: 1, steps },
    { name: 'prefill', model: large, batch: 1, queryLen: software ? (quick ? 16 : 128) : 512, steps: quick ? 1 : software ? 2 : 16 },
  ];
}

async function compare(gpu: Gpu, regime: Regime, rounds: number): Promise<readonly BenchRow[]> {
  const loops = new Map<string, StepLoop>();
  for (const mode of modes) loops.set(mode, await StepLoop.open(gpu, regime, mode));
  const runs = new Map<string, LoopRun[]>(modes.map((mode) => [mode, []]));
  for (let round = 0; round < rounds; round++) {
    for (const mode of round % 2 === 0 ? modes : modes.toReversed()) {
      const loop = loops.get(mode) as StepLoop;
      await loop.run(); // not timed: it warms up, and some hosts free what the other mode left behind during it
      const { stepTime, tokens } = await loop.run();
      const { hostTime, recordTime } = await loop.run(Math.min(regime.steps, 32), 1);
      runs.get(mode)?.push({ stepTime, hostTime, recordTime, tokens });
    }
  }
  for (const loop of loops.values()) loop.destroy();
  const [on, off] = modes.map((mode) => runs.get(mode) ?? []);
  if (String(on[0].tokens) !== String(off[0].tokens)) throw new Error(`${regime.name}: on and off differ in tokens.`);
  const params = { regime: regime.name, model: regime.model.name };
  const rows = modes.flatMap((mode) => {
    const of = (name: string, unit: string, value: (run: LoopRun) => number) =>
      rowOf(name, { ...params, launchCache: mode }, unit, (runs.get(mode) ?? []).map(value));
    return [
      of('tokens', 'tokens/s', (run) => (1000 * regime.batch * regime.queryLen) / run.stepTime),
      of('host-time', 'ms/step', (run) => run.hostTime),
      of('record-time', 'ms/step', (run) => run.recordTime),
      of('host-share', '%', (run) => (100 * run.hostTime) / run.stepTime),
    ];
  });
  const ratio = on.map((run, round) => off[round].stepTime / run.stepTime);
  const hostRatio = off.map((run, round) => run.hostTime / on[round].hostTime);
  const recordRatio = off.map((run, round) => run.recordTime / on[round].recordTime);
  return [
    ...rows,
    rowOf('tokens on/off', params, 'x', ratio),
    rowOf('host-time off/on', params, 'x', hostRatio),
    rowOf('record-time off/on', params, 'x', recordRatio),
  ];
}
