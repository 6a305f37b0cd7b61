/** The handler under `Deno.serve`, which `npm run serve` does not use. */
import { type ChildProcess, spawn } from 'node:child_process';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { denoEnvironment, denoPath } from '../../scripts/hosts/deno.mjs';
import { metricOf } from './server.ts';

let child: ChildProcess;
let url: string;

beforeAll(async () => {
  const args = [
    'run',
    '-A',
    '--no-prompt',
    '--quiet',
    '--unstable-no-legacy-abort',
    '--config',
    'deno.json',
    'test/terminal/deno-serve-program.ts',
  ];
  const started = spawn(await denoPath(), args, { env: { ...process.env, ...denoEnvironment }, stdio: ['ignore', 'pipe', 'inherit'] });
  child = started;
  url = await new Promise((resolve, reject) => {
    started.once('close', (code) => reject(new Error(`exit code ${code}`)));
    started.stdout.setEncoding('utf8').on('data', (text: string) => resolve(`http://127.0.0.1:${/port (\d+)/.exec(text)?.[1]}`));
  });
}, 60_000);

afterAll(() => void child.kill('SIGKILL'));

function ask(body: object): Promise<Response> {
  return fetch(`${url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
}

test('answers whole and in pieces, and refuses', async () => {
  expect((await (await ask({ prompt: 'x', max_tokens: 3 })).json()).choices[0]).toMatchObject({ text: 'abc', finish_reason: 'length' });
  const streamed = await (await ask({ prompt: 'x', max_tokens: 3, stream: true })).text();
  expect([...streamed.matchAll(/"text":"(\w)"/g)].map(([, letter]) => letter)).toEqual(['a', 'b', 'c']);
  expect(streamed.endsWith('data: [DONE]\n\n')).toBe(true);
  expect((await ask({ prompt: 'x', top_p: 2 })).status).toBe(400);
});

test('ends the stream of a client that goes away', async () => {
  const reader = (await ask({ prompt: 'x'.repeat(900), max_tokens: 100_000, stream: true })).body?.getReader();
  await reader?.read();
  expect(await metricOf(url, 'num_requests_running')).toBe(1);
  await reader?.cancel();
  await vi.waitFor(async () => expect(await metricOf(url, 'num_requests_running')).toBe(0), { timeout: 5_000 });
});
