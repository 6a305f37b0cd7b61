/** The program behind `npm run eval`: measures a model in one or all modes of the launch cache. It runs in Deno and in Node. */
import { readFile } from 'node:fs/promises';
import process from 'node:process';
import { type Gpu, InvalidArgumentError, openGpu } from 'pagewise';
import { Engine } from 'pagewise/engine';
import { type LoadingText, loadingText } from '../shared/loading.ts';
import { modelFiles, typedPath } from '../terminal/folder.ts';
import { runToExit, say } from '../terminal/process.ts';
import type { ProgramHost } from '../terminal/program.ts';
import { createProgressBar } from '../terminal/progress.ts';
import { adapterLine, reportAdapter } from '../terminal/report.ts';
import { storedTuning } from '../terminal/tunings.ts';
import { parseProblems } from './gsm8k.ts';
import { type EvalOptions, readEvalOptions } from './options.ts';
import { parseDocuments } from './perplexity.ts';
import { checkSameAnswers, gsm8kTask, type Outcome, perplexityTask, type Task } from './tasks.ts';

/** Runs the program with the process's arguments, and ends the process with its exit code. */
export function runEvalProgram(host: ProgramHost): Promise<void> {
  return runToExit(async (signal) => {
    const options = readEvalOptions(process.argv.slice(2));
    if (options) await evaluate(options, host, signal);
  });
}

/** A run in one mode of the launch cache. */
interface Run extends Outcome {
  readonly mode: string;
  readonly falseHits: number;
}

async function evaluate(options: EvalOptions, host: ProgramHost, signal: AbortSignal): Promise<void> {
  const task = await readTask(options);
  const gpu = await openGpu(host.gpu ? { gpu: host.gpu } : {});
  try {
    const adapter = reportAdapter(gpu.adapter, process.env);
    say(adapterLine(adapter));
    const runs: Run[] = [];
    for (const mode of options.launchCaches) {
      const run = await runIn(mode, task, gpu, options, host, signal);
      runs.push(run);
      if (options.json) continue;
      process.stdout.write(`${options.launchCaches.length > 1 ? `Launch cache ${mode}\n` : ''}${run.lines.join('\n')}\n`);
    }
    checkSameAnswers(runs);
    if (options.launchCaches.length > 1) say(`The ${runs[0].answers.length} answers are the same in all modes.`);
    if (options.json) process.stdout.write(`${JSON.stringify(resultObject(options, adapter, runs))}\n`);
  } finally {
    gpu.destroy();
  }
}

async function runIn(
  launchCache: EvalOptions['launchCaches'][number],
  task: Task,
  gpu: Gpu,
  options: EvalOptions,
  host: ProgramHost,
  signal: AbortSignal,
): Promise<Run> {
  const { model, kvDtype, blockSize, runAhead, tuning, concurrency } = options;
  const loading = createProgressBar(loadingText);
  const working = createProgressBar(workText);
  const onTuningProblem = (problem: string): void => say(`pagewise: ${problem}`);
  try {
    const engine = await Engine.load(gpu, modelFiles(model, host.defaultModel, signal), {
      ...{ kvDtype, blockSize, launchCache, runAhead, onTuningProblem, signal },
      maxSequences: options.measure.task === 'gsm8k' ? concurrency : 1,
      tuning: await storedTuning(gpu, tuning, host.tunings, onTuningProblem),
      onProgress: loading.update,
    });
    loading.stop();
    try {
      const onProgress = (done: number, total: number): void => working.update({ done, total });
      const outcome = await task(engine, { concurrency, signal, onProgress });
      return { mode: launchCache, falseHits: engine.launchStats().falseHits, ...outcome };
    } finally {
      engine.destroy();
    }
  } finally {
    loading.stop();
    working.stop();
  }
}

function workText({ done, total }: { readonly done: number; readonly total: number }): LoadingText {
  return { what: 'Measuring', fraction: done / total, amount: `${done} of ${total}` };
}

/** Reads and checks the files that were asked for, before a GPU is opened. */
async function readTask({ measure }: EvalOptions): Promise<Task> {
  if (measure.task === 'perplexity') {
    return perplexityTask(measure, parseDocuments(await readText('--perplexity', measure.file), measure.file));
  }
  const problems = parseProblems(await readText('--gsm8k', measure.file), measure.file);
  const { train } = measure;
  return gsm8kTask(measure, problems, train === undefined ? [] : parseProblems(await readText('--train', train), train));
}

async function readText(option: string, file: string): Promise<string> {
  try {
    return await readFile(typedPath(file), 'utf8');
  } catch (error) {
    throw new InvalidArgumentError(option, file, `a file that can be read (${(error as Error).message})`);
  }
}

function resultObject(options: EvalOptions, adapter: object, runs: readonly Run[]): Record<string, unknown> {
  const { measure, model, kvDtype, concurrency } = options;
  return {
    ...{ measure, model, kvDtype, concurrency, adapter },
    runs: runs.map(({ mode, falseHits, report }) => ({ launchCache: mode, falseHits, ...report })),
  };
}
