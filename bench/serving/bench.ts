import type { Gpu } from 'pagewise';
import { Engine, type ModelFiles, readModelConfig, type Tokenizer } from 'pagewise/engine';
import type { ServingOptions } from '../../scripts/serving-options.mjs';
import { readJsonIfPresent } from '../../src/engine/files.ts';
import { createTokenizer } from '../../src/engine/tokenizer.ts';
import { random } from '../../test/harness/random.ts';
import { shippedFiles } from '../generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchResult, type BenchRow, median, rowOf } from '../report.ts';
import { figuresOf, type ServingFigures, summaryOf } from './arithmetic.ts';
import { arrivalTimes } from './arrivals.ts';
import { type Client, engineClient, httpClient } from './clients.ts';
import { randomRequests, type SampleRequest, shareGptRequests } from './dataset.ts';
import { type DriveResult, drive } from './drive.ts';
import { syntheticConfigs, syntheticFiles } from './synthetic.ts';
import { servingTable } from './table.ts';

/** The context of models made up: what the longest request of the filter needs. */
const syntheticContext = 2048;

/** Requests to an engine in this process; of several rounds, modes in turn, the one of median throughput is shown. */
export async function benchServing(gpu: Gpu, host: BenchHost, options: BenchOptions): Promise<BenchResult> {
  const serving = servingOf(options);
  const files = modelOf(host, serving.model);
  const modes = serving.launchCache === 'both' ? (['off', 'on'] as const) : ([serving.launchCache] as const);
  const rounds = options.rounds ?? 1;
  const engines = new Map<string, Engine>();
  const runs = new Map<string, Run[]>(modes.map((mode) => [mode, []]));
  try {
    for (const mode of modes) engines.set(mode, await openEngine(gpu, files, serving, mode));
    for (let round = 0; round < rounds; round++) {
      for (const mode of round % 2 === 0 ? modes : modes.toReversed()) {
        const label = `launch cache ${mode}${rounds > 1 ? `, round ${round + 1} of ${rounds}` : ''}`;
        runs.get(mode)?.push(await runOn(engines.get(mode)!, host, serving, label, `round ${round}`));
      }
    }
  } finally {
    for (const engine of engines.values()) engine.destroy();
  }
  const throughputs = (mode: string) => (runs.get(mode) ?? []).map(({ figures }) => figures.requestThroughput);
  const ratios = modes.length > 1 ? throughputs('on').map((on, round) => on / throughputs('off')[round]) : [];
  const shown = modes.map((mode) => ({ mode, run: medianRun(runs.get(mode) ?? []) }));
  const rows = shown.flatMap(({ mode, run }) => {
    const params = { launchCache: mode };
    const ofRounds = rounds > 1 ? [rowOf('request throughput, all rounds', params, 'req/s', throughputs(mode))] : [];
    return [...rowsOf(run.figures, params), ...run.counts.map(([name, unit, value]) => single(name, params, unit, value)), ...ofRounds];
  });
  const notes =
    rounds > 1
      ? [`Of ${rounds} rounds, modes in turn and each without the cached prefixes of the others, the one of median throughput.`]
      : [];
  return {
    rows: [...rows, ...(ratios.length > 0 ? [rowOf('request throughput on/off', {}, 'x', ratios)] : [])],
    notes: [
      `Model ${serving.model}, ${serving.engine.maxSequences} sequences at most, in process.`,
      ...notesOf(serving, shown[0].run),
      ...notes,
    ],
    lines: [
      ...shown.flatMap(({ run }) => [...(modes.length > 1 || rounds > 1 ? [run.label] : []), ...run.lines]),
      ...(ratios.length > 0 ? [`Request throughput, launch cache on/off: ${median(ratios).toFixed(3)}`] : []),
    ],
  };
}

/** A run, with what the engine counted in it. @param cacheSalt keeps the prefixes of other runs out */
async function runOn(engine: Engine, host: BenchHost, serving: ServingOptions, label: string, cacheSalt: string): Promise<Run> {
  const requests = await requestsOf(host, serving, engine.tokenizer, engine.contextLength, engine.config.vocabSize);
  const client = engineClient(engine, { ...serving, cacheSalt });
  await client(requests[0]);
  const before = engine.stats();
  const run = await measure(host, client, requests, serving, label);
  const after = engine.stats();
  const steps = after.steps - before.steps;
  return {
    ...run,
    counts: [
      ['steps', 'steps', steps],
      ['host time of a step', 'ms', (after.hostTime - before.hostTime) / steps],
      ['preemptions', 'requests', after.preemptions - before.preemptions],
      ['prefix hits', 'tokens', after.prefixHits - before.prefixHits],
    ],
  };
}

/** The run of median throughput; of an even number, the lower one of the middle. */
function medianRun<T extends Measured>(runs: readonly T[]): T {
  const sorted = runs.toSorted((a, b) => a.figures.requestThroughput - b.figures.requestThroughput);
  return sorted[Math.floor((sorted.length - 1) / 2)];
}

/** Requests to a server; of several rounds, the one of median throughput is shown. */
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
  const rounds = options.rounds ?? 1;
  const runs: Measured[] = [];
  const begin = Date.now();
  for (let round = 0; round < rounds; round++) {
    // The server may still know what a bench before this one asked.
    const cacheSalt = rounds > 1 ? `round ${round} of ${begin}` : undefined;
    const label = `${url}${rounds > 1 ? `, round ${round + 1} of ${rounds}` : ''}`;
    const client = httpClient(url, { ...serving, cacheSalt });
    await client(requests[0]);
    runs.push(await measure(host, client, requests, serving, label));
  }
  const run = medianRun(runs);
  const throughputs = runs.map(({ figures }) => figures.requestThroughput);
  const ofRounds = rounds > 1 ? [rowOf('request throughput, all rounds', { url }, 'req/s', throughputs)] : [];
  const notes = rounds > 1 ? [`Of ${rounds} rounds, each without the cached prefixes of the others, the one of median throughput.`] : [];
  return {
    rows: [...rowsOf(run.figures, { url }), ...ofRounds],
    notes: [`Server ${url}.`, ...notesOf(serving, run), ...notes],
    lines: [...(rounds > 1 ? [run.label] : []), ...run.lines],
  };
}

interface Measured {
  readonly label: string;
  readonly figures: ServingFigures;
  readonly lines: readonly string[];
  readonly requests: readonly SampleRequest[];
}

interface Run extends Measured {
  readonly counts: readonly (readonly [name: string, unit: string, value: number])[];
}

/** Sends all requests. One that is not timed should have come before: what is made only once is made by then, and a wrong address shows. */
async function measure(
  host: BenchHost,
  client: Client,
  requests: readonly SampleRequest[],
  serving: ServingOptions,
  label: string,
): Promise<Measured> {
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
