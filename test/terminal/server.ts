/** Runs `npm run serve` as a person would, but for the search for a driver, which happens once. */
import { type ChildProcess, spawn } from 'node:child_process';
import { denoEnvironment, denoPath, serveArguments } from '../../scripts/hosts/deno.mjs';
import { findDriver } from '../../scripts/hosts/drivers.mjs';

/** A server that listens, or has ended. */
export interface RunningServer {
  readonly url: string;
  readonly process: ChildProcess;
  /** What it printed so far, on standard output and on standard error. */
  printed(): { readonly output: string; readonly errors: string };
  /** The exit code, once it has ended. */
  readonly ended: Promise<number | null>;
}

/** Starts a server on a free port. @returns when it listens; rejects with what it printed when it ends before */
export async function startServer(...programArguments: readonly string[]): Promise<RunningServer> {
  const [deno, driver] = await Promise.all([denoPath(), findDriver()]);
  const env = { ...process.env, ...denoEnvironment, ...driver.env, PAGEWISE_BACKEND: driver.backend, NO_COLOR: '1' };
  const child = spawn(deno, serveArguments(['--port', '0', ...programArguments]), { env });
  let output = '';
  let errors = '';
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  const url = await new Promise<string>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => reject(new Error(`exit code ${code}: ${output}${errors}`)));
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      const found = /^Serving .* at (http:\S+)\n/m.exec(output)?.[1];
      if (found) resolve(found);
    });
  });
  return { url, process: child, printed: () => ({ output, errors }), ended };
}

/** A sample of `/metrics`, whatever its labels beside those given. */
export async function metricOf(url: string, name: string, label = ''): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split('\n').find((one) => one.startsWith(`pagewise:${name}{`) && one.includes(label));
  return Number(line?.split(' ').at(-1));
}
