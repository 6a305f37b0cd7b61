/** Server-sent events, as OpenAI's API streams them. */
import { errorBody, toApiError } from './errors.ts';

const headers = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  // Proxies such as nginx would else collect pieces before they pass them on.
  'x-accel-buffering': 'no',
};

/**
 * Streams objects, one event each, and `[DONE]` at the end. The next object is made only when the client has room for it; a client that
 * goes away ends the generator at once, or when what it waits for comes: `abort` makes that soon.
 *
 * @param onError hears of an error of the generator's; the client gets it as the last event.
 */
export function eventResponse(events: AsyncGenerator<object, void>, abort: () => void, onError: (error: unknown) => void): Response {
  const encoder = new TextEncoder();
  const encode = (data: string) => encoder.encode(`data: ${data}\n\n`);
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await events.next();
          if (!done) return controller.enqueue(encode(JSON.stringify(value)));
        } catch (error) {
          onError(error);
          controller.enqueue(encode(JSON.stringify(errorBody(toApiError(error, 'prompt')))));
        }
        controller.enqueue(encode('[DONE]'));
        controller.close();
      },
      cancel() {
        abort();
        events.return().catch(() => {});
      },
    },
    { highWaterMark: 0 },
  );
  return new Response(body, { headers });
}
