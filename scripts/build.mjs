/** `npm run build`: the library and its types into dist/, and the demonstration page into dist/demo/. */
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'vite';
import { root } from './hosts/folders.mjs';
import { watchProcess } from './hosts/processes.mjs';

const configFile = join(root, 'vite.config.ts');
await rm(join(root, 'dist'), { recursive: true, force: true });
await build({ configFile, mode: 'library', logLevel: 'warn' });

const types = watchProcess(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], {
  cwd: root,
  onLine: console.log,
});
if ((await types.done) !== 0) throw new Error('The types do not compile.');

// The built files must load where there is no WebGPU, for servers that render pages.
for (const name of ['index', 'engine', 'reflect', 'constrained', 'worker', 'serve'])
  await import(pathToFileURL(join(root, `dist/${name}.js`)).href);

await build({ configFile, mode: 'demo', logLevel: 'warn' });
await cp(join(root, 'demo/model'), join(root, 'dist/demo/model'), { recursive: true });
console.log('Built dist/: the library, and the page in dist/demo, ready for any static server.');
