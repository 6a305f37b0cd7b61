import { join } from 'node:path';
import { cache, root } from './folders.mjs';
import { watchProcess } from './processes.mjs';

/**
 * Bundles a program for Node, which reads neither TypeScript nor WGSL before version 24.
 *
 * @param {'specs-node' | 'generate-node' | 'serve-node' | 'tune-node' | 'eval-node' | 'bench-node'} mode a mode of vite.config.ts
 * @param {string} file the entry's name in the bundle
 * @returns {Promise<string>} the program's path
 */
export async function buildForNode(mode, file) {
  const { build } = await import('vite');
  await build({ root, configFile: join(root, 'vite.config.ts'), mode, logLevel: 'warn' });
  return join(cache, mode, file);
}

/** Whether Dawn, in this environment, finds an adapter. @param {Record<string, string>} env */
export async function dawnFindsAdapter(env) {
  const code =
    "const { create } = await import('webgpu'); const api = create([]); console.log((await api.requestAdapter()) ? 'found' : 'none'); process.exit()";
  let found = false;
  const probe = watchProcess(process.execPath, ['--input-type=module', '--eval', code], {
    cwd: root,
    env,
    onLine: (line) => {
      found ||= line === 'found';
    },
  });
  const timer = setTimeout(probe.kill, 30_000);
  await probe.done;
  clearTimeout(timer);
  return found;
}
