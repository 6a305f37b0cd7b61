/** What the tests of the handler have in common: a handler over a fake engine, and how to ask it. */
import { createChatTemplate, createHandler, type HandlerOptions } from 'pagewise/serve';
import { expect } from 'vitest';
import { type FakeEngine, fakeEngine } from './fake-engine.ts';

export type Json = Record<string, unknown>;

const template = createChatTemplate(
  '{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}',
);

export function serve(engine: FakeEngine = fakeEngine(), options: Partial<HandlerOptions> = {}) {
  const handler = createHandler(engine, { modelName: 'tales', chatTemplate: template, ...options });
  const post = (path: string, body: unknown, init: RequestInit = {}) =>
    handler(
      new Request(`http://host${path}`, {
        ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
        body: typeof body === 'string' ? body : JSON.stringify(body),
        ...init,
      }),
    );
  return { engine, handler, post, get: (path: string, init?: RequestInit) => handler(new Request(`http://host${path}`, init)) };
}

/** The events of a stream, each in its own piece; the last is `[DONE]`. */
export async function eventsOf(response: Response): Promise<Json[]> {
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  const text = await response.text();
  const events = text.split('\n\n');
  expect(events.splice(-2)).toEqual(['data: [DONE]', '']);
  return events.map((event) => JSON.parse(event.replace(/^data: /, '')));
}

export const choicesOf = (events: readonly Json[]) => events.flatMap(({ choices }) => choices as Json[]);
