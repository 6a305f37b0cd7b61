/** The Deno host: `deno run -A test/harness/deno.ts '{"filter": "..."}'` prints one event per line on standard output. */
import { readFile } from 'node:fs/promises';
import { argv, stdout, versions } from 'node:process';
import { specFiles } from '../gpu/all.ts';
import { runSpecs } from './runner.ts';

const root = new URL('../../', import.meta.url);

await runSpecs(
  {
    name: 'deno',
    runtime: `Deno ${versions.deno}`,
    api: navigator.gpu,
    readFile: async (path) => new Uint8Array(await readFile(new URL(path, root))),
    emit: (event) => void stdout.write(`${JSON.stringify(event)}\n`),
  },
  specFiles,
  JSON.parse(argv[2] ?? '{}'),
);
