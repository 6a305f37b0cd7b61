import type { Gpu } from 'pagewise';
import { Engine, type ModelFiles, readModelConfig, type Tokenizer } from 'pagewise/engine';
import type { ServingOptions } from '../../scripts/serving-options.mjs';
import { readJsonIfPresent } from '../../src/engine/files.ts';
import { createTokenizer } from '../../src/engine/tokenizer.ts';
import { random } from '../../test/harness/random.ts';
import { shippedFiles } from '../generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchResult, type BenchRow, rowOf } from '../report.ts';
import { figuresOf, type ServingFigures, summaryOf } from './arithmetic.ts';
import { arrivalTimes } from './arrivals.ts';
import { type Client, engineClient, httpClient } from './clients.ts';
import { randomRequests, type SampleRequest, shareGptRequests } from './dataset.ts';
import { type DriveResult, drive } from './drive.ts';
import { syntheticConfigs, syntheticFiles } from './synthetic.ts';
import { servingTable } from './table.ts';

/** The context of models made up: what the longest request of the filter needs. */
const syntheticContext = 2048;

/** Requests to an engine in this process. */
export async function benchServing(gpu: Gpu, host: BenchHost, options: BenchOptions): Promise<BenchResult> {
  const serving = servingOf(options);
  const files = modelOf(host, serving.model);
  const modes = serving.launchCache === 'both' ? (['off', 'on'] as const) : ([serving.launchCache] as const);
  const runs: Run[] = [];
  for (const mode of modes) {
    const engine = await openEngine(gpu, files, serving, mode);
    try {
      const { vocabSize } = engine.config;
      const requests = await requestsOf(host, serving, engine.tokenizer, engine.contextLength, vocabSize);
      const stepsBefore = engine.stats().steps;
      const run = await measure(host, engineClient(engine, serving), requests, serving, `launch cache ${mode}`);
      const { hostTime, steps, preemptions, prefixHits } = engine.stats();
      const counts = [
        single('host time of a step', { launchCache: mode }, 'ms', steps > stepsBefore ? hostTime / steps : 0),
        single('preemptions', { launchCache: mode }, 'requests', preemptions),
        single('prefix hits', { launchCache: mode }, 'tokens', prefixHits),
      ];
      runs.push({ ...run, rows: [...rowsOf(run.figures, { launchCache: mode }), ...counts] });
    } finally {
      engine.destroy();
    }
  }
  const ratio = runs.length === 2 ? runs[1].figures.requestThroughput / runs[0].figures.requestThroughput : undefined;
  return {
    rows: [...runs.flatMap(({ rows }) => rows), ...(ratio === undefined ? [] : [single('request throughput on/off', {}, 'x', ratio)])],
    notes: [`Model ${serving.model}, ${serving.engine.maxSequences} sequences at most, in process.`, ...notesOf(serving, runs[0])],
    lines: [
      ...runs.flatMap(({ label, lines }) => [...(runs.length > 1 ? [label] : []), ...lines]),
      ...(ratio === undefined ? [] : [`Request throughput, launch cache on/off: ${ratio.toFixed(3)}`]),
    ],
  };
}

/** Requests to a server. */
export async function benchServingAt(url: string, host: BenchHost, options: BenchOptions): Promise<BenchResult> {
  const serving = servingOf(options);
  const files = modelOf(host, serving.model);
  const config = await readModelConfig(files);
  const [json, tokenizerConfig] = [
    await readJsonIfPresent(files, 'tokenizer.json'),
    await readJsonIfPresent(files, 'tokenizer_config.json'),
  ];
  const tokenizer = json === undefined ? undefined : createTokenizer(json, tokenizerConfig, config);
  const contextLength = serving.engine.contextLength ?? Math.min(config.contextLength, await contextOf(url));
  const requests = await requestsOf(host, serving, tokenizer, contextLength, config.vocabSize);
  const run = await measure(host, httpClient(url, serving), requests, serving, url);
  return { rows: rowsOf(run.figures, { url }), notes: [`Server ${url}.`, ...notesOf(serving, run)], lines: run.lines };
}

interface Measured {
  readonly label: string;
  readonly figures: ServingFigures;
  readonly lines: readonly string[];
  readonly requests: readonly SampleRequest[];
}

interface Run extends Measured {
  readonly rows: readonly BenchRow[];
}

async function measure(
  host: BenchHost,
  client: Client,
  requests: readonly SampleRequest[],
  serving: ServingOptions,
  label: string,
): Promise<Measured> {
  // One request that is not timed: what is made only once is made by then, and a wrong address shows.
  await client(requests[0]);
  const arrivals = arrivalTimes(requests.length, serving.requestRate, serving.burstiness, random(serving.seed));
  const onDone = (done: number) => host.progress?.(done / requests.length, `Serving, ${label}`, `${done} of ${requests.length} requests`);
  const { traces, failures, duration }: DriveResult = await drive(client, requests, { ...serving, arrivals, onDone });
  host.progress?.(undefined);
  if (traces.length === 0) throw new Error(`all ${failures.length} requests failed: ${failures[0].message}`);
  const figures = figuresOf(traces, duration, serving.goodput);
  const failed = failures.length > 0 ? [`${failures.length} requests failed, the first one: ${failures[0].message}`] : [];
  return { label, figures, requests, lines: [...servingTable(figures), ...failed] };
}

function rowsOf(figures: ServingFigures, params: BenchRow['params']): readonly BenchRow[] {
  const of = (name: string, unit: string, value: number) => single(name, params, unit, value);
  const times = (['ttft', 'tpot', 'itl', 'latency'] as const).flatMap((name) => {
    const samples = figures[name];
    if (samples.length === 0) return [];
    const { mean, p99 } = summaryOf(samples);
    const label = name === 'latency' ? 'latency' : name.toUpperCase();
    return [rowOf(label, params, 'ms', samples), of(`${label} mean`, 'ms', mean), of(`${label} P99`, 'ms', p99)];
  });
  return [
    of('successful requests', 'requests', figures.completed),
    of('duration', 's', figures.duration),
    of('input tokens', 'tokens', figures.inputTokens),
    of('generated tokens', 'tokens', figures.outputTokens),
    of('request throughput', 'req/s', figures.requestThroughput),
    ...(figures.goodput === undefined ? [] : [of('goodput', 'req/s', figures.goodput)]),
    of('output token throughput', 'tok/s', figures.outputThroughput),
    of('total token throughput', 'tok/s', figures.totalThroughput),
    ...times,
  ];
}

/** A figure that is one number, not rounded. */
function single(name: string, params: BenchRow['params'], unit: string, value: number): BenchRow {
  return { name, params, unit, value, p10: value, p90: value, samples: 1 };
}

function notesOf(
  { numPrompts, dataset, requestRate, burstiness, maxConcurrency, ignoreEos, seed }: ServingOptions,
  run: Measured,
): string[] {
  const what = dataset === undefined ? 'token ids at random' : 'conversations';
  const rate = Number.isFinite(requestRate) ? `${requestRate} requests per second, burstiness ${burstiness}` : 'all at once';
  const at = maxConcurrency === undefined ? '' : `, ${maxConcurrency} at a time`;
  const few = run.requests.length < numPrompts ? [`The file has only ${run.requests.length} that fit, of ${numPrompts} asked for.`] : [];
  return [
    `${run.requests.length} requests, ${what}, seed ${seed}; ${rate}${at}; lengths ${ignoreEos ? 'forced' : "up to the model's end"}.`,
    ...few,
    "Times are the client's, by vLLM's definitions; one request before them was not timed.",
  ];
}

/** The quick run's requests are few and short, whatever was asked for. */
function servingOf({ serving, quick }: BenchOptions): ServingOptions {
  if (!serving) throw new Error('the options of serving were not read.');
  if (!quick) return serving;
  return { ...serving, numPrompts: Math.min(serving.numPrompts, 6), lengths: { input: 24, output: 6, rangeRatio: 0.5 } };
}

/** The files of `--model`. */
export function modelOf(host: BenchHost, model: string): ModelFiles {
  if (model === 'shipped') return shippedFiles(host);
  const name = /^synthetic:(.*)$/.exec(model)?.[1];
  if (name === undefined) {
    if (!host.modelFiles) throw new Error(`--model ${model}: this host reads no folders. Take Deno or Node.`);
    return host.modelFiles(model);
  }
  const config = Object.hasOwn(syntheticConfigs, name) ? syntheticConfigs[name] : undefined;
  if (!config) throw new Error(`--model ${model}: there is no such shape. There are: ${Object.keys(syntheticConfigs).join(', ')}.`);
  return syntheticFiles(name, config, shippedFiles(host));
}

export async function openEngine(
  gpu: Gpu,
  files: ModelFiles,
  { engine, model }: ServingOptions,
  launchCache: 'on' | 'off',
): Promise<Engine> {
  const contextLength = engine.contextLength ?? (model.startsWith('synthetic:') ? syntheticContext : undefined);
  return Engine.load(gpu, files, { ...engine, contextLength, launchCache });
}

async function requestsOf(
  host: BenchHost,
  { dataset, numPrompts, lengths, seed }: ServingOptions,
  tokenizer: Tokenizer | undefined,
  contextLength: number,
  vocabSize: number,
): Promise<readonly SampleRequest[]> {
  if (dataset === undefined) return randomRequests(numPrompts, lengths, vocabSize, random(seed));
  if (!tokenizer) throw new Error('--dataset needs a model with a tokenizer.json.');
  const json: unknown = JSON.parse(new TextDecoder().decode(await host.readFile(dataset)));
  return shareGptRequests(json, numPrompts, tokenizer, contextLength, random(seed));
}

/** What the server says that its model holds. */
async function contextOf(url: string): Promise<number> {
  const response = await fetch(`${url.replace(/\/+$/, '')}/v1/models`);
  if (!response.ok) throw new Error(`${url}/v1/models answered ${response.status}. Is a server there? Start one: npm run serve`);
  const { data } = (await response.json()) as { data: { max_model_len?: number }[] };
  return data[0]?.max_model_len ?? Number.POSITIVE_INFINITY;
}
