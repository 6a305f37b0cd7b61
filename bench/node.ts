/** The benches in Node on Dawn from npm. Bundled, in the repository's root: `node node_modules/.cache/pagewise/bench-node/node.js launch`. */
import { readFile } from 'node:fs/promises';
import { cwd, env, exit, versions } from 'node:process';
import { pathToFileURL } from 'node:url';
import { create, globals } from 'webgpu';
import { runTerminal } from './terminal.ts';

Object.assign(globalThis, globals);

const toggles = env.PAGEWISE_DAWN_TOGGLES ?? 'allow_unsafe_apis,vulkan_enable_f16_on_nvidia';

/** Kept in a variable for as long as the process: Dawn's instance goes when this is collected. */
// Timestamps are rounded to 0.1 ms otherwise.
const api = create([`enable-dawn-features=${toggles}`, 'disable-dawn-features=timestamp_quantization']);
const root = pathToFileURL(`${cwd()}/`);

exit(
  await runTerminal({
    name: 'node',
    runtime: `Node ${versions.node} with Dawn`,
    api,
    notes: [`Dawn's toggles: ${toggles}.`, ...(env.PAGEWISE_DRIVER_DESCRIPTION ? [`Driver: ${env.PAGEWISE_DRIVER_DESCRIPTION}.`] : [])],
    readFile: async (path) => new Uint8Array(await readFile(new URL(path, root))),
  }),
);
