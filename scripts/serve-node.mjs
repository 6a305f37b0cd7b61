/** `npm run serve:node -- --port 8000`: as serve.mjs, but in Node, on Dawn from the npm package `webgpu`. */
import { buildForNode, dawnFindsAdapter } from './hosts/dawn.mjs';
import { findDriver } from './hosts/drivers.mjs';
import { runInForeground } from './hosts/processes.mjs';

try {
  const driver = await findDriver({ works: dawnFindsAdapter });
  const program = await buildForNode('serve-node', 'serve-node.js');
  process.exitCode = await runInForeground(process.execPath, ['--enable-source-maps', program, ...process.argv.slice(2)], {
    ...driver.env,
    PAGEWISE_BACKEND: driver.backend,
    PAGEWISE_DRIVER_DESCRIPTION: driver.description,
  });
} catch (error) {
  console.error(`pagewise: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
