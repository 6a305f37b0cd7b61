/** The program behind `npm run tune`: measures, prints what it compared, and keeps what it found. It runs in Deno and in Node. */
import { writeFile } from 'node:fs/promises';
import process from 'node:process';
import Table from 'cli-table3';
import {
  type Gpu,
  InvalidArgumentError,
  openGpu,
  type TunedPart,
  type TuneOptions,
  type TuneProgress,
  type TuneResult,
  tune,
  tuningKey,
} from 'pagewise';
import { readModelConfig } from 'pagewise/engine';
import type { LoadingText } from '../shared/loading.ts';
import { modelFiles, typedPath } from './folder.ts';
import { runToExit, say } from './process.ts';
import type { ProgramHost } from './program.ts';
import { createProgressBar } from './progress.ts';
import { adapterLine, reportAdapter } from './report.ts';
import { readTuneOptions, type TuneProgramOptions } from './tune-options.ts';
import { folderTunings } from './tunings.ts';

/** Runs the program with the process's arguments, and ends the process with its exit code. */
export function runTuneProgram(host: ProgramHost): Promise<void> {
  return runToExit(async (signal) => {
    const options = readTuneOptions(process.argv.slice(2));
    if (!options) return;
    const asked = await whatToTune(options, host, signal);
    const gpu = await openGpu(host.gpu ? { gpu: host.gpu } : {});
    try {
      say(adapterLine(reportAdapter(gpu.adapter, process.env)));
      const { numHeads, numKvHeads, headDim, blockSize, dtype } = asked.shape;
      say(`${numHeads} query heads, ${numKvHeads} KV heads of ${headDim}, blocks of ${blockSize} in ${dtype}; ${options.budget} s`);
      await tuneAndKeep(gpu, asked, options, host);
    } finally {
      gpu.destroy();
    }
  });
}

async function tuneAndKeep(gpu: Gpu, asked: TuneOptions, { output }: TuneProgramOptions, host: ProgramHost): Promise<void> {
  const store = folderTunings(host.tunings, (problem) => say(`pagewise: ${problem}`));
  const progress = createProgressBar(progressText);
  let result: TuneResult;
  try {
    const known = output === undefined ? await store.load(tuningKey(gpu)) : undefined;
    result = await tune(gpu, { ...asked, tuning: known, onProgress: progress.update });
  } finally {
    progress.stop();
  }
  process.stdout.write(`${resultTable(result.parts)}\n`);
  for (const line of remarks(result)) say(line);
  if (output === undefined) {
    await store.save(tuningKey(gpu), result.tuning);
    return say('Kept for npm run generate on this adapter and host.');
  }
  await writeFile(typedPath(output), `${JSON.stringify(result.tuning, undefined, 2)}\n`).catch((error: Error) => {
    throw new InvalidArgumentError('--output', output, `a file that can be written (${error.message})`);
  });
}

/** The shape, and workloads as the engine has them: one sequence, its context half full and full, and a prompt. */
async function whatToTune(options: TuneProgramOptions, host: ProgramHost, signal: AbortSignal): Promise<TuneOptions> {
  const { model, shape, kvDtype: dtype, blockSize } = options;
  const budget = options.budget * 1000;
  if (shape) return { shape: { ...shape, blockSize, dtype }, budget, signal };
  const { numHeads, numKvHeads, headDim, contextLength } = await readModelConfig(modelFiles(model, host.defaultModel, signal));
  const keys = Math.min(contextLength, 8192);
  const prompt = Math.min(contextLength, 512);
  return {
    shape: { numHeads, numKvHeads, headDim, blockSize, dtype },
    decode: [...new Set([Math.ceil(keys / 4), keys])].map((one) => ({ sequences: 1, keys: one })),
    prefill: [...new Set([Math.ceil(prompt / 4), prompt])].map((tokens) => ({ tokens, keys: tokens })),
    ...{ budget, signal },
  };
}

const partNames: Readonly<Record<TunedPart['part'], string>> = { decode: 'decode tile', splits: 'decode splits', prefill: 'prefill tile' };

function progressText({ part, done, total }: TuneProgress): LoadingText {
  return { what: `Measuring: ${partNames[part]}`, fraction: done / total, amount: `${done} of ${total}` };
}

/** A row for each workload of each choice: times of the default and of the best, and what they are. */
function resultTable(parts: readonly TunedPart[]): string {
  const table = new Table({
    head: ['', 'sequences', 'new tokens', 'keys', 'default, us', 'best, us', '', 'best'],
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
    style: { head: [], border: [] },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right', 'left'],
  });
  for (const { part, workloads, defaultTimes, bestTimes, best, default: first } of parts) {
    workloads.forEach(({ sequences, tokens, keys }, i) => {
      const gain = `${((100 * bestTimes[i]) / defaultTimes[i] - 100).toFixed(0)} %`;
      const what = best === first ? 'the default' : describe(best, first);
      table.push([partNames[part], sequences, tokens, keys, microseconds(defaultTimes[i]), microseconds(bestTimes[i]), gain, what]);
    });
  }
  return table.toString();
}

/** What differs from the default, as `name before -> after`. */
function describe(best: object, first: object): string {
  const changed = Object.entries(best).filter(([name, value]) => value !== Reflect.get(first, name));
  return changed.map(([name, value]) => `${name} ${Reflect.get(first, name)} -> ${value}`).join(', ');
}

function remarks({ parts, leftOut }: TuneResult): string[] {
  const unfit = parts.flatMap(({ part, leftOut: candidates }) =>
    candidates.map(({ candidate, reason }) => `Left out (${partNames[part]}): ${JSON.stringify(candidate)}: ${reason}`),
  );
  const tooLarge = leftOut.map(({ candidate, reason }) => `Left out (workload): ${JSON.stringify(candidate)}: ${reason}`);
  const names = new Set(parts.filter(({ complete }) => !complete).map(({ part }) => partNames[part]));
  const cut = names.size > 0 ? [`The budget ended before everything was tried (${[...names].join(', ')}): --budget gives more time.`] : [];
  return [...tooLarge, ...unfit, ...cut];
}

function microseconds(milliseconds: number): string {
  const value = milliseconds * 1000;
  return value.toFixed(value < 100 ? 1 : 0);
}
