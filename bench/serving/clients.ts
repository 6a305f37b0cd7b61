/** Two ways to send a request: to an engine in this process, and to a server. */
import { createParser } from 'eventsource-parser';
import type { ServingEngine } from 'pagewise/serve';
import type { RequestTrace } from './arithmetic.ts';
import type { SampleRequest } from './dataset.ts';

/** Sends one request and reads its answer to the end. */
export type Client = (request: SampleRequest) => Promise<RequestTrace>;

export interface ClientOptions {
  readonly ignoreEos: boolean;
  /** Keeps what other runs have left in the prefix cache out. */
  readonly cacheSalt?: string;
}

/** @param now a clock in milliseconds. */
export function engineClient(
  engine: Pick<ServingEngine, 'generate'>,
  { ignoreEos, cacheSalt }: ClientOptions,
  now = () => performance.now(),
): Client {
  return async ({ prompt, promptTokens, outputTokens }) => {
    const start = now();
    const chunks: number[] = [];
    const generation = engine.generate(prompt, { maxTokens: outputTokens, temperature: 0, ignoreEos, cacheSalt });
    for await (const _ of generation) chunks.push(now());
    const { ids } = await generation.result;
    return { promptTokens, outputTokens: ids.length, start, chunks };
  };
}

/** As the original's client of OpenAI's completions: streams, greedy, and takes the number of tokens from the answer's usage. */
export function httpClient(url: string, { ignoreEos, cacheSalt }: ClientOptions, now = () => performance.now()): Client {
  const address = `${url.replace(/\/+$/, '')}/v1/completions`;
  return async ({ prompt, promptTokens, outputTokens: asked }) => {
    const body = JSON.stringify({
      ...{ model: 'default', prompt, max_tokens: asked, temperature: 0, stream: true, stream_options: { include_usage: true } },
      ...(ignoreEos && { ignore_eos: true }),
      ...(cacheSalt !== undefined && { cache_salt: cacheSalt }),
    });
    const start = now();
    const response = await fetch(address, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    if (!response.ok) throw new Error(`${address} answered ${response.status}: ${await response.text()}`);
    const chunks: number[] = [];
    let outputTokens: number | undefined;
    let done = false;
    for await (const data of eventsOf(response)) {
      if (data === '[DONE]') {
        done = true;
        continue;
      }
      const { choices, usage, error } = JSON.parse(data);
      if (error) throw new Error(`${address}: ${error.message}`);
      if (choices.length > 0) chunks.push(now());
      outputTokens = usage?.completion_tokens ?? outputTokens;
    }
    if (!done || chunks.length === 0) throw new Error(`${address}: the stream broke off after ${chunks.length} pieces.`);
    return { promptTokens, outputTokens: outputTokens ?? chunks.length, start, chunks };
  };
}

/** The data of server-sent events, as they come. */
export async function* eventsOf(response: Response): AsyncGenerator<string, void> {
  const ready: string[] = [];
  const parser = createParser({ onEvent: ({ data }) => ready.push(data) });
  const decoder = new TextDecoder();
  const reader = response.body?.getReader();
  try {
    for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read()) {
      parser.feed(decoder.decode(piece.value, { stream: true }));
      yield* ready.splice(0);
    }
  } finally {
    await reader?.cancel();
  }
}
