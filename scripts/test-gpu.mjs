/** Runs the GPU specs in one host and prints a line for each. See `--help`. */
import { parseArgs } from 'node:util';
import { driverSources } from './hosts/drivers.mjs';
import { compareSkips, readExpectedSkips, writeExpectedSkips } from './hosts/expected-skips.mjs';
import { exitOnSignals } from './hosts/processes.mjs';
import { specHosts } from './hosts/spec-hosts.mjs';
import { isHost, seedFrom, watchSpecs } from './hosts/watch-specs.mjs';

const help = `Usage: npm run test:gpu -- [options]

  --host deno|chromium|node  where to run (default deno; node is Dawn from npm)
  --filter TEXT              only specs whose name contains TEXT
  --file NAME                only this spec file, a name in test/gpu/all.ts; may be repeated
  --variant granted|default  only on devices with granted, or default, limits
  --once                     specs that run on both only on devices with default limits
  --full                     also the specs of the long run
  --seed N                   what random cases are made from, an integer from 0 to 4294967295 (default: another one each time)
  --list                     print the names and stop
  --driver SOURCE            ${driverSources.join(', ')} (for deno and node, on Linux)
  --update-skips             write the counts of skipped specs to test/harness/expected-skips.json`;

exitOnSignals();

process.exitCode = await main().catch((error) => {
  console.error(`Error: ${error.message}`);
  return 1;
});

async function main() {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: 'deno' },
      filter: { type: 'string' },
      file: { type: 'string', multiple: true },
      variant: { type: 'string' },
      once: { type: 'boolean' },
      full: { type: 'boolean' },
      seed: { type: 'string' },
      list: { type: 'boolean' },
      driver: { type: 'string' },
      'update-skips': { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) return void console.log(help);
  if (!isHost(values.host)) throw new Error(`There is no host "${values.host}". There are: ${Object.keys(specHosts).join(', ')}.`);
  if (values.variant !== undefined && values.variant !== 'granted' && values.variant !== 'default') {
    throw new Error('--variant is granted or default.');
  }
  const { filter, file: files, variant, once, full, list } = values;
  const seed = seedFrom(values.seed);
  const totals = { passed: 0, failed: 0, skipped: 0 };
  const report = await runSpecs(values.host, { filter, files, variant, once, full, list, seed }, totals, values.driver);
  if (list) return 0;
  if (report.problem !== undefined) {
    totals.failed++;
    console.log(`FAIL  ${values.host}: ${report.problem}`);
  } else if (!filter && !files && !variant && !once && !full) {
    if (values['update-skips']) await writeExpectedSkips(values.host, report.adapter, report.skips);
    const problem = compareSkips(await readExpectedSkips(), values.host, report.adapter, report.skips, report.version);
    if (problem) {
      totals.failed++;
      console.log(`FAIL  ${problem}`);
    }
  }
  if (totals.passed + totals.failed + totals.skipped === 0) throw new Error('no spec matches.');
  console.log(`${values.host}: ${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
  return totals.failed ? 1 : 0;
}

/**
 * Runs the specs, prints them, and counts them into `totals`.
 *
 * @param {keyof typeof specHosts} hostName
 * @param {import('../test/harness/events.ts').RunOptions} options
 * @param {{ passed: number, failed: number, skipped: number }} totals
 * @param {string} [driver]
 */
async function runSpecs(hostName, options, totals, driver) {
  const report = { adapter: '', version: '', skips: /** @type {Record<string, number>} */ ({}) };
  /** @type {Map<string, number>} milliseconds */
  const byFile = new Map();
  const onLine = (/** @type {string} */ line) => console.log(`      ${line}`);
  /** @param {import('../test/harness/events.ts').HarnessEvent} event @param {string} place */
  const onEvent = (event, place) => {
    if (event.event === 'pass' || event.event === 'fail') {
      const file = event.name.split(' / ')[0];
      byFile.set(file, (byFile.get(file) ?? 0) + event.milliseconds);
    }
    switch (event.event) {
      case 'host':
        report.adapter = event.adapter;
        report.version = event.runtime.match(/\d+/)?.[0] ?? '';
        console.log(`${event.runtime} on ${event.adapter} (${place}); features: ${event.features.join(', ')}`);
        console.log(`Random cases are those of --seed ${options.seed}.`);
        break;
      case 'log':
        onLine(event.line);
        break;
      case 'pass':
        totals.passed++;
        console.log(`ok    ${duration(event.milliseconds)}  ${event.name}`);
        break;
      case 'fail':
        totals.failed++;
        console.log(
          `FAIL  ${duration(event.milliseconds)}  ${event.name} (--seed ${options.seed})\n${event.message.replace(/^/gm, '        ')}`,
        );
        break;
      case 'skip':
        totals.skipped++;
        report.skips[event.missing] = (report.skips[event.missing] ?? 0) + 1;
        console.log(`skip            ${event.name}: no ${event.missing}`);
        break;
      case 'list':
        console.log(event.names.join('\n'));
        break;
      case 'end':
        if (byFile.size > 1)
          console.log(`Seconds by file: ${[...byFile].map(([file, ms]) => `${file} ${(ms / 1000).toFixed(0)}`).join(', ')}`);
    }
  };
  const { problem } = await watchSpecs(hostName, options, { onEvent, onLine }, driver);
  return { ...report, problem };
}

/** @param {number} milliseconds */
function duration(milliseconds) {
  const text = milliseconds < 10_000 ? `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
  return text.padStart(8);
}
