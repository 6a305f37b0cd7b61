/** Runs the terminal program as a person would, but for the search for a driver, which happens once. */
import { spawn } from 'node:child_process';
import { denoEnvironment, denoPath, generateArguments } from '../../scripts/hosts/deno.mjs';
import { findDriver } from '../../scripts/hosts/drivers.mjs';

/** What a run said. */
export interface Outcome {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

export interface RunOptions {
  /** Called with what standard output has so far. */
  readonly onOutput?: (output: string, interrupt: () => void) => void;
  readonly environment?: Readonly<Record<string, string>>;
}

/** Finds a driver; the function that it gives runs the program. */
export async function openTerminal(): Promise<(programArguments: readonly string[], options?: RunOptions) => Promise<Outcome>> {
  const [deno, driver] = await Promise.all([denoPath(), findDriver()]);
  const env = { ...process.env, ...denoEnvironment, ...driver.env, PAGEWISE_BACKEND: driver.backend };
  return (programArguments, { onOutput, environment = {} } = {}) =>
    new Promise((resolve, reject) => {
      const child = spawn(deno, generateArguments(programArguments), { env: { ...env, NO_COLOR: '1', ...environment } });
      let output = '';
      let errors = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        output += text;
        onOutput?.(output, () => child.kill('SIGINT'));
      });
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        errors += text;
      });
      child.once('error', reject);
      child.once('close', (code) => resolve({ code, output, errors }));
    });
}
