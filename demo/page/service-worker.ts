/** A service worker that answers OpenAI's API with a model of its own. Where it has no WebGPU it answers nothing, and the page does. */

import type { Answer, Progress, Question } from './server/messages.ts';
import { isApi, type OpenHandler, openHandler } from './server/open-handler.ts';

/** What is used of a service worker's scope, whose types the compiler does not know beside a page's. */
interface WorkerScope {
  readonly location: Location;
  readonly registration: { readonly scope: string };
  readonly clients: { claim(): Promise<void>; matchAll(): Promise<readonly { postMessage(message: Progress): void }[]> };
  skipWaiting(): Promise<void>;
  addEventListener(type: 'install' | 'activate', listen: (event: { waitUntil(work: Promise<void>): void }) => void): void;
  addEventListener(type: 'message', listen: (event: MessageEvent<Question>) => void): void;
  addEventListener(
    type: 'fetch',
    listen: (event: { readonly request: Request; respondWith(response: Promise<Response>): void }) => void,
  ): void;
}

const worker = self as unknown as WorkerScope;
const root = new URL(worker.registration.scope);

/** Loaded by the first request, and again after a failure or a loss. */
let opened: Promise<OpenHandler> | undefined;

worker.addEventListener('install', (event) => event.waitUntil(worker.skipWaiting()));
worker.addEventListener('activate', (event) => event.waitUntil(worker.clients.claim()));
worker.addEventListener('message', ({ ports: [port] }) => port?.postMessage({ webgpu: hasWebGpu() } satisfies Answer));
worker.addEventListener('fetch', (event) => {
  if (hasWebGpu() && isApi(event.request.url, root)) event.respondWith(answer(event.request));
});

function hasWebGpu(): boolean {
  return navigator.gpu !== undefined;
}

async function answer(request: Request): Promise<Response> {
  try {
    opened ??= open();
    const { handler } = await opened;
    return await handler(request);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return Response.json({ error: { message, type: 'server_error', param: null, code: 'not_loaded' } }, { status: 500 });
  }
}

async function open(): Promise<OpenHandler> {
  const forget = () => {
    opened = undefined;
  };
  try {
    const server = await openHandler(root, (progress) => {
      void worker.clients.matchAll().then((pages) => pages.forEach((page) => void page.postMessage({ progress })));
    });
    void server.gpu.lost.then(forget);
    return server;
  } catch (error) {
    forget();
    throw error;
  }
}
