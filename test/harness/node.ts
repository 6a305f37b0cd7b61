/** The Node host, on Dawn from the npm package `webgpu`. It runs bundled; arguments and output are those of the Deno host. */
import { readFile } from 'node:fs/promises';
import { argv, cwd, exit, stdout, versions } from 'node:process';
import { pathToFileURL } from 'node:url';
import { create, globals } from 'webgpu';
import { specFiles } from '../gpu/all.ts';
import { runSpecs } from './runner.ts';

Object.assign(globalThis, globals);

/**
 * Kept in a variable for as long as the process: Dawn's instance goes when this is collected. The second toggle offers f16 on NVIDIA
 * under Linux, where Dawn holds it back.
 */
const api = create(['enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia']);
const root = pathToFileURL(`${cwd()}/`);

await runSpecs(
  {
    name: 'node',
    runtime: `Node ${versions.node} with Dawn`,
    api,
    readFile: async (path) => new Uint8Array(await readFile(new URL(path, root))),
    emit: (event) => void stdout.write(`${JSON.stringify(event)}\n`),
  },
  specFiles,
  JSON.parse(argv[2] ?? '{}'),
);
stdout.write('', () => exit(0));
