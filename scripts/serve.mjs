/** `npm run serve -- --port 8000`: finds a GPU driver and runs demo/terminal/serve.ts in Deno, with all arguments passed on. */
import { denoEnvironment, denoPath, serveArguments } from './hosts/deno.mjs';
import { findDriver } from './hosts/drivers.mjs';
import { runInForeground } from './hosts/processes.mjs';

try {
  const [deno, driver] = await Promise.all([denoPath(), findDriver()]);
  process.exitCode = await runInForeground(deno, serveArguments(process.argv.slice(2)), {
    ...denoEnvironment,
    ...driver.env,
    PAGEWISE_BACKEND: driver.backend,
    PAGEWISE_DRIVER_DESCRIPTION: driver.description,
  });
} catch (error) {
  console.error(`pagewise: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
