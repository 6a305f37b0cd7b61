/** `npm run test:grid`: attention with all parameters of vLLM's test of its unified kernel, 768 cases against float64. See `--help`. */
import { parseArgs } from 'node:util';
import { SingleBar } from 'cli-progress';
import { driverSources } from './hosts/drivers.mjs';
import { exitOnSignals } from './hosts/processes.mjs';
import { isHost, seedFrom, watchSpecs } from './hosts/watch-specs.mjs';

const help = `Usage: npm run test:grid -- [options]

  --host deno|chromium|node  where to run (default deno; node is Dawn from npm)
  --filter TEXT              only cases whose name contains TEXT
  --seed N                   what random rows are made from, an integer from 0 to 4294967295 (default: another one each time)
  --driver SOURCE            ${driverSources.join(', ')} (for deno and node, on Linux)

Prints the cases that fail, and as the last line "N passed, N failed".`;

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
      seed: { type: 'string' },
      driver: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) return void console.log(help);
  const { host, filter, driver } = values;
  if (!isHost(host)) throw new Error(`There is no host "${host}". There are: deno, chromium, node.`);
  const seed = seedFrom(values.seed);
  const totals = { passed: 0, failed: 0 };
  const bar = new SingleBar({
    format: '{bar} {value} of {total} cases, {failed} failed, {eta_formatted} to go',
    hideCursor: true,
    clearOnComplete: true,
    gracefulExit: false,
    noTTYOutput: false,
  });
  let started = false;
  /** Prints above the bar. @param {string} text */
  const print = (text) => {
    if (started && process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    console.log(text);
  };
  /** @param {import('../test/harness/events.ts').HarnessEvent} event @param {string} place */
  const onEvent = (event, place) => {
    if (event.event === 'host') {
      print(`${event.runtime} on ${event.adapter} (${place}); --seed ${seed}`);
      bar.start(event.runs, 0, { failed: 0 });
      started = true;
    } else if (event.event === 'pass' || event.event === 'fail') {
      totals[event.event === 'pass' ? 'passed' : 'failed']++;
      if (event.event === 'fail') print(`FAIL  ${event.name}\n${event.message.replace(/^/gm, '        ')}`);
      bar.update(totals.passed + totals.failed, { failed: totals.failed });
    } else if (event.event === 'log') print(`      ${event.line}`);
  };
  const start = performance.now();
  const options = { files: ['replica'], full: true, filter, seed };
  const { problem } = await watchSpecs(host, options, { onEvent, onLine: (line) => print(`      ${line}`) }, driver);
  if (started) bar.stop();
  if (problem !== undefined) {
    totals.failed++;
    console.log(`FAIL  ${host}: ${problem}`);
  }
  if (totals.passed + totals.failed === 0) throw new Error('no case matches.');
  console.log(`${((performance.now() - start) / 1000).toFixed(0)} s`);
  console.log(`${totals.passed} passed, ${totals.failed} failed`);
  return totals.failed ? 1 : 0;
}
