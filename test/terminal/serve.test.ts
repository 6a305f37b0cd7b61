/** `npm run serve`, asked by OpenAI's own client. */
import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { metricOf, type RunningServer, startServer } from './server.ts';

const limit = 120_000;
const greedy = { model: 'default', temperature: 0 };

interface Golden {
  readonly text: string;
  readonly ids: readonly number[];
  readonly greedy_ids: readonly number[];
  readonly greedy_text: string;
}

let server: RunningServer;
let client: OpenAI;
let golden: Golden;

beforeAll(async () => {
  server = await startServer('--chat-template', 'demo/terminal/continue.jinja', '--max-waiting', '4', '--cors', '*');
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  [golden] = JSON.parse(await readFile('test/golden/golden.json', 'utf8')).prompts;
}, limit);

afterAll(async () => {
  server.process.kill('SIGKILL');
  await server.ended;
});

/** Nothing runs or waits, and no block is in use. */
async function waitForRest(): Promise<void> {
  await vi.waitFor(
    async () => {
      const names = ['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc'];
      expect(await Promise.all(names.map((name) => metricOf(server.url, name)))).toEqual([0, 0, 0]);
    },
    { timeout: 20_000, interval: 20 },
  );
}

describe('the server', { timeout: limit }, () => {
  test('says where it is and how to ask it', () => {
    expect(server.printed().output).toContain(`curl -N ${server.url}/v1/completions`);
    expect(server.printed().errors).toMatch(/adapter/);
  });

  test('names its model', async () => {
    const models = await client.models.list();
    expect(models.data).toMatchObject([{ id: 'pagewise-stories', object: 'model', max_model_len: 1024 }]);
    expect(await client.models.retrieve('pagewise-stories')).toMatchObject({ id: 'pagewise-stories' });
  });

  test('completes with the golden text, whole, streamed, and from token ids', async () => {
    const asked = { ...greedy, prompt: golden.text, max_tokens: 24 };
    const whole = await client.completions.create(asked);
    const [{ text, finish_reason: reason }] = whole.choices;
    expect(golden.greedy_text.startsWith(text) && text.length > 40, text).toBe(true);
    expect([reason, whole.usage]).toMatchObject(['length', { prompt_tokens: golden.ids.length, completion_tokens: 24 }]);

    const stream = await client.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
    let streamed = '';
    let usage: OpenAI.CompletionUsage | null | undefined;
    let pieces = 0;
    for await (const chunk of stream) {
      streamed += chunk.choices[0]?.text ?? '';
      pieces += chunk.choices.length;
      usage = chunk.usage;
    }
    expect([streamed, usage]).toEqual([text, whole.usage]);
    expect(pieces).toBeGreaterThanOrEqual(24);

    const fromIds = await client.completions.create({ ...asked, prompt: [...golden.ids] });
    expect(fromIds.choices[0].text).toBe(text);
    const two = await client.completions.create({ ...asked, prompt: [golden.text, golden.text] });
    expect(two.choices.map((choice) => [choice.index, choice.text])).toEqual([
      [0, text],
      [1, text],
    ]);
  });

  test('answers a conversation, whole and streamed', async () => {
    const messages = [{ role: 'user' as const, content: golden.text }];
    const whole = await client.chat.completions.create({ ...greedy, messages, max_completion_tokens: 16 });
    const text = whole.choices[0].message.content ?? '';
    expect(golden.greedy_text.startsWith(text) && text.length > 20, text).toBe(true);
    // The template's begin token is read as one: the prompt is the golden one.
    expect(whole.usage).toMatchObject({ prompt_tokens: golden.ids.length, completion_tokens: 16 });
    const stream = client.chat.completions.stream({ ...greedy, messages, max_completion_tokens: 16 });
    const message = (await stream.finalChatCompletion()).choices[0];
    expect([message.message.content, message.message.role, message.finish_reason]).toEqual([text, 'assistant', 'length']);
  });

  test('samples as it is asked to: by a seed, several at once, with log probabilities, up to a stop text', async () => {
    const asked = { model: 'default', prompt: 'One day, a small', temperature: 1, seed: 5, n: 3, max_tokens: 8, logprobs: 2 };
    const [one, two] = [await client.completions.create(asked), await client.completions.create(asked)];
    const texts = one.choices.map(({ text }) => text);
    expect(two.choices.map(({ text }) => text)).toEqual(texts);
    expect(new Set(texts).size).toBeGreaterThan(1);
    for (const { text, logprobs } of one.choices) {
      expect(logprobs?.tokens?.join('')).toBe(text);
      expect(logprobs?.token_logprobs?.every((value) => value <= 0)).toBe(true);
      for (const top of logprobs?.top_logprobs ?? []) expect(Object.keys(top).length).toBeGreaterThanOrEqual(1);
    }
    const stopped = await client.completions.create({
      ...greedy,
      prompt: golden.text,
      max_tokens: 40,
      stop: golden.greedy_text.slice(12, 18),
    });
    expect(stopped.choices[0]).toMatchObject({ text: golden.greedy_text.slice(0, 12), finish_reason: 'stop' });
    const cached = 'There was a boy who had a red ball and a blue ball, and he liked both of them very much. '.repeat(2);
    const prompts = { ...greedy, prompt: cached, max_tokens: 1 };
    await client.completions.create(prompts);
    const { usage } = await client.completions.create(prompts);
    expect(usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(32);
    expect(await metricOf(server.url, 'prefix_cache_hits_total')).toBeGreaterThanOrEqual(32);
  });

  test('holds an answer to a schema', async () => {
    const schema = {
      type: 'object',
      properties: { animal: { enum: ['dog', 'cat'] }, legs: { type: 'integer', minimum: 1, maximum: 4 } },
      required: ['animal', 'legs'],
    };
    const messages = [{ role: 'user' as const, content: golden.text }];
    const format = { type: 'json_schema' as const, json_schema: { name: 'animal', strict: true, schema } };
    const { choices } = await client.chat.completions.create({ ...greedy, messages, response_format: format });
    const answer = JSON.parse(choices[0].message.content ?? '');
    expect(Object.keys(answer)).toEqual(['animal', 'legs']);
    expect([['dog', 'cat'].includes(answer.animal), answer.legs >= 1 && answer.legs <= 4]).toEqual([true, true]);
    expect(choices[0].finish_reason).toBe('stop');
  });

  test("gives OpenAI's errors", async () => {
    const failure = (work: Promise<unknown>) =>
      work.then(() => undefined).catch((error: unknown) => error as InstanceType<typeof OpenAI.APIError>);
    const unknown = await failure(client.completions.create({ model: 'gpt', prompt: 'a' }));
    expect(unknown).toBeInstanceOf(OpenAI.NotFoundError);
    expect(unknown).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' });
    const bad = await failure(client.completions.create({ ...greedy, prompt: 'a', top_p: 3 }));
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError);
    expect(bad).toMatchObject({ param: 'top_p', type: 'invalid_request_error' });
    const long = await failure(client.completions.create({ ...greedy, prompt: 'word '.repeat(1100) }));
    expect(long).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'prompt' });
  });

  test.each([
    [true, 1],
    [false, 1],
    [true, 300],
    // More than a server may have read at once, so that it has to look at the connection again to see it end.
    [false, 300],
  ])('frees the blocks of a client that goes away (stream: %s, %i words)', async (stream, words) => {
    await waitForRest();
    const aborted = await metricOf(server.url, 'request_success_total', 'finished_reason="abort"');
    const leaving = new AbortController();
    const body = JSON.stringify({ ...greedy, prompt: 'word '.repeat(words), max_tokens: 600, ignore_eos: true, stream });
    const headers = { 'content-type': 'application/json' };
    const answer = fetch(`${server.url}/v1/completions`, { method: 'POST', headers, body, signal: leaving.signal });
    if (stream) {
      const reader = (await answer).body?.getReader();
      for (let pieces = 0; pieces < 3; pieces++) await reader?.read();
    } else {
      answer.catch(() => {});
      await vi.waitFor(async () => expect(await metricOf(server.url, 'num_requests_running')).toBe(1), { timeout: 10_000 });
    }
    await vi.waitFor(async () => expect(await metricOf(server.url, 'kv_cache_usage_perc')).toBeGreaterThan(0), { timeout: 10_000 });
    leaving.abort();
    await waitForRest();
    expect(await metricOf(server.url, 'request_success_total', 'finished_reason="abort"')).toBe(aborted + 1);
  });

  test('refuses with 503 what is more than may wait, and goes on afterwards', async () => {
    await waitForRest();
    const asked = { ...greedy, prompt: 'Once', max_tokens: 1000, ignore_eos: true };
    // Eight run and four wait.
    const clients = Array.from({ length: 14 }, () => new AbortController());
    const answers = clients.map(({ signal }) =>
      client.completions
        .create(asked, { signal })
        .then(() => 'answered')
        .catch((error: unknown) => error),
    );
    const refused = await Promise.race(answers);
    expect(refused).toBeInstanceOf(OpenAI.InternalServerError);
    expect(refused).toMatchObject({ status: 503, code: 'engine_busy' });
    expect((refused as InstanceType<typeof OpenAI.APIError>).headers?.get('retry-after')).toBe('1');
    expect(await metricOf(server.url, 'num_requests_waiting')).toBeGreaterThanOrEqual(1);
    for (const one of clients) one.abort();
    await waitForRest();
    const outcomes = await Promise.all(answers);
    expect(outcomes.filter((one) => one instanceof OpenAI.InternalServerError)).toHaveLength(2);
    expect(outcomes.filter((one) => one instanceof OpenAI.APIUserAbortError)).toHaveLength(12);
    expect((await client.completions.create({ ...greedy, prompt: 'Once', max_tokens: 1 })).choices).toHaveLength(1);
  });

  test('takes as many prompts at once as can run and wait, and says that more will never do', async () => {
    await waitForRest();
    const ask = (prompts: number) => client.completions.create({ ...greedy, prompt: Array(prompts).fill('Once'), max_tokens: 1 });
    expect((await ask(12)).choices).toHaveLength(12);
    await waitForRest();
    await expect(ask(13)).rejects.toMatchObject({ status: 400, code: 'too_many_prompts', param: 'prompt' });
  });

  test('counts what it did', async () => {
    await waitForRest();
    expect(await metricOf(server.url, 'generation_tokens_total')).toBeGreaterThan(100);
    expect(await metricOf(server.url, 'request_success_total', 'finished_reason="length"')).toBeGreaterThanOrEqual(7);
    const count = await metricOf(server.url, 'time_to_first_token_seconds_count');
    expect(count).toBeGreaterThanOrEqual(7);
    expect(await metricOf(server.url, 'time_to_first_token_seconds_bucket', 'le="+Inf"')).toBe(count);
    // Some went away after they had begun, before they had a token.
    expect(await metricOf(server.url, 'request_queue_time_seconds_count')).toBeGreaterThanOrEqual(count);
    expect(await metricOf(server.url, 'inter_token_latency_seconds_count')).toBeGreaterThan(100);
  });

  test('finishes what runs after SIGTERM, refuses what is new, and ends with code 0', async () => {
    await waitForRest();
    const asked = { ...greedy, prompt: golden.text, max_tokens: 300, ignore_eos: true };
    const stream = await client.completions.create({ ...asked, stream: true });
    let tokens = 0;
    let last: string | undefined;
    let refused: Promise<Response> | undefined;
    for await (const { choices } of stream) {
      if (++tokens === 5) {
        server.process.kill('SIGTERM');
        await vi.waitFor(() => expect(server.printed().errors).toContain('Finishing 1 requests'), { timeout: 5_000, interval: 5 });
        refused = fetch(`${server.url}/health`);
      }
      last = choices[0]?.finish_reason ?? undefined;
    }
    expect(last).toBe('length');
    expect((await refused)?.status).toBe(503);
    expect([await server.ended, server.printed().errors]).toEqual([0, expect.stringMatching(/Stopped\.\n$/)]);
  });
});

describe('a server that cannot start says why in one line', { timeout: limit }, () => {
  test.each([
    [['--port', '70000'], /--port is "70000", but must be a port/],
    [['--chat-template', 'nowhere.jinja'], /--chat-template is "nowhere.jinja", but must be a file that can be read/],
    [['--chat-template', 'package.json', '--model', 'nowhere'], /tokenizer_config|config\.json|template/],
    [['--max-sequences', '0'], /--max-sequences is "0", but must be an integer of at least 1/],
    [['--prot', '1'], /unknown option '--prot'.*--help/],
  ])('%j', async (programArguments, expected) => {
    const failure = await startServer(...programArguments).then(
      () => undefined,
      (error: Error) => error,
    );
    expect(failure?.message).toMatch(/^exit code 1: pagewise: [^\n]*\n$/);
    expect(failure?.message).toMatch(expected);
  });

  test('a port that is taken', async () => {
    const { createServer } = await import('node:http');
    const other = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => other.once('listening', resolve));
    const { port } = other.address() as import('node:net').AddressInfo;
    const failure = await startServer('--port', String(port)).catch((error: Error) => error);
    expect(String(failure)).toMatch(/exit code 1: .*\n?pagewise: --port is .*must be a port that is free/);
    other.close();
  });
});
