/** Many streams at once for as long as asked: is anything lost, doubled or out of order, does anything grow, are blocks given back? */
import type { Gpu } from 'pagewise';
import { createHandler } from 'pagewise/serve';
import { type Random, random } from '../../test/harness/random.ts';
import { type BenchHost, type BenchOptions, type BenchResult, median } from '../report.ts';
import { countOn } from '../step/counts.ts';
import { modelOf, openEngine } from './bench.ts';
import { eventsOf } from './clients.ts';

/** Reaches a server: a path of its API, with a body to post. */
export type Send = (path: string, body?: object, signal?: AbortSignal) => Promise<Response>;

/** What streams did. */
export interface SoakCounts {
  /** Read to the end, and right. */
  completed: number;
  /** Broken off by the client, and right as far as they were read. */
  left: number;
  tokens: number;
  /** What was wrong; the first few in words. */
  failed: number;
  readonly problems: string[];
}

const prompts = [
  'Once upon a time',
  'Once upon a time there was a little dog',
  'Once upon a time there was a big tree',
  'One day, a small bird',
  'Tom and Lily went to the park',
  'The sun was hot and the cat',
  'Deep in the forest there lived an old bear',
  'Mia had a red ball',
];

const longest = 48;
const shortest = 4;

/** One in so many clients goes away before the end. */
const leaverEvery = 4;

const shownProblems = 5;

/** What a prompt is answered with when nothing else runs. */
interface Reference {
  readonly prompt: string;
  readonly ids: readonly number[];
  readonly text: string;
}

export async function benchSoak(gpu: Gpu, host: BenchHost, options: BenchOptions): Promise<BenchResult> {
  const { serving } = options;
  if (!serving) throw new Error('the options of serving were not read.');
  const mode = serving.launchCache === 'off' ? 'off' : 'on';
  const engine = await openEngine(gpu, modelOf(host, serving.model), serving, mode);
  const handler = createHandler(engine, { modelName: serving.model });
  const server = await host.listen?.(handler, { port: 0, host: '127.0.0.1' });
  try {
    const send = server ? sendTo(`http://127.0.0.1:${server.port}`) : sendThrough(handler);
    const heaps: number[] = [];
    let objects = 0;
    const watch = async (rest: number) => {
      const samples = 9;
      const counted = await countOn(gpu.device, async () => {
        for (let i = 0; i < samples; i++) {
          if (host.heapUsed) heaps.push(host.heapUsed());
          await delay(rest / samples);
        }
      });
      objects = counted.objects;
    };
    const result = await soak(send, host, options, watch);
    const [early, late] = [median(heaps.slice(0, 3)), median(heaps.slice(-3))];
    const problems = [
      ...result.problems,
      ...(objects > 0 ? [`${objects} GPU objects were made after the warm-up`] : []),
      // A few megabytes come and go with what is on its way; a leak of a kilobyte a stream would be more in any run worth the name.
      ...(late > early * 1.1 + 4e6 ? [`the heap grew from ${megabytes(early)} to ${megabytes(late)} MB`] : []),
    ];
    const memory = heaps.length > 0 ? [count('heap, early', 'MB', megabytes(early)), count('heap, late', 'MB', megabytes(late))] : [];
    return finish(result, problems, [count('GPU objects made', 'objects', objects), ...memory], server ? 'by HTTP' : 'in process');
  } finally {
    await server?.shutdown();
    engine.destroy();
  }
}

export async function benchSoakAt(url: string, host: BenchHost, options: BenchOptions): Promise<BenchResult> {
  const result = await soak(sendTo(url), host, options, delay);
  return finish(result, result.problems, [], `${url}; its heap and its GPU objects cannot be seen from here`);
}

function finish(
  { completed, left, tokens, blocks }: SoakResult,
  problems: readonly string[],
  more: BenchResult['rows'],
  where: string,
): BenchResult {
  if (problems.length > 0) throw new Error(`soak, after ${completed} streams of ${tokens} tokens: ${problems.join('; ')}.`);
  return {
    rows: [
      count('streams read to the end', 'streams', completed),
      count('streams broken off', 'streams', left),
      count('tokens', 'tokens', tokens),
      count('KV blocks in use at the end', '%', blocks * 100),
      ...more,
    ],
    notes: [`Served ${where}. Every stream was compared with what the same prompt gave when it was alone and not streamed.`],
  };
}

export interface SoakResult extends SoakCounts {
  /** Share of the KV blocks in use when all clients had gone. */
  readonly blocks: number;
}

/**
 * @param watch runs for so many milliseconds, from when all is warm to the end.
 */
export async function soak(
  send: Send,
  host: Pick<BenchHost, 'progress'>,
  { serving }: BenchOptions,
  watch: (rest: number) => Promise<void>,
): Promise<SoakResult> {
  if (!serving) throw new Error('the options of serving were not read.');
  const references = await Promise.all(prompts.map((prompt) => referenceOf(send, prompt)));
  const counts: SoakCounts = { completed: 0, left: 0, tokens: 0, failed: 0, problems: [] };
  const total = serving.minutes * 60_000;
  const warmUp = Math.min(60_000, total / 3);
  const begin = performance.now();
  const timer = setInterval(() => {
    const done = Math.min(1, (performance.now() - begin) / total);
    host.progress?.(done, 'Soaking', `${counts.completed} streams, ${counts.tokens} tokens`);
  }, 500);
  let over = false;
  const streams = Array.from({ length: serving.streams }, async (_, at) => {
    const source = random(serving.seed + at);
    while (!over) await one(send, references[source.integer(references.length)], source, counts);
  });
  try {
    await delay(warmUp);
    await watch(total - warmUp);
  } finally {
    over = true;
    clearInterval(timer);
    host.progress?.(undefined);
  }
  await Promise.all(streams);
  const blocks = await blocksInUse(send);
  if (blocks > 0) counts.problems.push(`${(blocks * 100).toFixed(1)} % of the KV blocks are in use though all clients have gone`);
  if (counts.completed === 0) counts.problems.push('no stream came to its end');
  return { ...counts, blocks };
}

async function referenceOf(send: Send, prompt: string): Promise<Reference> {
  const { choices } = await (await send('/v1/completions', bodyOf(prompt, longest))).json();
  return { prompt, ids: choices[0].token_ids, text: choices[0].text };
}

function bodyOf(prompt: string, maxTokens: number): object {
  return { prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, return_token_ids: true };
}

/** One client: reads a stream to its end, or goes away on the way, and holds what it got against the reference. */
async function one(send: Send, reference: Reference, source: Random, counts: SoakCounts): Promise<void> {
  const length = shortest + source.integer(longest - shortest + 1);
  const leavesAfter = source.integer(leaverEvery) === 0 ? source.integer(length) : Number.POSITIVE_INFINITY;
  const leaving = new AbortController();
  const ids: number[] = [];
  let text = '';
  let reason: string | undefined;
  let promised: number | undefined;
  let done = false;
  try {
    const body = { ...bodyOf(reference.prompt, length), stream: true, stream_options: { include_usage: true } };
    const response = await send('/v1/completions', body, leaving.signal);
    if (!response.ok) throw new Error(`status ${response.status}: ${await response.text()}`);
    for await (const data of eventsOf(response)) {
      if (data === '[DONE]') {
        done = true;
        break;
      }
      const { choices, usage, error } = JSON.parse(data);
      if (error) throw new Error(error.message);
      promised = usage?.completion_tokens ?? promised;
      for (const choice of choices) {
        ids.push(...choice.token_ids);
        text += choice.text;
        reason = choice.finish_reason ?? reason;
      }
      if (ids.length > leavesAfter) break;
    }
    leaving.abort();
    const complete = !done || (ids.length === length && promised === length && reason === 'length');
    const same = String(ids) === String(reference.ids.slice(0, ids.length)) && reference.text.startsWith(text);
    if (!complete) throw new Error(`${ids.length} of ${length} tokens came, usage says ${promised}, the end was "${reason}"`);
    if (!same) throw new Error(`"${reference.prompt}" gave ${ids} instead of ${reference.ids.slice(0, ids.length)}`);
    if (!done && ids.length <= leavesAfter) throw new Error(`the stream broke off after ${ids.length} of ${length} tokens`);
    counts[done ? 'completed' : 'left']++;
  } catch (error) {
    counts.failed++;
    if (counts.problems.length < shownProblems) counts.problems.push(error instanceof Error ? error.message : String(error));
    // A server that refuses everything is not to be asked thousands of times a second.
    await delay(100);
  }
  counts.tokens += ids.length;
}

/** The share of the KV blocks in use once what runs has ended. */
async function blocksInUse(send: Send): Promise<number> {
  const end = performance.now() + 5000;
  for (;;) {
    const text = await (await send('/metrics')).text();
    const value = (name: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(`pagewise:${name}{`))
          ?.split(' ')
          .at(-1),
      );
    const [running, waiting, blocks] = ['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc'].map(value);
    if ((running === 0 && waiting === 0 && blocks === 0) || performance.now() > end) return blocks;
    await delay(20);
  }
}

function requestOf(url: string, body: object | undefined, signal: AbortSignal | undefined): Request {
  if (!body) return new Request(url);
  return new Request(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal });
}

export function sendTo(url: string): Send {
  return (path, body, signal) => fetch(requestOf(url.replace(/\/+$/, '') + path, body, signal));
}

export function sendThrough(handler: (request: Request) => Promise<Response>): Send {
  return (path, body, signal) => handler(requestOf(`http://127.0.0.1${path}`, body, signal));
}

function count(name: string, unit: string, value: number) {
  return { name, params: {}, unit, value, p10: value, p90: value, samples: 1 };
}

function megabytes(bytes: number): number {
  return Number((bytes / 1e6).toFixed(1));
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
