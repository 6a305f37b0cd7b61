/** `npm run trace:pictures`: traces a story with the launch cache on and off, and draws a step of each. See `--help`. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cache, root } from './hosts/folders.mjs';
import { runInForeground } from './hosts/processes.mjs';
import { drawStep, medianStep } from './trace-drawing.mjs';

const help = `Usage: npm run trace:pictures -- [options]

Draws the decode step of median recording time into docs/trace-on.svg and docs/trace-off.svg, both on one scale.

  --on FILE, --off FILE  traces to draw (default: made now, with npm run generate)
  --host deno|node       where to make them (default deno)
  --output FOLDER        default docs`;

const { values } = parseArgs({
  options: {
    on: { type: 'string' },
    off: { type: 'string' },
    host: { type: 'string', default: 'deno' },
    output: { type: 'string', default: 'docs' },
    help: { type: 'boolean', short: 'h' },
  },
});

if (values.help) console.log(help);
else await drawBoth();

async function drawBoth() {
  const states = /** @type {const} */ (['on', 'off']);
  const steps = [];
  for (const state of states) steps.push(medianStep(JSON.parse(await readFile(values[state] ?? (await makeTrace(state)), 'utf8'))));
  const microseconds = 1.05 * Math.max(...steps.map(({ hostEnd }) => hostEnd));
  for (const [i, state] of states.entries()) {
    const path = join(resolve(root, values.output), `trace-${state}.svg`);
    await writeFile(path, drawStep(steps[i], `launch cache ${state}`, microseconds));
    console.log(`${path}: recording a step takes ${steps[i].record.toFixed(0)} us (median)`);
  }
}

/** @param {'on' | 'off'} state @returns {Promise<string>} the trace's path */
async function makeTrace(state) {
  const file = join(cache, `trace-${state}.json`);
  await mkdir(cache, { recursive: true });
  const program = join(root, `scripts/${values.host === 'node' ? 'generate-node' : 'generate'}.mjs`);
  const options = ['--temperature', '0', '--max-tokens', '48', '--run-ahead', '2', '--launch-cache', state, '--trace', file];
  const code = await runInForeground(process.execPath, [program, 'Once upon a time', ...options], {});
  if (code !== 0) throw new Error(`The trace with the launch cache ${state} was not made.`);
  return file;
}
