import { getEventListeners } from 'node:events';
import { BlocksExhaustedError, CapacityExceededError, DeviceLostError } from 'pagewise';
import { describe, expect, test, vi } from 'vitest';
import { fakeEngine } from './fake-engine.ts';
import { choicesOf, eventsOf, serve } from './serve-client.ts';

describe('what is refused', () => {
  const prompt = 'a';
  test.each([
    [{ prompt, temperature: -1 }, 'temperature', 'invalid_value'],
    [{ prompt, temperature: 'hot' }, 'temperature', 'invalid_value'],
    [{ prompt, top_p: 0 }, 'top_p', 'invalid_value'],
    [{ prompt, top_k: 1.5 }, 'top_k', 'invalid_value'],
    [{ prompt, min_p: 2 }, 'min_p', 'invalid_value'],
    [{ prompt, n: 0 }, 'n', 'invalid_value'],
    [{ prompt, max_tokens: 0 }, 'max_tokens', 'invalid_value'],
    [{ prompt, logprobs: 21 }, 'logprobs', 'invalid_value'],
    [{ prompt, logit_bias: { the: 1 } }, 'logit_bias.the', 'invalid_value'],
    [{ prompt, logit_bias: { 3: 101 } }, 'logit_bias.3', 'invalid_value'],
    [{ prompt, stop: '' }, 'stop', 'invalid_value'],
    [{ prompt, stream_options: { usage: true } }, 'stream_options.usage', 'unknown_parameter'],
    [{ prompt, max_token: 3 }, 'max_token', 'unknown_parameter'],
    [{ prompt, suffix: 'end' }, 'suffix', 'unsupported_parameter'],
    [{ prompt, best_of: 3 }, 'best_of', 'unsupported_parameter'],
    [{ prompt, echo: true, logprobs: 1 }, 'echo', 'unsupported_parameter'],
    [{ prompt, response_format: { type: 'json_object' } }, 'response_format', 'unsupported_parameter'],
    [{ prompt, response_format: { type: 'xml' } }, 'response_format.type', 'invalid_value'],
    [{ prompt, response_format: { type: 'json_schema' } }, 'response_format.json_schema', 'missing_parameter'],
    [{ prompt, stop_token_ids: [999] }, 'stop_token_ids', 'invalid_value'],
    [{ prompt: [] }, 'prompt', 'invalid_value'],
    [{ prompt: ['a', 3] }, 'prompt', 'invalid_value'],
    [{}, 'prompt', 'missing_parameter'],
    [{ prompt: 'a'.repeat(1000) }, 'prompt', 'context_length_exceeded'],
  ])('%j', async (body, param, code) => {
    const { post, engine } = serve();
    const response = await post('/v1/completions', body);
    expect([response.status, await response.json()]).toEqual([
      400,
      { error: { message: expect.stringMatching(/\.$/), type: 'invalid_request_error', param, code } },
    ]);
    expect(engine.running()).toBe(0);
  });

  test.each([
    [{}, 'messages', 'missing_parameter'],
    [{ messages: [] }, 'messages', 'invalid_value'],
    [{ messages: [{ role: 'king', content: 'a' }] }, 'messages.0.role', 'invalid_value'],
    [{ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] }, 'messages.0.content', 'invalid_value'],
    [{ messages: [{ role: 'user', content: 'a' }], tools: [{}] }, 'tools', 'unsupported_parameter'],
    [{ messages: [{ role: 'user', content: 'a' }], top_logprobs: 2 }, 'top_logprobs', 'invalid_value'],
    [{ messages: [{ role: 'user', content: 'a'.repeat(1000) }] }, 'messages', 'context_length_exceeded'],
  ])('%j as a conversation', async (body, param, code) => {
    const response = await serve().post('/v1/chat/completions', body);
    expect([response.status, (await response.json()).error]).toMatchObject([400, { param, code }]);
  });

  test("an option that the engine refuses is called by the API's name", async () => {
    const { error } = await (await serve().post('/v1/completions', { prompt, stop_token_ids: [999] })).json();
    expect(error.message).toBe('stop_token_ids is 999, but must be token ids of the vocabulary.');
  });

  test('harmless values of fields that are not supported are not', async () => {
    const harmless = { suffix: null, response_format: { type: 'text' }, tools: [], best_of: 2, n: 2, skip_special_tokens: true };
    expect((await serve().post('/v1/completions', { prompt, ...harmless })).status).toBe(200);
  });

  test.each([
    ['an unknown model', '/v1/completions', { prompt, model: 'gpt' }, 404, 'model_not_found'],
    ['no JSON', '/v1/completions', '{"prompt":', 400, 'invalid_json'],
    ['an array', '/v1/completions', [], 400, 'invalid_body'],
    ['an unknown path', '/v1/embeddings', {}, 404, 'unknown_url'],
    ['a name of every object', '/constructor', {}, 404, 'unknown_url'],
    ['another method', '/v1/models', {}, 405, 'method_not_allowed'],
  ])('%s', async (_, path, body, status, code) => {
    const response = await serve().post(path, body);
    expect([response.status, (await response.json()).error]).toMatchObject([status, { code }]);
    if (status === 405) expect(response.headers.get('allow')).toBe('GET, HEAD');
  });

  test('another type of content, and too many bytes, announced or not', async () => {
    const { post, handler } = serve(fakeEngine(), { maxBodyBytes: 100 });
    const plain = await post('/v1/completions', { prompt }, { headers: { 'content-type': 'text/plain' } });
    expect(plain.status).toBe(415);
    const long = JSON.stringify({ prompt: 'a'.repeat(200) });
    expect((await post('/v1/completions', long)).status).toBe(413);
    expect((await post('/v1/completions', long, { headers: { 'content-type': 'application/json', 'content-length': '213' } })).status).toBe(
      413,
    );
    const pieces = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(60)) });
    const streamed = { method: 'POST', body: pieces, duplex: 'half', headers: { 'content-type': 'application/json' } } as RequestInit;
    expect((await handler(new Request('http://host/v1/completions', streamed))).status).toBe(413);
  });

  test.each([true, false])('a prompt that fills all KV blocks, before anything runs (stream: %s)', async (stream) => {
    const engine = fakeEngine({ maxSequenceLength: 112 });
    const { post, get } = serve(engine);
    expect((await (await get('/v1/models')).json()).data[0].max_model_len).toBe(112);
    const response = await post('/v1/completions', { prompt: ['a', 'a'.repeat(112)], stream });
    expect([response.status, (await response.json()).error]).toMatchObject([
      400,
      { type: 'invalid_request_error', param: 'prompt', code: 'context_length_exceeded', message: expect.stringMatching(/112 tokens/) },
    ]);
    expect(engine.running()).toBe(0);
    expect((await post('/v1/completions', { prompt: 'a'.repeat(111), max_tokens: 1 })).status).toBe(200);
  });

  test.each([new BlocksExhaustedError(9, 7, 7), new CapacityExceededError('sequences', 9, 8, 'maxSequences')])(
    'what the engine turns out to be too small for, without a report: %s',
    async (failure) => {
      const onError = vi.fn();
      const engine = fakeEngine();
      engine.failWith(failure);
      const response = await serve(engine, { onError }).post('/v1/completions', { prompt: 'a' });
      expect([response.status, await response.json()]).toEqual([
        400,
        { error: { message: failure.message, type: 'invalid_request_error', param: 'prompt', code: 'context_length_exceeded' } },
      ]);
      expect(onError).not.toHaveBeenCalled();
    },
  );

  test('too much at once, with the time to wait; of several prompts none is left running', async () => {
    const engine = fakeEngine({ maxWaiting: 2 });
    const response = await serve(engine).post('/v1/completions', { prompt: ['a', 'b', 'c'] });
    expect([response.status, response.headers.get('retry-after'), (await response.json()).error]).toMatchObject([
      503,
      '1',
      { type: 'server_error', code: 'engine_busy' },
    ]);
    expect(engine.running()).toBe(0);
  });
});

describe('more prompts than an idle server takes', () => {
  test.each([
    [12, 1],
    [6, 2],
    [1, 128],
  ])('%i with n = %i are the most', async (prompts, n) => {
    const asked = (count: number) => ({ prompt: Array(count).fill('a'), n, max_tokens: 1 });
    const { post, engine } = serve(fakeEngine({ maxSequences: 2, maxWaiting: 10 }));
    const response = await post('/v1/completions', asked(prompts + 1));
    expect([response.status, response.headers.get('retry-after'), (await response.json()).error]).toMatchObject([
      400,
      null,
      { type: 'invalid_request_error', param: 'prompt', code: 'too_many_prompts', message: expect.stringContaining(`at most ${prompts} `) },
    ]);
    expect(engine.asked).toEqual([]);
    // The fake one takes any number that it is asked for while fewer generations than `maxWaiting` run.
    expect(
      (await serve(fakeEngine({ maxSequences: 2, maxWaiting: 10 })).post('/v1/completions', asked(Math.min(prompts, 10)))).status,
    ).toBe(200);
  });

  test('none are too many where nothing limits those that wait', async () => {
    const { post } = serve(fakeEngine({ maxWaiting: Number.POSITIVE_INFINITY }));
    expect((await post('/v1/completions', { prompt: Array(9).fill('a'), n: 100, max_tokens: 1 })).status).toBe(200);
  });
});

describe('failures of the server', () => {
  test('are told without their insides, and reported', async () => {
    const onError = vi.fn();
    const engine = fakeEngine();
    const failure = new Error('a secret');
    engine.failWith(failure);
    const { post } = serve(engine, { onError });
    const response = await post('/v1/completions', { prompt: 'a' });
    expect([response.status, await response.json()]).toEqual([
      500,
      { error: { message: expect.not.stringContaining('secret'), type: 'server_error', param: null, code: 'internal_error' } },
    ]);
    expect(onError.mock.calls).toEqual([[failure]]);
    await post('/v1/completions', { prompt: 'a', temperature: -1 });
    expect(onError).toHaveBeenCalledTimes(1);
  });

  test('in the middle of a stream are its last event', async () => {
    const engine = fakeEngine();
    engine.failWith(new DeviceLostError('unknown'));
    const events = await eventsOf(await serve(engine).post('/v1/completions', { prompt: 'a', stream: true }));
    expect(choicesOf(events.slice(0, -1)).map(({ text }) => text)).toEqual(['a', 'b', 'c']);
    expect(events.at(-1)).toMatchObject({ error: { type: 'server_error', code: 'device_lost' } });
    expect(engine.running()).toBe(0);
  });
});

describe('a client that goes away', () => {
  const body = { prompt: ['a', 'b'], n: 2, max_tokens: 1000 };

  test.each([true, false])('ends its generations when the request is aborted (stream: %s)', async (stream) => {
    const { post, engine } = serve();
    const client = new AbortController();
    const response = post(
      '/v1/completions',
      { ...body, stream },
      { signal: client.signal, headers: { 'content-type': 'application/json' } },
    );
    if (stream) void (await response).text().catch(() => {});
    await vi.waitFor(() => expect(engine.made()).toBeGreaterThan(20));
    expect(engine.running()).toBe(2);
    client.abort();
    expect(engine.running()).toBe(0);
    const made = engine.made();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(engine.made()).toBe(made);
  });

  test('is listened for once, however many prompts it sent', async () => {
    const body = JSON.stringify({ prompt: Array(12).fill('a'), max_tokens: 1, stream: true });
    const headers = { 'content-type': 'application/json' };
    const request = new Request('http://host/v1/completions', { method: 'POST', headers, body });
    const response = await serve().handler(request);
    expect(getEventListeners(request.signal, 'abort')).toHaveLength(1);
    expect(choicesOf(await eventsOf(response))).toHaveLength(12);
  });

  test('ends its generations when the stream is cancelled', async () => {
    const { post, engine } = serve();
    const reader = (await post('/v1/completions', { ...body, stream: true })).body?.getReader();
    await reader?.read();
    expect(engine.running()).toBe(2);
    await reader?.cancel();
    expect(engine.running()).toBe(0);
  });

  test('and one that does not read holds its generation back', async () => {
    const { post, engine } = serve();
    const reader = (await post('/v1/completions', { prompt: 'a', max_tokens: 100, stream: true })).body?.getReader();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(engine.made()).toBe(0);
    await reader?.read();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(engine.made()).toBeLessThanOrEqual(2);
    let pieces = 1;
    while (!(await reader?.read())?.done) pieces++;
    expect([pieces, engine.made()]).toEqual([101, 100]);
  });
});
