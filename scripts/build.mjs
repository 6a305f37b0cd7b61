/** `npm run build`: the library and its types into dist/, and the demonstration page into dist/demo/. */
import { access, rm } from 'node:fs/promises';
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
for (const name of ['index', 'engine']) await import(pathToFileURL(join(root, `dist/${name}.js`)).href);

const page = await access(join(root, 'demo/page/index.html')).then(
  () => true,
  () => false,
);
if (page) await build({ configFile, mode: 'demo', logLevel: 'warn' });
console.log('Built dist/.');
