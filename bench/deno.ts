/** The benches in Deno: `deno run -A bench/deno.ts launch --json out.json`. */
import { readFile } from 'node:fs/promises';
import { env, exit, versions } from 'node:process';
import { runTerminal } from './terminal.ts';

const root = new URL('../', import.meta.url);

exit(
  await runTerminal({
    name: 'deno',
    runtime: `Deno ${versions.deno}`,
    api: navigator.gpu,
    notes: env.PAGEWISE_DRIVER_DESCRIPTION ? [`Driver: ${env.PAGEWISE_DRIVER_DESCRIPTION}.`] : [],
    readFile: async (path) => new Uint8Array(await readFile(new URL(path, root))),
  }),
);
