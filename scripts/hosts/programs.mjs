/** Programs that run in Deno as they are, or in Node as a bundle, as `--host` says. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildForNode, dawnFindsAdapter } from './dawn.mjs';
import { denoEnvironment, denoPath } from './deno.mjs';
import { findDriver } from './drivers.mjs';
import { root } from './folders.mjs';
import { runInForeground } from './processes.mjs';

/**
 * @typedef {object} Program
 * @property {string} deno the file, from the repository's root
 * @property {'tune-node' | 'eval-node'} node the mode of vite.config.ts, and the name of the bundle
 * @property {boolean} [writes] it may write files
 */

/** @param {import('./drivers.mjs').Driver} driver */
const environmentOf = ({ env, backend, description }) => ({ ...env, PAGEWISE_BACKEND: backend, PAGEWISE_DRIVER_DESCRIPTION: description });

/** @type {Record<string, (program: Program, args: readonly string[], only: string | undefined) => Promise<number>>} each gives the exit code */
const hosts = {
  async deno({ deno: file, writes }, args, only) {
    const [deno, driver] = await Promise.all([denoPath(), findDriver({ only })]);
    const permissions = ['--allow-read', '--allow-net', '--allow-env', '--allow-sys', ...(writes ? ['--allow-write'] : [])];
    const program = ['run', '--no-prompt', '--quiet', ...permissions, '--config', join(root, 'deno.json'), join(root, file)];
    return runInForeground(deno, [...program, ...args], { ...denoEnvironment, ...environmentOf(driver) });
  },

  async node({ node: mode }, args, only) {
    const driver = await findDriver({ only, works: dawnFindsAdapter });
    const program = await buildForNode(mode, `${mode}.js`);
    return runInForeground(process.execPath, ['--enable-source-maps', program, ...args], environmentOf(driver));
  },
};

/** Finds a GPU driver and runs a program with this process's arguments, all of them passed on; sets the exit code. @param {Program} program */
export async function runProgram(program) {
  try {
    const args = process.argv.slice(2);
    const options = /** @type {const} */ ({ host: { type: 'string', default: 'deno' }, driver: { type: 'string' } });
    const { values } = parseArgs({ args, options, strict: false });
    const run = Object.hasOwn(hosts, String(values.host)) ? hosts[String(values.host)] : undefined;
    if (!run) throw new Error(`There is no host "${values.host}". There are: ${Object.keys(hosts).join(', ')}.`);
    process.exitCode = await run(program, args, typeof values.driver === 'string' ? values.driver : undefined);
  } catch (error) {
    console.error(`pagewise: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
