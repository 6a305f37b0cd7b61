/** The program behind `npm run serve`: loads a model, listens, and on SIGTERM or SIGINT finishes what runs before it ends. */
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import process from 'node:process';
import { InvalidArgumentError, openGpu } from 'pagewise';
import { type Constraints, openConstraints } from 'pagewise/constrained';
import { Engine } from 'pagewise/engine';
import { createHandler, type HandlerOptions, readChatTemplate } from 'pagewise/serve';
import { loadingText } from '../shared/loading.ts';
import { modelFiles, typedPath } from './folder.ts';
import { type Listener, listen } from './listen.ts';
import { describeFailure, say } from './process.ts';
import { createProgressBar } from './progress.ts';
import { adapterLine, reportAdapter } from './report.ts';
import { engineOptions, readServeOptions, type ServeProgramOptions } from './serve-options.ts';
import { storedTuning } from './tunings.ts';

/** What differs between hosts. */
export interface ServeHost {
  /** WebGPU; default: the host's `navigator.gpu`. */
  readonly gpu?: GPU;
  /** The folder of the model that comes with Pagewise. */
  readonly defaultModel: string;
  /** The folder where `npm run tune` keeps what it found. */
  readonly tunings: string;
}

/** What the API calls the model that comes with Pagewise. */
const defaultName = 'pagewise-stories';

/** Runs the program with the process's arguments, and ends the process with its exit code. */
export async function runServeProgram(host: ServeHost): Promise<void> {
  const closing = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (closing.signal.aborted) process.exit(name === 'SIGINT' ? 130 : 143);
      closing.abort();
    });
  }
  try {
    const options = readServeOptions(process.argv.slice(2));
    if (options) await serve(options, host, closing.signal);
    process.exit(0);
  } catch (error) {
    if (closing.signal.aborted) process.exit(0);
    say(describeFailure(error));
    process.exit(1);
  }
}

async function serve(options: ServeProgramOptions, host: ServeHost, closing: AbortSignal): Promise<void> {
  const files = modelFiles(options.model, host.defaultModel, closing);
  const template = options.chatTemplate === undefined ? undefined : await readTemplate(options.chatTemplate);
  const chatTemplate = await readChatTemplate(files, template);
  const gpu = await openGpu(host.gpu ? { gpu: host.gpu } : {});
  const progress = createProgressBar(loadingText);
  try {
    const onTuningProblem = (problem: string) => say(`pagewise: ${problem}`);
    const tuning = await storedTuning(gpu, options.tuning, host.tunings, onTuningProblem);
    const engine = await Engine.load(gpu, files, {
      ...engineOptions(options),
      ...{ tuning, onTuningProblem, onProgress: progress.update, signal: closing },
    });
    progress.stop();
    say(adapterLine(reportAdapter(gpu.adapter, process.env)));
    const modelName = options.name ?? (options.model === undefined ? defaultName : nameOf(options.model));
    const cors = options.cors?.includes('*') ? '*' : options.cors;
    const onError = (error: unknown) => say(describeFailure(error));
    // Loaded by the first request that asks for it: it is a few megabytes of WebAssembly.
    let opened: Promise<Constraints> | undefined;
    const constraints: HandlerOptions['constraints'] = {
      async jsonSchema(...asked) {
        opened ??= openConstraints(engine);
        return (await opened).jsonSchema(...asked);
      },
    };
    const handler = createHandler(engine, { modelName, chatTemplate, constraints, cors, closing, onError });
    const listener = await listen(handler, options).catch((error: Error) => {
      throw new InvalidArgumentError('--port', `${options.port} at ${options.host}`, `a port that is free (${error.message})`);
    });
    process.stdout.write(welcome(modelName, `http://${options.host}:${listener.port}`, chatTemplate !== undefined));
    await Promise.race([gpu.lost.then((error) => Promise.reject(error)), aborted(closing)]);
    await drain(engine, listener, options.drain);
    engine.destroy();
  } finally {
    progress.stop();
    gpu.destroy();
  }
}

function welcome(modelName: string, url: string, chats: boolean): string {
  const body = JSON.stringify({ model: modelName, prompt: 'Once upon a time', max_tokens: 64, stream: true });
  const lines = [
    `Serving "${modelName}" at ${url}`,
    `  curl -N ${url}/v1/completions -H 'content-type: application/json' -d '${body}'`,
    ...(chats ? [] : ['The model has no chat template: /v1/chat/completions needs --chat-template FILE.']),
  ];
  return `${lines.join('\n')}\n`;
}

/** Refuses what is new, waits for what runs, and lets the answers be sent. Requests that take longer than `seconds` are cut off. */
async function drain(engine: Engine, listener: Listener, seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const count = () => engine.stats().running + engine.stats().waiting;
  if (count() > 0) say(`Finishing ${count()} requests; ${seconds} seconds at most.`);
  while (count() > 0 && performance.now() < end) await delay(20);
  const left = count();
  if (left > 0) return say(`Cut off ${left} requests.`);
  await Promise.race([listener.shutdown(), delay(Math.max(1000, end - performance.now()))]);
  say('Stopped.');
}

async function readTemplate(file: string): Promise<string> {
  try {
    return await readFile(typedPath(file), 'utf8');
  } catch (error) {
    throw new InvalidArgumentError('--chat-template', file, `a file that can be read (${(error as Error).message})`);
  }
}

/** The last part of a path or URL that says something; of huggingface.co's URLs the repository. */
function nameOf(model: string): string {
  const path = /^https?:/i.test(model) ? new URL(model).pathname.replace(/\/resolve\/[^/]+\/?$/, '') : typedPath(model);
  return basename(path) || 'model';
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
