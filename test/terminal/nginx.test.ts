/** deploy/nginx.conf before two servers. Needs nginx, and is skipped, and counted, where that is not installed. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { metricOf, type RunningServer, startServer } from './server.ts';

const limit = 120_000;
const missing = 'nginx is not installed (Debian: apt-get install nginx-light)';

const program = findNginx();
let folder: string | undefined;
let nginx: ChildProcess | undefined;
let servers: readonly RunningServer[] = [];
let url: string;

function findNginx(): string | undefined {
  for (const name of ['nginx', '/usr/sbin/nginx', '/usr/local/sbin/nginx', '/opt/homebrew/bin/nginx']) {
    try {
      execFileSync(name, ['-v'], { stdio: 'ignore' });
      return name;
    } catch {
      // Not there: the next place.
    }
  }
  return undefined;
}

beforeAll(async () => {
  if (!program) return;
  // One runs, one waits, and the third finds the server busy.
  const small = ['--max-sequences', '1', '--max-waiting', '1'];
  servers = await Promise.all([startServer(...small), startServer(...small)]);
  folder = await mkdtemp(join(tmpdir(), 'pagewise-nginx-'));
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  const [first, second] = servers.map((server) => new URL(server.url).host);
  const site = (await readFile('deploy/nginx.conf', 'utf8'))
    .replace('127.0.0.1:8001', first)
    .replace('127.0.0.1:8002', second)
    .replace('listen 8000;', `listen 127.0.0.1:${port};`);
  await writeFile(join(folder, 'pagewise.conf'), site);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ');
  const main = `daemon off; pid ${folder}/pid; events {} http { access_log off; ${temporary} include ${folder}/pagewise.conf; }`;
  await writeFile(join(folder, 'nginx.conf'), main);
  const log = join(folder, 'error.log');
  nginx = spawn(program, ['-p', folder, '-e', log, '-c', join(folder, 'nginx.conf')], { stdio: 'ignore' });
  const healthy = async () => expect((await fetch(`${url}/health`)).status).toBe(200);
  await vi.waitFor(healthy, { timeout: 10_000, interval: 50 }).catch(async (error) => {
    throw new Error(`nginx does not answer: ${await readFile(log, 'utf8')}`, { cause: error });
  });
}, limit);

afterAll(async () => {
  nginx?.kill('SIGTERM');
  for (const server of servers) server.process.kill('SIGKILL');
  await Promise.all(servers.map((server) => server.ended));
  if (folder) await rm(folder, { recursive: true, force: true });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as import('node:net').AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function ask(key: string | undefined, body: object, signal?: AbortSignal, address = url): Promise<Response> {
  return fetch(`${address}/v1/completions`, {
    ...{ method: 'POST', signal, body: JSON.stringify({ prompt: 'Once upon a time', temperature: 0, ignore_eos: true, ...body }) },
    headers: { 'content-type': 'application/json', ...(key === undefined ? {} : { 'x-prefix-key': key }) },
  });
}

/** Answers that each server has given in full. */
function counts(): Promise<number[]> {
  return Promise.all(servers.map((server) => metricOf(server.url, 'request_success_total', 'finished_reason="length"')));
}

/** How many of the requests that `work` makes each server answers. */
async function shares(work: () => Promise<unknown>): Promise<number[]> {
  const before = await counts();
  await work();
  return (await counts()).map((count, i) => count - before[i]);
}

/** Keeps a server busy, past nginx. @returns what frees it again */
async function occupy(server: RunningServer): Promise<() => Promise<void>> {
  const leaving = new AbortController();
  const stats = () => Promise.all(['running', 'waiting'].map((state) => metricOf(server.url, `num_requests_${state}`)));
  const becomes = (expected: readonly number[]) =>
    vi.waitFor(async () => expect(await stats()).toEqual(expected), { timeout: 10_000, interval: 20 });
  const read = async () => {
    const response = await ask(undefined, { max_tokens: 900, stream: true }, leaving.signal, server.url);
    for await (const _ of response.body ?? []);
  };
  const one = read();
  await becomes([1, 0]);
  const both = Promise.allSettled([one, read()]);
  await becomes([1, 1]);
  return async () => {
    leaving.abort();
    await both;
    await becomes([0, 0]);
  };
}

/** What refuses, as clients read it. */
async function refusalOf(response: Response) {
  const { error } = await response.json();
  return { status: response.status, retryAfter: response.headers.get('retry-after'), type: error.type, code: error.code };
}

/** Reads a stream to its end, or to where it breaks. */
async function readAll(response: Response, onPiece: (text: string) => void): Promise<'done' | 'broken'> {
  let text = '';
  try {
    for await (const piece of response.body ?? []) {
      text += new TextDecoder().decode(piece);
      onPiece(text);
    }
  } catch {
    return 'broken';
  }
  return text.endsWith('data: [DONE]\n\n') ? 'done' : 'broken';
}

describe('nginx', { timeout: limit }, () => {
  /** A key for each server. */
  const keys: string[] = [];

  test('sends requests of one key to one server, and keys to both', async ({ skip }) => {
    skip(!program, missing);
    const same = await shares(async () => {
      for (let i = 0; i < 4; i++) expect((await ask('a conversation', { max_tokens: 1 })).status).toBe(200);
    });
    expect(same.toSorted()).toEqual([0, 4]);
    for (let i = 0; i < 40 && !(keys[0] && keys[1]); i++) {
      const share = await shares(() => ask(`key ${i}`, { max_tokens: 1 }));
      expect(share.toSorted()).toEqual([0, 1]);
      keys[share.indexOf(1)] = `key ${i}`;
    }
    expect(keys.filter(Boolean)).toHaveLength(2);
  });

  test('tells who names no key apart by address', async ({ skip }) => {
    skip(!program, missing);
    const share = await shares(async () => {
      for (let i = 0; i < 4; i++) expect((await ask(undefined, { max_tokens: 1 })).status).toBe(200);
    });
    expect(share.toSorted()).toEqual([0, 4]);
  });

  test('passes tokens on as they come, and keeps figures to the servers', async ({ skip }) => {
    skip(!program, missing);
    const times: number[] = [];
    const response = await ask(keys[0], { max_tokens: 64, stream: true });
    expect([response.headers.get('content-type'), response.headers.get('content-encoding')]).toEqual([
      'text/event-stream; charset=utf-8',
      null,
    ]);
    expect(await readAll(response, () => times.push(performance.now()))).toBe('done');
    expect(times.length).toBeGreaterThan(8);
    expect(times.at(-1)! - times[0]).toBeGreaterThan(30);
    expect((await fetch(`${url}/metrics`)).status).toBe(404);
  });

  test('lets a client that goes away end its generation', async ({ skip }) => {
    skip(!program, missing);
    const leaving = new AbortController();
    const response = await ask(keys[1], { max_tokens: 900, stream: true }, leaving.signal);
    await response.body?.getReader().read();
    expect(await metricOf(servers[1].url, 'num_requests_running')).toBe(1);
    leaving.abort();
    const idle = async () => expect(await metricOf(servers[1].url, 'kv_cache_usage_perc')).toBe(0);
    await vi.waitFor(idle, { timeout: 10_000, interval: 20 });
  });

  test('says that all are busy as a server does, and serves the next request once one is free', async ({ skip }) => {
    skip(!program, missing);
    const free = [await occupy(servers[0]), await occupy(servers[1])];
    for (const key of [keys[0], keys[1], keys[0]]) {
      const refused = await refusalOf(await ask(key, { max_tokens: 1 }));
      expect(refused).toEqual({ status: 503, retryAfter: '1', type: 'server_error', code: 'engine_busy' });
    }
    await free[1]();
    // Both keys go to the one that is free, and back to their own when both are.
    const served = (key: string) => shares(async () => expect((await ask(key, { max_tokens: 1 })).status).toBe(200));
    expect([await served(keys[0]), await served(keys[1])]).toEqual([
      [0, 1],
      [0, 1],
    ]);
    await free[0]();
    expect([await served(keys[0]), await served(keys[1])]).toEqual([
      [1, 0],
      [0, 1],
    ]);
  });

  test('loses only the streams of a server that is killed, and goes on without it', async ({ skip }) => {
    skip(!program, missing);
    const read = (key: string, onPiece: (text: string) => void) =>
      ask(key, { max_tokens: 120, stream: true }).then((response) => readAll(response, onPiece));
    let pieces = 0;
    let lost = '';
    const running = [
      read(keys[0], (text) => {
        lost = text;
        if (++pieces === 3) servers[0].process.kill('SIGKILL');
      }),
      read(keys[1], () => {}),
    ];
    expect(await Promise.all(running)).toEqual(['broken', 'done']);
    await servers[0].ended;
    expect(servers[0].process.signalCode).toBe('SIGKILL');
    expect(lost.match(/"text":"[^"]/g)?.length).toBeGreaterThanOrEqual(3);
    for (let i = 0; i < 3; i++) {
      const response = await ask(keys[0], { max_tokens: 2 });
      expect([response.status, (await response.json()).usage?.completion_tokens]).toEqual([200, 2]);
    }
    expect((await fetch(`${url}/health`)).status).toBe(200);
  });

  test('says that nobody can answer, too, where the one that is left is busy, or none is left', async ({ skip }) => {
    skip(!program, missing);
    const free = await occupy(servers[1]);
    const refuse = (code: string) => ({ status: 503, retryAfter: '1', type: 'server_error', code });
    // The one that was tried last says why: its own server is the first that a key tries.
    expect(await refusalOf(await ask(keys[0], { max_tokens: 1 }))).toEqual(refuse('engine_busy'));
    expect(await refusalOf(await ask(keys[1], { max_tokens: 1 }))).toEqual(refuse('unavailable'));
    await free();
    expect((await ask(keys[0], { max_tokens: 1 })).status).toBe(200);
    servers[1].process.kill('SIGKILL');
    await servers[1].ended;
    expect(await refusalOf(await ask(keys[1], { max_tokens: 1 }))).toEqual(refuse('unavailable'));
  });
});
