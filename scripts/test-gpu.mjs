/** Runs the GPU specs in one host and prints a line for each. See `--help`. */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { driverSources } from './hosts/drivers.mjs';
import { compareSkips, readExpectedSkips, writeExpectedSkips } from './hosts/expected-skips.mjs';
import { exitOnSignals } from './hosts/processes.mjs';
import { specHosts } from './hosts/spec-hosts.mjs';

const help = `Usage: npm run test:gpu -- [options]

  --host deno|chromium|node  where to run (default deno; node is Dawn from npm)
  --filter TEXT              only specs whose name contains TEXT
  --file NAME                only this spec file, a name in test/gpu/all.ts; may be repeated
  --variant granted|default  only on devices with granted, or default, limits
  --full                     also the specs of the long run
  --seed N                   what random cases are made from, an integer from 0 to 4294967295 (default: another one each time)
  --list                     print the names and stop
  --driver SOURCE            ${driverSources.join(', ')} (for deno and node, on Linux)
  --update-skips             write the counts of skipped specs to test/harness/expected-skips.json`;

exitOnSignals();

/** Grace beyond a spec's own limit, and the limit for everything between specs, in milliseconds. */
const grace = 30_000;
const idleLimit = 180_000;

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
  const { filter, file: files, variant, full, list } = values;
  const seed = values.seed === undefined ? randomInt(2 ** 32) : Number(values.seed);
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) throw new Error('--seed is an integer from 0 to 4294967295.');
  const totals = { passed: 0, failed: 0, skipped: 0 };
  const report = await runSpecs(values.host, { filter, files, variant, full, list, seed }, totals, values.driver);
  if (list) return 0;
  if (!report.ended) {
    totals.failed++;
    console.log(`FAIL  ${values.host}: ${report.problem}`);
  } else if (!filter && !files && !variant && !full) {
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
  const report = { ended: false, problem: '', adapter: '', version: '', skips: /** @type {Record<string, number>} */ ({}) };
  let place = '';
  let current = '';
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  /** @type {(reason: Error) => void} */
  let giveUp = () => {};
  /** @type {Promise<never>} */
  const silence = new Promise((_, reject) => {
    giveUp = reject;
  });
  const expectEventWithin = (/** @type {number} */ milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const where = current ? ` since "${current}" began` : '';
      giveUp(new Error(`nothing heard for ${milliseconds / 1000} s${where}; the host was stopped`));
    }, milliseconds);
  };
  /** @param {import('../test/harness/events.ts').HarnessEvent} event */
  const onEvent = (event) => {
    expectEventWithin(event.event === 'start' ? event.timeout + grace : idleLimit);
    switch (event.event) {
      case 'host':
        report.adapter = event.adapter;
        report.version = event.runtime.match(/\d+/)?.[0] ?? '';
        console.log(`${event.runtime} on ${event.adapter} (${place}); features: ${event.features.join(', ')}`);
        console.log(`Random cases are those of --seed ${options.seed}.`);
        break;
      case 'start':
        current = event.name;
        break;
      case 'log':
        console.log(`      ${event.line}`);
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
        report.ended = true;
    }
  };
  expectEventWithin(idleLimit);
  try {
    const run = await Promise.race([
      silence,
      specHosts[hostName](options, { onEvent, onLine: (line) => console.log(`      ${line}`) }, driver),
    ]);
    place = run.place;
    await Promise.race([silence, run.done]).finally(run.stop);
    report.problem = 'the host ended before the specs did';
  } catch (error) {
    report.ended = false;
    report.problem = error instanceof Error ? error.message : String(error);
  }
  clearTimeout(timer);
  return report;
}

/** @param {string} name @returns {name is keyof typeof specHosts} */
function isHost(name) {
  return Object.hasOwn(specHosts, name);
}

/** @param {number} milliseconds */
function duration(milliseconds) {
  const text = milliseconds < 10_000 ? `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
  return text.padStart(8);
}
