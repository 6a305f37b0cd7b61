/**
 * The program behind `npm run generate`: reads the command line, loads a model, streams text and prints what it measured.
 *
 * It runs in Deno and in Node; all that differs between them comes in through `ProgramHost`.
 */
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import process from 'node:process';
import { InvalidArgumentError, openGpu, PagewiseError, Tracer } from 'pagewise';
import { Engine, filesFromUrl, type GenerationResult, type ModelFiles } from 'pagewise/engine';
import { randomSeed } from '../shared/numbers.ts';
import { filesFromFolder } from './folder.ts';
import { type ProgramOptions, readOptions } from './options.ts';
import { createProgressBar } from './progress.ts';
import { type AdapterReport, adapterLine, reportAdapter, resultObject, resultTable } from './report.ts';

/** What differs between hosts. */
export interface ProgramHost {
  /** WebGPU; default: the host's `navigator.gpu`. */
  readonly gpu?: GPU;
  /** The folder of the model that comes with Pagewise. */
  readonly defaultModel: string;
}

const interruptedCode = 130;

/** Runs the program with the process's arguments, and ends the process with its exit code. */
export async function runProgram(host: ProgramHost): Promise<void> {
  const interrupt = new AbortController();
  process.on('SIGINT', () => {
    if (interrupt.signal.aborted) process.exit(interruptedCode);
    interrupt.abort();
  });
  // Whoever reads our output has gone (`| head`): there is nobody left to write for.
  process.stdout.on('error', () => process.exit(0));
  let code: number;
  try {
    const options = readOptions(process.argv.slice(2));
    if (options) await generate(options, host, interrupt.signal);
    code = interrupt.signal.aborted ? interruptedCode : 0;
  } catch (error) {
    code = interrupt.signal.aborted ? interruptedCode : 1;
    if (!interrupt.signal.aborted) say(describeFailure(error));
  }
  for (const stream of [process.stdout, process.stderr]) await new Promise((done) => stream.write('', done));
  process.exit(code);
}

async function generate(options: ProgramOptions, host: ProgramHost, signal: AbortSignal): Promise<void> {
  const files = modelFiles(options.model, host.defaultModel, signal);
  const gpu = await openGpu(host.gpu ? { gpu: host.gpu } : {});
  const progress = createProgressBar();
  try {
    const { kvDtype, blockSize, launchCache, runAhead } = options;
    const trace = options.trace === undefined ? undefined : new Tracer(gpu);
    const onProgress = progress.update;
    const engine = await Engine.load(gpu, files, { kvDtype, blockSize, launchCache, runAhead, trace, onProgress, signal });
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
  const { prompt, maxTokens, temperature, topK, topP, json } = options;
  const sampled = (temperature ?? engine.defaults.temperature) > 0;
  const seed = sampled ? (options.seed ?? randomSeed()) : undefined;
  const generation = engine.generate(prompt, { maxTokens, temperature, topK, topP, seed, signal });
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

/** A path counts from where the person typed the command: npm itself runs scripts in the package's folder. */
function typedPath(path: string): string {
  return resolve(process.env.INIT_CWD || process.cwd(), path);
}

function modelFiles(model: string | undefined, defaultModel: string, signal: AbortSignal): ModelFiles {
  if (model === undefined) return filesFromFolder(defaultModel);
  if (/^https?:\/\//i.test(model)) return filesFromUrl(model, { signal });
  return filesFromFolder(typedPath(model));
}

/** One line; with PAGEWISE_DEBUG set, also where it came from. */
function describeFailure(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const firstLine = message.split('\n', 1)[0];
  if (process.env.PAGEWISE_DEBUG) return `pagewise: ${error instanceof Error ? (error.stack ?? message) : message}`;
  if (error instanceof PagewiseError) return `pagewise: ${firstLine}`;
  return `pagewise: unexpected error: ${firstLine}. Set PAGEWISE_DEBUG=1 to see where, and please report it.`;
}

function bold(text: string): string {
  return process.env.NO_COLOR ? text : `\x1b[1m${text}\x1b[22m`;
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
