/** `npm run tune`: finds a GPU driver and runs demo/terminal/tune.ts in Deno, or tune-node.ts in Node, with all arguments passed on. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildForNode, dawnFindsAdapter } from './hosts/dawn.mjs';
import { denoEnvironment, denoPath } from './hosts/deno.mjs';
import { findDriver } from './hosts/drivers.mjs';
import { root } from './hosts/folders.mjs';
import { runInForeground } from './hosts/processes.mjs';

/** @param {import('./hosts/drivers.mjs').Driver} driver */
const environmentOf = ({ env, backend, description }) => ({ ...env, PAGEWISE_BACKEND: backend, PAGEWISE_DRIVER_DESCRIPTION: description });

/** @type {Record<string, (args: readonly string[], only: string | undefined) => Promise<number>>} each gives the exit code */
const hosts = {
  async deno(args, only) {
    const [deno, driver] = await Promise.all([denoPath(), findDriver({ only })]);
    const permissions = ['--no-prompt', '--quiet', '--allow-read', '--allow-net', '--allow-env', '--allow-sys', '--allow-write'];
    const program = ['--config', join(root, 'deno.json'), join(root, 'demo/terminal/tune.ts')];
    return runInForeground(deno, ['run', ...permissions, ...program, ...args], { ...denoEnvironment, ...environmentOf(driver) });
  },

  async node(args, only) {
    const driver = await findDriver({ only, works: dawnFindsAdapter });
    const program = await buildForNode('tune-node', 'tune-node.js');
    return runInForeground(process.execPath, ['--enable-source-maps', program, ...args], environmentOf(driver));
  },
};

try {
  const args = process.argv.slice(2);
  const options = /** @type {const} */ ({ host: { type: 'string', default: 'deno' }, driver: { type: 'string' } });
  const { values } = parseArgs({ args, options, strict: false });
  const run = Object.hasOwn(hosts, String(values.host)) ? hosts[String(values.host)] : undefined;
  if (!run) throw new Error(`There is no host "${values.host}". There are: ${Object.keys(hosts).join(', ')}.`);
  process.exitCode = await run(args, typeof values.driver === 'string' ? values.driver : undefined);
} catch (error) {
  console.error(`pagewise: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
