/**
 * The program behind `npm run generate`: reads the command line, loads a model, streams text and prints what it measured.
 *
 * It runs in Deno and in Node; all that differs between them comes in through `ProgramHost`.
 */
import { writeFile } from 'node:fs/promises';
import process from 'node:process';
import { InvalidArgumentError, openGpu, Tracer } from 'pagewise';
import { Engine, type GenerationResult } from 'pagewise/engine';
import { loadingText } from '../shared/loading.ts';
import { randomSeed } from '../shared/numbers.ts';
import { modelFiles, typedPath } from './folder.ts';
import { engineOptions, type ProgramOptions, readOptions } from './options.ts';
import { runToExit, say } from './process.ts';
import { createProgressBar } from './progress.ts';
import { type AdapterReport, adapterLine, reportAdapter, resultObject, resultTable } from './report.ts';
import { storedTuning } from './tunings.ts';

/** What differs between hosts. */
export interface ProgramHost {
  /** WebGPU; default: the host's `navigator.gpu`. */
  readonly gpu?: GPU;
  /** The folder of the model that comes with Pagewise. */
  readonly defaultModel: string;
  /** The folder where `npm run tune` keeps what it found. */
  readonly tunings: string;
}

/** Runs the program with the process's arguments, and ends the process with its exit code. */
export function runProgram(host: ProgramHost): Promise<void> {
  return runToExit(async (signal) => {
    const options = readOptions(process.argv.slice(2));
    if (options) await generate(options, host, signal);
  });
}

async function generate(options: ProgramOptions, host: ProgramHost, signal: AbortSignal): Promise<void> {
  const files = modelFiles(options.model, host.defaultModel, signal);
  const gpu = await openGpu(host.gpu ? { gpu: host.gpu } : {});
  const progress = createProgressBar(loadingText);
  try {
    const trace = options.trace === undefined ? undefined : new Tracer(gpu);
    const onProgress = progress.update;
    const onTuningProblem = (problem: string) => say(`pagewise: ${problem}`);
    const tuning = await storedTuning(gpu, options.tuning, host.tunings, onTuningProblem);
    const asked = { ...engineOptions(options), trace, tuning };
    const engine = await Engine.load(gpu, files, { ...asked, onProgress, onTuningProblem, signal });
    progress.stop();
    const adapter = reportAdapter(gpu.adapter, process.env);
    say(adapterLine(adapter));
    await write(engine, options, adapter, signal);
    if (trace && options.trace !== undefined) await writeTrace(trace, options.trace);
    engine.destroy();
  } finally {
    progress.stop();
    gpu.destroy();
  }
}

/** Writes the text, or the JSON object, to standard output, and the table to standard error. */
async function write(engine: Engine, options: ProgramOptions, adapter: AdapterReport, signal: AbortSignal): Promise<void> {
  const { prompt, maxTokens, temperature, topK, topP, json, speculate: numTokens } = options;
  const sampled = (temperature ?? engine.defaults.temperature) > 0;
  const seed = sampled ? (options.seed ?? randomSeed()) : undefined;
  const generation = engine.generate(prompt, {
    ...{ maxTokens, temperature, topK, topP, seed, signal },
    ...(numTokens !== undefined && { speculate: { numTokens } }),
  });
  if (!json && process.stdout.isTTY) process.stdout.write(bold(prompt));
  for await (const { text } of generation) if (!json) process.stdout.write(text);
  const result: GenerationResult = await generation.result;
  process.stdout.write(json ? `${JSON.stringify(resultObject(result, adapter))}\n` : '\n');
  if (process.stderr.isTTY) say('');
  say(resultTable(result, adapter, seed));
}

async function writeTrace(trace: Tracer, file: string): Promise<void> {
  await trace.finish();
  await writeFile(typedPath(file), JSON.stringify(trace)).catch((error: Error) => {
    throw new InvalidArgumentError('--trace', file, `a file that can be written (${error.message})`);
  });
}

function bold(text: string): string {
  return process.env.NO_COLOR ? text : `\x1b[1m${text}\x1b[22m`;
}
