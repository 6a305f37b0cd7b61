/** `npm run generate -- "Once upon a time"`: finds a GPU driver and runs demo/terminal/generate.ts in Deno, with all arguments passed on. */
import { join } from 'node:path';
import { denoEnvironment, denoPath } from './hosts/deno.mjs';
import { findDriver } from './hosts/drivers.mjs';
import { root } from './hosts/folders.mjs';
import { runInForeground } from './hosts/processes.mjs';

try {
  const [deno, driver] = await Promise.all([denoPath(), findDriver()]);
  const permissions = ['--allow-read', '--allow-net', '--allow-env', '--allow-sys'];
  const args = [
    'run',
    '--no-prompt',
    '--quiet',
    ...permissions,
    '--config',
    join(root, 'deno.json'),
    join(root, 'demo/terminal/generate.ts'),
  ];
  process.exitCode = await runInForeground(deno, [...args, ...process.argv.slice(2)], {
    ...denoEnvironment,
    ...driver.env,
    PAGEWISE_BACKEND: driver.backend,
    PAGEWISE_DRIVER_DESCRIPTION: driver.description,
  });
} catch (error) {
  console.error(`Error: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
