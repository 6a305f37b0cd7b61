/** The page: OpenAI's own client, whose requests a service worker answers, or where that cannot, the page itself. */
import OpenAI from 'openai';
import { element, setText } from '../elements.ts';
import { connectLoadingBar } from '../loading.ts';
import type { Answer, Progress, Question } from './messages.ts';
import { openHandler } from './open-handler.ts';

/** The service worker's file, beside this page: Vite's server has the source, a build the program. */
const workerFile = import.meta.url.endsWith('.ts') || import.meta.url.includes('.ts?') ? 'service-worker.ts' : 'service-worker.js';

const root = new URL('.', location.href);
const bar = connectLoadingBar();
const status = element('status', HTMLElement);
const story = element('story', HTMLElement);
const send = element('send', HTMLButtonElement);
const stop = element('stop', HTMLButtonElement);

start().catch(fail);

async function start(): Promise<void> {
  setState('loading');
  bar.show();
  const byWorker = await startWorker();
  setText(element('answered-by', HTMLElement), byWorker ? 'the service worker' : 'the page itself: its service worker has no WebGPU');
  const server = byWorker ? undefined : await openHandler(root, bar.show);
  const openai = new OpenAI({
    baseURL: new URL('v1', root).href,
    ...{ apiKey: 'none', dangerouslyAllowBrowser: true, maxRetries: 0 },
    fetch: server ? (address, init) => server.handler(new Request(address, init)) : undefined,
  });
  // The first request loads the model.
  const models = await openai.models.list();
  bar.hide();
  setText(status, `"${models.data[0].id}" is ready.`);
  setState('ready');
  element('composer', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    if (document.body.dataset.state === 'ready') write(openai).catch(fail);
  });
}

async function write(openai: OpenAI): Promise<void> {
  const prompt = element('prompt', HTMLTextAreaElement).value;
  const stopping = new AbortController();
  stop.onclick = () => stopping.abort();
  setState('writing');
  setText(story, prompt);
  let tokens = 0;
  try {
    const asked = { model: 'default', prompt, max_tokens: 200, temperature: 0, stream: true } as const;
    for await (const { choices } of await openai.completions.create(asked, { signal: stopping.signal })) {
      story.append(choices[0].text);
      tokens++;
    }
    setText(status, stopping.signal.aborted ? `Stopped after ${tokens} pieces.` : `${tokens} pieces.`);
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
    setText(status, `Stopped after ${tokens} pieces.`);
  }
  setState('ready');
}

/** Starts the service worker. @returns whether it will answer */
async function startWorker(): Promise<boolean> {
  if (!('serviceWorker' in navigator) || new URLSearchParams(location.search).get('worker') === 'off') return false;
  const { serviceWorker } = navigator;
  serviceWorker.addEventListener('message', ({ data }: MessageEvent<Progress>) => bar.show(data.progress));
  try {
    await serviceWorker.register(new URL(workerFile, root), { type: 'module' });
  } catch {
    return false; // no modules in service workers here, or none at all in a private window
  }
  const { active } = await serviceWorker.ready;
  if (!serviceWorker.controller) await new Promise((done) => serviceWorker.addEventListener('controllerchange', done, { once: true }));
  const { port1, port2 } = new MessageChannel();
  const answer = new Promise<Answer>((resolve) => {
    port1.onmessage = ({ data }) => resolve(data);
  });
  active?.postMessage({ ask: 'webgpu' } satisfies Question, [port2]);
  return (await answer).webgpu;
}

function setState(state: 'loading' | 'ready' | 'writing' | 'failed'): void {
  document.body.dataset.state = state;
  send.disabled = state !== 'ready';
  send.hidden = state === 'writing';
  stop.hidden = state !== 'writing';
  story.ariaBusy = String(state === 'writing');
}

function fail(error: unknown): void {
  const notice = element('notice', HTMLElement);
  bar.hide();
  setText(notice, error instanceof Error ? error.message : String(error));
  notice.hidden = false;
  setState('failed');
}
