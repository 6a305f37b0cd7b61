import { createChatCompletion } from './chat.ts';
import { createCompletion } from './completions.ts';
import { ApiError, errorResponse, toApiError, tooBusy } from './errors.ts';
import { createMetrics, metricsContentType } from './metrics.ts';
import { modelChecker, type ServerContext } from './server.ts';
import type { Handler, HandlerOptions, ServingEngine } from './types.ts';

type Route = (request: Request) => Response | Promise<Response>;

const defaultMaxBodyBytes = 4 * 2 ** 20;

/**
 * An OpenAI-compatible server as one function of the Fetch API, for `Deno.serve`, a service worker, or anything else that has requests:
 * `POST /v1/completions`, `POST /v1/chat/completions`, `GET /v1/models`, `GET /health` and `GET /metrics`.
 *
 * A request ends, and its blocks are free, when `request.signal` aborts or the body of the answer is cancelled. The engine stays the caller's.
 */
export function createHandler(engine: ServingEngine, options: HandlerOptions): Handler {
  const { modelName, chatTemplate, constraints, cors = [], maxBodyBytes = defaultMaxBodyBytes, basePath = '', closing, onError } = options;
  const metrics = createMetrics(engine, modelName);
  const context: ServerContext = {
    ...{ engine, metrics, modelName, chatTemplate, constraints },
    checkModel: modelChecker(modelName),
    onError: (error) => {
      if (toApiError(error, 'prompt').status >= 500) onError?.(error);
    },
  };
  let isLost = false;
  void engine.lost?.then(() => {
    isLost = true;
  });
  const health = () => (isLost ? 'device lost' : closing?.aborted ? 'stopping' : 'ok');
  const model = {
    ...{ id: modelName, object: 'model', created: Math.floor(Date.now() / 1000), owned_by: 'pagewise' },
    max_model_len: engine.maxSequenceLength,
  };
  const generating =
    (create: typeof createCompletion): Route =>
    async (request) => {
      if (closing?.aborted) throw tooBusy('The server is stopping. Ask another one.', 'stopping');
      return create(context, await readJsonBody(request, maxBodyBytes), request.signal);
    };
  const routes: Readonly<Record<string, Readonly<Record<string, Route>>>> = {
    '/v1/completions': { POST: generating(createCompletion) },
    '/v1/chat/completions': { POST: generating(createChatCompletion) },
    '/v1/models': { GET: () => Response.json({ object: 'list', data: [model] }) },
    '/v1/models/:model': {
      GET: (request) => {
        context.checkModel(decoded(new URL(request.url).pathname.split('/').at(-1) ?? ''));
        return Response.json(model);
      },
    },
    '/health': {
      GET: () => Response.json({ status: health() }, { status: health() === 'ok' ? 200 : 503 }),
    },
    '/metrics': { GET: () => new Response(metrics.text(), { headers: { 'content-type': metricsContentType } }) },
  };

  async function answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const inside = pathname.startsWith(basePath) ? pathname.slice(basePath.length) : '';
    const path = /^\/v1\/models\/[^/]+$/.test(inside) ? '/v1/models/:model' : inside;
    const methods = Object.hasOwn(routes, path) ? routes[path] : undefined;
    if (!methods) throw new ApiError(404, { message: `There is nothing at ${request.method} ${pathname}.`, code: 'unknown_url' });
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    const route = Object.hasOwn(methods, method) ? methods[method] : undefined;
    if (route) return route(request);
    const allow = Object.keys(methods).join(', ').replace('GET', 'GET, HEAD');
    throw new ApiError(405, {
      message: `${pathname} takes ${allow}, not ${request.method}.`,
      code: 'method_not_allowed',
      headers: { allow },
    });
  }

  return async (request) => {
    const allowed = allowedOrigin(request, cors);
    if (allowed && request.method === 'OPTIONS') return new Response(null, { status: 204, headers: { ...allowed, ...preflight } });
    const whole = await answer(request).catch((error: unknown) => {
      context.onError(error);
      return errorResponse(toApiError(error, request.url.includes('/chat/') ? 'messages' : 'prompt'));
    });
    const response = request.method === 'HEAD' ? new Response(null, whole) : whole;
    for (const [name, value] of Object.entries(allowed ?? {})) response.headers.set(name, value);
    return response;
  };
}

/** A part of a path as text; as it is where it is no text's encoding. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const preflight = {
  'access-control-allow-methods': 'GET, POST',
  // OpenAI's clients send headers of their own, x-stainless-..., and an authorization that nobody checks.
  'access-control-allow-headers': '*, authorization',
  'access-control-max-age': '86400',
};

/** Headers that let the asking page read the answer; undefined where it may not. */
function allowedOrigin(request: Request, cors: NonNullable<HandlerOptions['cors']>): Record<string, string> | undefined {
  const origin = request.headers.get('origin');
  if (origin === null) return undefined;
  if (cors === '*') return { 'access-control-allow-origin': '*' };
  return cors.includes(origin) ? { 'access-control-allow-origin': origin, vary: 'origin' } : undefined;
}

/**
 * The parsed body. Only `application/json`: a page of somebody else's may send other types without asking, and make a local server work.
 *
 * @throws {ApiError} 415, 413 or 400.
 */
async function readJsonBody(request: Request, maxBytes: number): Promise<unknown> {
  const type = request.headers.get('content-type')?.split(';')[0].trim().toLowerCase();
  if (type !== 'application/json')
    throw new ApiError(415, { message: 'The body must be of content-type application/json.', code: 'unsupported_media_type' });
  const tooLarge = new ApiError(413, { message: `The body has more than ${maxBytes} bytes.`, code: 'body_too_large' });
  if (Number(request.headers.get('content-length') ?? 0) > maxBytes) throw tooLarge;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let size = 0;
  let text = '';
  try {
    const reader = request.body?.getReader();
    for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read()) {
      size += piece.value.byteLength;
      if (size > maxBytes) {
        await reader?.cancel();
        throw tooLarge;
      }
      text += decoder.decode(piece.value, { stream: true });
    }
    return JSON.parse(text + decoder.decode());
  } catch (error) {
    if (error instanceof ApiError) throw error;
    const problem = error instanceof Error ? error.message : String(error);
    throw new ApiError(400, { message: `The body is not JSON: ${problem}.`, code: 'invalid_json' });
  }
}
