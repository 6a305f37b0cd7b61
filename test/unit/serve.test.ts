import { ConstraintError, DeviceLostError } from 'pagewise';
import type { GenerationChunk } from 'pagewise/engine';
import { createChatTemplate } from 'pagewise/serve';
import { describe, expect, test, vi } from 'vitest';
import { fakeEngine } from './fake-engine.ts';
import { choicesOf, eventsOf, type Json, serve } from './serve-client.ts';

describe('completions', () => {
  test('a whole answer has its text, why it ended, and what it used', async () => {
    const { post, engine } = serve();
    const response = await post('/v1/completions', { model: 'tales', prompt: 'Once', max_tokens: 4 });
    expect(response.status).toBe(200);
    const body = await response.json();
    expect(body).toEqual({
      ...{ id: expect.stringMatching(/^cmpl-/), object: 'text_completion', created: expect.any(Number), model: 'tales' },
      choices: [{ index: 0, text: 'abcd', logprobs: null, finish_reason: 'length' }],
      usage: { prompt_tokens: 4, completion_tokens: 4, total_tokens: 8, prompt_tokens_details: { cached_tokens: 3 } },
    });
    expect(engine.running()).toBe(0);
  });

  test('a streamed one has the same text in pieces, and usage only at the end', async () => {
    const { post } = serve();
    const events = await eventsOf(
      await post('/v1/completions', { prompt: 'Once', max_tokens: 3, stream: true, stream_options: { include_usage: true } }),
    );
    expect(choicesOf(events).map(({ text, finish_reason: reason }) => [text, reason])).toEqual([
      ['a', null],
      ['b', null],
      ['c', 'length'],
    ]);
    expect(new Set(events.map(({ id }) => id)).size).toBe(1);
    expect(events.map(({ usage }) => usage)).toEqual([null, null, null, expect.objectContaining({ completion_tokens: 3 })]);
    expect(events.at(-1)?.choices).toEqual([]);
    const without = await eventsOf(await post('/v1/completions', { prompt: 'Once', max_tokens: 3, stream: true }));
    expect(without.map((event) => 'usage' in event)).toEqual([false, false, false]);
    const continuous = { include_usage: true, continuous_usage_stats: true };
    const all = await eventsOf(await post('/v1/completions', { prompt: 'Once', max_tokens: 2, stream: true, stream_options: continuous }));
    expect(all.map(({ usage }) => (usage as Json).total_tokens)).toEqual([5, 6, 6]);
  });

  test.each([[['ab', 'c']], [[[97, 98], [99]]]])('prompts %j have choices of their own, numbered prompt by prompt', async (prompt) => {
    const { post, engine } = serve();
    const asked = { prompt, n: 2, max_tokens: 2, return_token_ids: true };
    const { choices, usage } = await (await post('/v1/completions', asked)).json();
    expect(choices.map(({ index, text, prompt_token_ids: ids }: Json) => [index, text, ids])).toEqual([
      [0, 'ab', [97, 98]],
      [1, 'bc', [97, 98]],
      [2, 'ab', [99]],
      [3, 'bc', [99]],
    ]);
    expect(usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 8 });
    expect(engine.asked.map(({ options }) => options.n)).toEqual([2, 2]);
    const pieces = choicesOf(await eventsOf(await post('/v1/completions', { ...asked, stream: true })));
    for (const { index, text, token_ids: ids } of choices) {
      const own = pieces.filter((piece) => piece.index === index);
      expect([own.map((piece) => piece.text).join(''), own.flatMap((piece) => piece.token_ids)]).toEqual([text, ids]);
      expect(own.map((piece) => 'prompt_token_ids' in piece)).toEqual([true, false]);
    }
  });

  test('a prompt of token ids is passed on as it is', async () => {
    const { post, engine } = serve();
    await post('/v1/completions', { prompt: [5, 6, 7] });
    expect(engine.asked[0]).toMatchObject({ promptIds: [5, 6, 7], options: { maxTokens: 16 } });
  });

  test('echo puts the prompt in front, of ids their text', async () => {
    const { post } = serve();
    const asked = { prompt: ['x', 'yz'], echo: true, max_tokens: 1 };
    const { choices } = await (await post('/v1/completions', asked)).json();
    expect(choices.map(({ text }: Json) => text)).toEqual(['xa', 'yza']);
    const ids = await eventsOf(await post('/v1/completions', { prompt: [120], echo: true, max_tokens: 2, stream: true }));
    expect(choicesOf(ids).map(({ text }) => text)).toEqual(['xa', 'b']);
  });

  test('log probabilities come with tokens, offsets and the likeliest', async () => {
    const { post } = serve();
    const expected = { tokens: ['a', 'b'], token_logprobs: [-0.5, -0.5], text_offset: [0, 1] };
    const { choices } = await (await post('/v1/completions', { prompt: 'x', logprobs: 1, max_tokens: 2 })).json();
    expect(choices[0].logprobs).toEqual({ ...expected, top_logprobs: [{ a: -0.5 }, { b: -0.5 }] });
    const pieces = choicesOf(await eventsOf(await post('/v1/completions', { prompt: 'x', logprobs: 1, max_tokens: 2, stream: true })));
    const joined = (name: string) => pieces.flatMap(({ logprobs }) => (logprobs as Json)[name]);
    for (const [name, value] of Object.entries(expected)) expect(joined(name)).toEqual(value);
    expect(joined('top_logprobs')).toEqual([{ a: -0.5 }, { b: -0.5 }]);
    const none = choicesOf(await eventsOf(await post('/v1/completions', { prompt: 'x', logprobs: 0, max_tokens: 1, stream: true })));
    expect((none[0].logprobs as Json).top_logprobs).toBeNull();
  });
});

test('offsets of tokens do not depend on the text that a stream holds back', async () => {
  const engine = fakeEngine();
  const late: typeof engine = {
    ...engine,
    generate(...asked) {
      const generation = engine.generate(...asked);
      return { ...generation, [Symbol.asyncIterator]: () => holdBack(generation) };
    },
  };
  async function* holdBack(chunks: AsyncIterable<GenerationChunk>): AsyncGenerator<GenerationChunk, void> {
    let held = '';
    for await (const chunk of chunks) {
      held += chunk.text;
      const isCertain = chunk.ids[0] === 98 || chunk.finishReason !== undefined;
      yield { ...chunk, text: isCertain ? held : '' };
      if (isCertain) held = '';
    }
  }
  const { post } = serve(late);
  const asked = { prompt: 'x', logprobs: 0, max_tokens: 5 };
  const [whole] = (await (await post('/v1/completions', asked)).json()).choices;
  const pieces = choicesOf(await eventsOf(await post('/v1/completions', { ...asked, stream: true })));
  expect(pieces.map(({ text }) => text)).toEqual(['', 'ab', '', '', 'cde']);
  const offsets = pieces.flatMap(({ logprobs }) => (logprobs as Json).text_offset);
  expect([offsets, whole.logprobs.text_offset]).toEqual([
    [0, 1, 2, 3, 4],
    [0, 1, 2, 3, 4],
  ]);
});

describe('conversations', () => {
  const messages = [
    { role: 'system', content: 'Be kind' },
    { role: 'user', content: [{ type: 'text', text: 'Hi' }] },
  ];

  test('become a prompt by the template, and an answer of the assistant', async () => {
    const { post, engine } = serve();
    const body = await (await post('/v1/chat/completions', { model: 'default', messages, max_completion_tokens: 3 })).json();
    expect(body).toMatchObject({
      ...{ id: expect.stringMatching(/^chatcmpl-/), object: 'chat.completion', model: 'tales' },
      choices: [{ index: 0, message: { role: 'assistant', content: 'abc' }, finish_reason: 'length', logprobs: null }],
      usage: { completion_tokens: 3 },
    });
    expect(String.fromCodePoint(...engine.asked[0].promptIds)).toBe('system:Be kind;user:Hi;>');
    await post('/v1/chat/completions', { messages, max_tokens: 2, add_generation_prompt: false });
    expect(String.fromCodePoint(...engine.asked[1].promptIds)).toBe('system:Be kind;user:Hi;');
    expect(engine.asked[1].options.maxTokens).toBe(2);
  });

  test('are streamed with the role first, of each choice once', async () => {
    const { post } = serve();
    const asked = { messages, max_tokens: 2, n: 2, stream: true, logprobs: true, top_logprobs: 1, stream_options: { include_usage: true } };
    const events = await eventsOf(await post('/v1/chat/completions', asked));
    for (const index of [0, 1]) {
      const own = choicesOf(events).filter((choice) => choice.index === index);
      expect(own.map(({ delta }) => (delta as Json).role)).toEqual(['assistant', undefined, undefined]);
      expect(own.map(({ delta }) => (delta as Json).content).join('')).toBe(['ab', 'bc'][index]);
      expect(own.map(({ finish_reason: reason }) => reason)).toEqual([null, null, 'length']);
    }
    const token = { token: 'a', logprob: -0.5, bytes: [97] };
    expect(choicesOf(events)[1].logprobs).toEqual({ content: [{ ...token, top_logprobs: [token] }] });
    expect(events.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 4 } });
    expect(events.every(({ object }) => object === 'chat.completion.chunk')).toBe(true);
  });

  test('are refused without a template, with the remedy', async () => {
    const { post } = serve(fakeEngine(), { chatTemplate: undefined });
    const response = await post('/v1/chat/completions', { messages });
    expect([response.status, (await response.json()).error.message]).toEqual([400, expect.stringContaining('--chat-template FILE')]);
  });

  test('are refused without a tokenizer, and where the template refuses them', async () => {
    const noTokenizer = await serve(fakeEngine({ withTokenizer: false })).post('/v1/chat/completions', { messages });
    expect((await noTokenizer.json()).error).toMatchObject({ code: 'no_tokenizer' });
    const refusing = createChatTemplate("{{ raise_exception('no system role') }}");
    const response = await serve(fakeEngine(), { chatTemplate: refusing }).post('/v1/chat/completions', { messages });
    expect([response.status, (await response.json()).error]).toMatchObject([
      400,
      { param: 'messages', message: expect.stringContaining('no system role') },
    ]);
  });
});

test('every sampling field reaches the engine under its own name', async () => {
  const { post, engine } = serve();
  const body = {
    ...{ max_tokens: 7, min_tokens: 2, temperature: 0.5, top_p: 0.9, top_k: 5, min_p: 0.1, repetition_penalty: 1.1 },
    ...{ presence_penalty: -1, frequency_penalty: 2, logit_bias: { 3: -100 }, seed: 11, stop: ['x', 'y'], stop_token_ids: [4] },
    ...{ ignore_eos: true, n: 1, priority: -3, cache_salt: 'pepper', logprobs: 2, user: 'me', metadata: {} },
  };
  expect((await post('/v1/completions', { prompt: 'a', ...body })).status).toBe(200);
  const { signal, ...options } = engine.asked[0].options;
  expect(signal).toBeInstanceOf(AbortSignal);
  expect(options).toEqual({
    ...{ maxTokens: 7, minTokens: 2, temperature: 0.5, topP: 0.9, topK: 5, minP: 0.1, repetitionPenalty: 1.1 },
    ...{ presencePenalty: -1, frequencyPenalty: 2, logitBias: { 3: -100 }, seed: 11, stop: ['x', 'y'], stopTokens: [4] },
    ...{ ignoreEos: true, n: 1, priority: -3, cacheSalt: 'pepper', logprobs: 2 },
  });
  await post('/v1/completions', { prompt: 'a', top_k: -1, seed: -1, stop: null, n: null });
  expect(engine.asked[1].options).toEqual({ signal: expect.anything(), maxTokens: 16, topK: 0, seed: 2 ** 32 - 1 });
  await post('/v1/chat/completions', { messages: [{ role: 'user', content: 'a' }], logprobs: true });
  expect(engine.asked[2].options).toEqual({ signal: expect.anything(), logprobs: 0 });
});

describe('answers in JSON', () => {
  const schema = { type: 'object', properties: { name: { type: 'string' } } };
  const messages = [{ role: 'user', content: 'a' }];

  function constrained() {
    const allowedTokens = () => Uint32Array.of(7);
    const destroy = vi.fn();
    const jsonSchema = vi.fn(async () => ({ allowedTokens, destroy }));
    return { allowedTokens, destroy, jsonSchema, ...serve(fakeEngine({ maxWaiting: 2 }), { constraints: { jsonSchema } }) };
  }

  test.each([
    [{ type: 'json_object' }, [{ type: 'object' }, { strict: false }]],
    [{ type: 'json_schema', json_schema: { name: 'x', schema } }, [schema, { strict: false }]],
    [{ type: 'json_schema', json_schema: { schema, strict: true } }, [schema, { strict: true }]],
  ])('%j is held by a constraint for as long as it runs', async (format, asked) => {
    const { post, engine, jsonSchema, allowedTokens, destroy } = constrained();
    const response = await post('/v1/chat/completions', { messages, n: 2, max_tokens: 3, stream: true, response_format: format });
    expect(jsonSchema.mock.calls).toEqual([asked]);
    expect(engine.asked[0].options.allowedTokens).toBe(allowedTokens);
    expect(destroy).not.toHaveBeenCalled();
    await response.text();
    expect(destroy).toHaveBeenCalledTimes(1);
  });

  test('frees its constraint also when nothing could start, and asks for none where text is enough', async () => {
    const { post, destroy, jsonSchema } = constrained();
    const body = { prompt: ['a', 'b', 'c'], response_format: { type: 'json_object' } };
    expect((await post('/v1/completions', body)).status).toBe(503);
    await vi.waitFor(() => expect(destroy).toHaveBeenCalledTimes(1));
    await post('/v1/completions', { prompt: 'a', response_format: { type: 'text' } });
    expect(jsonSchema).toHaveBeenCalledTimes(1);
  });

  test('a schema that cannot be is refused', async () => {
    const jsonSchema = () => Promise.reject(new ConstraintError('schema', 'no such type'));
    const { post } = serve(fakeEngine(), { constraints: { jsonSchema } });
    const response = await post('/v1/chat/completions', {
      messages,
      response_format: { type: 'json_schema', json_schema: { schema: {} } },
    });
    expect([response.status, (await response.json()).error]).toMatchObject([400, { param: 'response_format', code: 'invalid_schema' }]);
  });
});

describe('other paths', () => {
  test('models and health', async () => {
    const closing = new AbortController();
    const { get, post } = serve(fakeEngine(), { closing: closing.signal });
    expect(await (await get('/v1/models')).json()).toMatchObject({ object: 'list', data: [{ id: 'tales', max_model_len: 1000 }] });
    expect(await (await get('/v1/models/default')).json()).toMatchObject({ id: 'tales' });
    expect((await get('/v1/models/gpt')).status).toBe(404);
    expect((await get('/health')).status).toBe(200);
    const running = await post('/v1/completions', { prompt: 'a', max_tokens: 3, stream: true });
    closing.abort();
    expect([(await get('/health')).status, (await post('/v1/completions', { prompt: 'a' })).status]).toEqual([503, 503]);
    expect(choicesOf(await eventsOf(running))).toHaveLength(3);
  });

  test('health knows of a lost device', async () => {
    let lose: (error: DeviceLostError) => void = () => {};
    const lost = new Promise<DeviceLostError>((resolve) => {
      lose = resolve;
    });
    const { get } = serve({ ...fakeEngine(), lost });
    const health = async () => {
      const response = await get('/health');
      return [response.status, await response.json()];
    };
    expect(await health()).toEqual([200, { status: 'ok' }]);
    lose(new DeviceLostError('unknown'));
    await lost;
    expect(await health()).toEqual([503, { status: 'device lost' }]);
  });

  test('a name that cannot be decoded is one that does not exist', async () => {
    const onError = vi.fn();
    const { get } = serve(fakeEngine(), { onError });
    const response = await get('/v1/models/%');
    expect([response.status, (await response.json()).error]).toMatchObject([404, { param: 'model', code: 'model_not_found' }]);
    expect(onError).not.toHaveBeenCalled();
    expect((await serve(fakeEngine(), { modelName: 'a/b %' }).get('/v1/models/a%2Fb%20%25')).status).toBe(200);
  });

  test.each(['/health', '/metrics', '/v1/models', '/v1/models/default', '/v1/models/gpt', '/v1/completions'])(
    'HEAD %s is answered as GET, without the body',
    async (path) => {
      const { get } = serve();
      const [head, whole] = [await get(path, { method: 'HEAD' }), await get(path)];
      expect([head.status, [...head.headers], head.body]).toEqual([whole.status, [...whole.headers], null]);
      expect(head.status).toBe({ '/v1/models/gpt': 404, '/v1/completions': 405 }[path] ?? 200);
      expect(await whole.text()).not.toBe('');
    },
  );

  test('a path in front', async () => {
    const { get } = serve(fakeEngine(), { basePath: '/api' });
    expect([(await get('/api/health')).status, (await get('/health')).status, (await get('/apix/health')).status]).toEqual([200, 404, 404]);
  });

  test('pages of other origins may ask where they are allowed', async () => {
    const asking = (origin: string, method = 'GET') => ({ method, headers: { origin } });
    const { get } = serve(fakeEngine(), { cors: ['https://a.example'] });
    const allowed = await get('/health', asking('https://a.example'));
    expect(allowed.headers.get('access-control-allow-origin')).toBe('https://a.example');
    const preflight = await get('/v1/completions', asking('https://a.example', 'OPTIONS'));
    expect([preflight.status, preflight.headers.get('access-control-allow-methods')]).toEqual([204, 'GET, POST']);
    const other = await get('/v1/completions', asking('https://b.example', 'OPTIONS'));
    expect([other.status, other.headers.get('access-control-allow-origin')]).toEqual([405, null]);
    const all = await serve(fakeEngine(), { cors: '*' }).get('/nowhere', asking('https://b.example'));
    expect([all.status, all.headers.get('access-control-allow-origin')]).toEqual([404, '*']);
  });
});
