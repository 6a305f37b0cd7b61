import type { Gpu } from 'pagewise';
import { shippedModel, syntheticModel } from '../generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { DecodeSteps, type StepCase, type StepTimes } from './loop.ts';

/** Widths at which a processor that plays a GPU has little to do. Layers and heads stay: they are what the host's work depends on. */
const narrow = { hiddenSize: 64, intermediateSize: 64, headDim: 16, vocabSize: 64 };

/** Cases along one axis. */
interface Sweep {
  readonly name: 'batch' | 'context';
  readonly cases: readonly StepCase[];
}

/** Host time of a decode step, launches and bytes written: against the number of sequences, and against the length of their context. */
export async function benchStep(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const { software } = gpu.adapter;
  const quick = options.quick === true;
  const rounds = options.rounds ?? (quick ? 1 : software ? 3 : 7);
  const steps = quick ? 2 : software ? 16 : 32;
  const sweeps = sweepsOf(software, quick);
  const shipped = await shippedModel(gpu, host);
  const model = software ? { ...syntheticModel(gpu, shipped.config, narrow), name: 'narrow' } : shipped;
  const rows = await measure(gpu, model, sweeps, steps, rounds);
  rows.push(await launchesPerToken(gpu, shipped, quick ? 2 : 16));
  for (const { weights } of new Set([model, shipped])) weights.destroy();
  const notes = [
    `Medians of ${rounds} rounds; a round takes every case in turn, and of its ${steps} steps the ${software ? 'fastest' : 'median'}. Each step waits for the one before.`,
    'host-time: planning, recording and submitting; record-time: without submitting; plan-time: reserving slots, planning and the write. Counts are means of a run of their own.',
    'A sequence needs a new block in one step of sixteen. From 257 keys on rows are split: a merge more for each layer, and 24 bytes for each part, until the workgroups are as many as a GPU wants.',
    "Keys and values of the context are zeros, and positions may go beyond what the model knows: its text is nonsense, the host's work is not.",
    ...(software
      ? [
          `A software adapter works on the host's processor, some in the submit: of the times, only the recording is the host's own. The model has the layers and heads of the shipped one, but widths of ${model.config.hiddenSize}.`,
        ]
      : []),
  ];
  return { rows, notes };
}

function sweepsOf(software: boolean, quick: boolean): readonly Sweep[] {
  const batches = quick ? [1, 4] : [1, 2, 4, 8, 16, 32, 64];
  const contexts = quick ? [64, 512] : [64, 256, 1024, 4096, 16384];
  // Less for a processor to compute.
  const [context, batch] = software || quick ? [64, 1] : [512, 4];
  return [
    { name: 'batch', cases: batches.map((batch) => ({ batch, context })) },
    { name: 'context', cases: contexts.map((context) => ({ batch, context })) },
  ];
}

async function measure(
  gpu: Gpu,
  model: Awaited<ReturnType<typeof shippedModel>>,
  sweeps: readonly Sweep[],
  steps: number,
  rounds: number,
): Promise<BenchRow[]> {
  const cases = sweeps.flatMap(({ name, cases }) => cases.map((one) => ({ sweep: name, ...one })));
  const loop = await DecodeSteps.open(gpu, model, cases, steps);
  try {
    const runs = cases.map((): StepTimes[] => []);
    for (let round = -1; round < rounds; round++) {
      for (let i = 0; i < cases.length; i++) {
        const at = (i + round + 1) % cases.length;
        const times = await loop.time(cases[at]);
        if (round >= 0) runs[at].push(times);
      }
    }
    const rows: BenchRow[] = [];
    for (const [i, one] of cases.entries()) {
      const params = { model: model.name, ...one };
      for (const name of ['host', 'record', 'plan'] as const) {
        const times = runs[i].map((times) => times[name]);
        rows.push(rowOf(`${name}-time`, params, 'ms/step', times));
      }
      const { launches, writes, bytesWritten, objects } = await loop.count(one);
      rows.push(rowOf('launches', params, '/step', [launches]), rowOf('queue writes', params, '/step', [writes]));
      rows.push(rowOf('bytes written', params, 'B/step', [bytesWritten]), rowOf('objects made', params, '/step', [objects]));
    }
    return [...rows, ...growthOf(cases, runs, model.name, gpu.adapter.software ? ['record'] : ['host', 'record'])];
  } finally {
    loop.destroy();
  }
}

/** How host time grows: microseconds of one more sequence (least squares), and the longest context over the shortest. */
function growthOf(
  cases: readonly (StepCase & { sweep: string })[],
  runs: readonly (readonly StepTimes[])[],
  model: string,
  names: readonly (keyof StepTimes)[],
): BenchRow[] {
  const along = (sweep: string) => cases.flatMap((one, i) => (one.sweep === sweep ? [{ ...one, runs: runs[i] }] : []));
  const [batches, contexts] = [along('batch'), along('context')];
  const [shortest, longest] = [contexts[0], contexts[contexts.length - 1]];
  return names.flatMap((name) => {
    const rounds = batches[0].runs.map((_, round) => round);
    const growth = rounds.map((round) => 1000 * slopeOf(batches.map(({ batch, runs }) => [batch, runs[round][name]])));
    const ratios = rounds.map((round) => longest.runs[round][name] / shortest.runs[round][name]);
    return [
      rowOf(`${name}-time of one more sequence`, { model, sweep: 'batch' }, 'us/step', growth),
      rowOf(`${name}-time, context ${longest.context}/${shortest.context}`, { model, sweep: 'context' }, 'x', ratios),
    ];
  });
}

/** Of the straight line nearest to the points, by least squares. */
export function slopeOf(points: readonly (readonly [x: number, y: number])[]): number {
  const mean = (axis: 0 | 1) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  const covariance = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  return covariance / points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
}

/** Of the shipped model, one sequence. */
async function launchesPerToken(gpu: Gpu, shipped: Awaited<ReturnType<typeof shippedModel>>, steps: number): Promise<BenchRow> {
  const one = { batch: 1, context: 64 };
  const loop = await DecodeSteps.open(gpu, shipped, [one], steps);
  try {
    const { launches } = await loop.count(one);
    return rowOf('launches per token', { model: shipped.name, ...one }, '', [launches]);
  } finally {
    loop.destroy();
  }
}
