/** Runs a bench in one host, prints its table and writes its rows. See `--help`. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { currentCommit } from './commit.mjs';
import { serveBenchPage } from './hosts/bench-page.mjs';
import { launchChromium } from './hosts/chromium.mjs';
import { buildForNode, dawnFindsAdapter } from './hosts/dawn.mjs';
import { denoEnvironment, denoPath } from './hosts/deno.mjs';
import { driverSources, findDriver } from './hosts/drivers.mjs';
import { root } from './hosts/folders.mjs';
import { exitOnSignals, runInForeground } from './hosts/processes.mjs';
import { registersLayer } from './hosts/registers.mjs';
import { readServingOptions, servingArguments, servingHelp, servingOptions } from './serving-options.mjs';

const help = `Usage: npm run bench -- launch|attention|linear|compare|cold|generate|step|speculate|serving|soak [options]

  launch    what a launch costs the host, by every way to make one
  attention what attention costs the GPU, and its share of what the memory or the arithmetic allows
  linear    what the model's matrix products cost the GPU, and their share of the same; every tile (--filter sweep),
            of subgroup matrices alone (--filter "sweep by matrices")
  compare   our attention, onnxruntime-web's (in Chromium) and a plain contiguous one: the same tensors, in turn;
            and the whole model, decoded by us and by onnxruntime-web (--filter "whole model")
  cold      the time to the first token, with and without a warm-up manifest
  generate  tokens per second and host time with the launch cache on and off
  step      host time of a decode step and what it writes, against batch and context
  speculate tokens per second with prompt lookup and without
  serving   throughput, time to first token and time between tokens of many requests, as vLLM's benchmark_serving
  soak      many streams for minutes: fails when anything is lost, doubled or out of order, or grows, or blocks are not given back

  --host deno|chromium|node  where to run (default deno; node is Dawn from npm)
  --rounds N                 how often everything is measured; medians of fewer than 5 are not to be quoted
  --quick                    as little as shows that it runs
  --filter TEXT              only the parts whose name contains TEXT (attention, linear, compare)
  --json FILE                write the rows
  --driver SOURCE            ${driverSources.join(', ')} (for deno and node, on Linux)
  --registers                print what the driver says of each pipeline (for node, on Linux): registers, size of the code
  --page FOLDER              the page as "npm run bench:page" built it (for chromium), where Vite is not installed

${servingHelp}`;

/**
 * @typedef {object} Request
 * @property {string} bench
 * @property {import('../bench/report.ts').BenchOptions} options
 * @property {string} commit
 * @property {string} [json] a path
 * @property {string} [driver]
 * @property {boolean} [registers]
 * @property {string} [page] a folder
 * @property {readonly string[]} more arguments, as they were given
 */

/** @type {Record<string, (request: Request) => Promise<number>>} each gives the exit code */
const hosts = {
  async deno(request) {
    const driver = await findDriver({ only: request.driver });
    const flags = request.bench === 'soak' ? ['--v8-flags=--expose-gc'] : [];
    const args = [
      'run',
      '--allow-all',
      '--no-prompt',
      '--quiet',
      ...flags,
      '--config',
      join(root, 'deno.json'),
      join(root, 'bench/deno.ts'),
    ];
    return runInForeground(await denoPath(), [...args, ...argumentsOf(request)], { ...denoEnvironment, ...environmentOf(request, driver) });
  },

  async node(request) {
    const layer = request.registers ? await registersLayer() : undefined;
    const driver = await findDriver({ only: request.driver, works: dawnFindsAdapter });
    const program = await buildForNode('bench-node', 'node.js');
    const flags = ['--enable-source-maps', ...(request.bench === 'soak' ? ['--expose-gc'] : []), ...(layer?.flags ?? [])];
    return runInForeground(process.execPath, [...flags, program, ...argumentsOf(request)], {
      ...environmentOf(request, driver),
      ...layer?.env,
    });
  },

  async chromium({ bench, options, commit, json, page: built }) {
    const server = await serveBenchPage(built);
    try {
      const browser = await launchChromium();
      try {
        const page = await browser.newPage();
        page.on('console', (message) => {
          if (message.type() !== 'debug') console.error(`[${message.type()}] ${message.text()}`);
        });
        /** @type {Promise<never>} */
        const failure = new Promise((_, reject) => {
          page.on('pageerror', reject);
          page.on('crash', () => reject(new Error('the page crashed')));
        });
        failure.catch(() => {});
        await page.exposeBinding('pagewisePrint', (_source, line) => console.log(line));
        await page.goto(server.url);
        await Promise.race([failure, page.waitForFunction('window.runPagewiseBench', undefined, { timeout: 60_000 })]);
        const run = page.evaluate(
          ([name, chosen, at]) => window.runPagewiseBench(name, chosen, at),
          /** @type {const} */ ([bench, options, commit]),
        );
        const report = await Promise.race([failure, run]);
        if (json !== undefined) {
          await mkdir(dirname(json), { recursive: true });
          await writeFile(json, `${JSON.stringify(report, undefined, 2)}\n`);
        }
        return 0;
      } finally {
        await browser.close();
      }
    } finally {
      await server.close();
    }
  },
};

/** Benches that tell what a compile takes: for them no driver keeps what it compiled at the last start. The others begin when all is compiled. */
const compiling = ['cold', 'launch'];

exitOnSignals();
process.exitCode = await main().catch((error) => {
  console.error(`Error: ${error.message}`);
  return 1;
});

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      host: { type: 'string', default: 'deno' },
      rounds: { type: 'string' },
      quick: { type: 'boolean' },
      filter: { type: 'string' },
      json: { type: 'string' },
      driver: { type: 'string' },
      page: { type: 'string' },
      registers: { type: 'boolean' },
      ...servingOptions,
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help || positionals.length < 1) {
    console.log(help);
    return values.help ? 0 : 1;
  }
  if (!Object.hasOwn(hosts, values.host))
    throw new Error(`There is no host "${values.host}". There are: ${Object.keys(hosts).join(', ')}.`);
  if (values.registers && values.host !== 'node') throw new Error('--registers goes with --host node.');
  const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
  const dataset = values.dataset === undefined ? undefined : resolve(values.dataset);
  const words = positionals.slice(1);
  return hosts[values.host]({
    bench: positionals[0],
    options: { rounds, quick: values.quick, filter: values.filter, serving: readServingOptions({ ...values, dataset }, words) },
    more: [...words, ...servingArguments({ ...values, dataset })],
    commit: currentCommit(),
    json: values.json === undefined ? undefined : resolve(values.json),
    driver: values.driver,
    registers: values.registers,
    page: values.page === undefined ? undefined : resolve(values.page),
  });
}

/** As the programs of Deno and Node take it. @param {Request} request */
function argumentsOf({ bench, options: { rounds, quick, filter }, commit, json, more }) {
  const options = { rounds, filter, json, commit };
  const given = Object.entries(options).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, String(value)]));
  return [bench, ...given, ...(quick ? ['--quick'] : []), ...more];
}

/** @param {Request} request @param {import('./hosts/drivers.mjs').Driver} driver */
function environmentOf({ bench }, { env, source, description, backend }) {
  const cold = compiling.includes(bench) ? { MESA_SHADER_CACHE_DISABLE: 'true', __GL_SHADER_DISK_CACHE: '0' } : {};
  return { ...env, ...cold, PAGEWISE_DRIVER_DESCRIPTION: `${backend}, ${source}: ${description}` };
}
