/** `npm test`: every check, a table of their times, and the sum as the last line. See `--help`. */
import { mkdir, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { cache, root } from './hosts/folders.mjs';
import { exitOnSignals, watchProcess } from './hosts/processes.mjs';

/**
 * @typedef {object} Totals
 * @property {number} passed
 * @property {number} failed
 * @property {number} skipped
 *
 * @typedef {object} Step
 * @property {string} name
 * @property {string[][]} runs arguments of Node, one program after another
 * @property {number} minutes the time after which it is stopped
 * @property {string} [report] a JSON report of Vitest's to count from; others are counted by their last line, or as one
 * @property {true} [beside] may run beside another one of these
 */

exitOnSignals();

const typescript = 'node_modules/typescript/bin/tsc';

/** @type {readonly Step[]} */
const steps = [
  {
    name: 'types',
    minutes: 2,
    runs: [
      [typescript, '-p', '.'],
      [typescript, '-p', 'tsconfig.build.json', '--noEmit'],
    ],
  },
  { name: 'lint', minutes: 2, runs: [['node_modules/@biomejs/biome/bin/biome', 'ci', '--colors=off', '.']] },
  { name: 'build', minutes: 2, runs: [['scripts/build.mjs']] },
  // The longest first, so that both lanes end at about the same time.
  { name: 'chromium', minutes: 20, beside: true, runs: [['scripts/test-gpu.mjs', '--host', 'chromium', '--once']] },
  { name: 'deno', minutes: 20, beside: true, runs: [['scripts/test-gpu.mjs', '--host', 'deno']] },
  { name: 'page', minutes: 10, beside: true, runs: [['scripts/test-page.mjs']] },
  { ...vitestStep('terminal', 'test/terminal', 10), beside: true },
  { ...vitestStep('unit', 'test/unit', 10), beside: true },
];

const { values } = parseArgs({ options: { only: { type: 'string' }, help: { type: 'boolean', short: 'h' } } });
if (values.help) {
  console.log(`Usage: npm test -- [--only NAME,NAME]\n\nSteps: ${steps.map(({ name }) => name).join(', ')}`);
} else {
  process.exitCode = await main(values.only?.split(','));
}

/** The tests of one folder. @param {string} name @param {string} folder @param {number} [minutes] @returns {Step} */
function vitestStep(name, folder, minutes = 5) {
  const report = join(cache, `${name}.json`);
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  return { name, minutes, runs: [['node_modules/vitest/vitest.mjs', 'run', '--dir', folder, ...reporters]], report };
}

/** @param {readonly string[]} [only] */
async function main(only) {
  const unknown = only?.filter((name) => !steps.some((step) => step.name === name)) ?? [];
  if (unknown.length) {
    console.error(`Error: there is no step "${unknown[0]}". There are: ${steps.map(({ name }) => name).join(', ')}.`);
    return 1;
  }
  const chosen = steps.filter(({ name }) => only?.includes(name) ?? true);
  const begin = performance.now();
  const rows = [];
  for (const step of chosen.filter(({ beside }) => !beside)) rows.push(await timeStep(step, console.log));
  const waiting = chosen.filter(({ beside }) => beside);
  rows.push(...(await Promise.all([runLane(waiting, false), runLane(waiting, true)])).flat());
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const { passed, failed, skipped } of rows) {
    sum.passed += passed;
    sum.failed += failed;
    sum.skipped += skipped;
  }
  console.log('\nstep       seconds  passed  failed  skipped');
  for (const { name, seconds, passed, failed, skipped } of rows) {
    console.log(`${name.padEnd(9)} ${cell(seconds.toFixed(1), 8)}${cell(passed, 8)}${cell(failed, 8)}${cell(skipped, 9)}`);
  }
  console.log(`${'all'.padEnd(9)} ${cell(((performance.now() - begin) / 1000).toFixed(1), 8)}\n`);
  console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
  return sum.failed ? 1 : 0;
}

/**
 * Runs steps one after another, as long as some wait. @param {Step[]} waiting both lanes take from it
 * @param {boolean} together whether the lines of a step are printed once it has ended, so that those of two do not mix
 */
async function runLane(waiting, together) {
  const rows = [];
  for (let step = waiting.shift(); step; step = waiting.shift()) {
    /** @type {string[]} */
    const lines = [];
    rows.push(await timeStep(step, together ? (line) => void lines.push(line) : console.log));
    if (together) console.log(lines.join('\n'));
  }
  return rows;
}

/** @param {Step} step @param {(line: string) => void} print @returns {Promise<Totals & { name: string, seconds: number }>} */
async function timeStep(step, print) {
  print(`\n--- ${step.name}`);
  const start = performance.now();
  const totals = await runStep(step, print);
  return { name: step.name, seconds: (performance.now() - start) / 1000, ...totals };
}

/** Runs a step's programs until one fails. @param {Step} step @param {(line: string) => void} print @returns {Promise<Totals>} */
async function runStep({ name, runs, minutes, report }, print) {
  if (report) {
    await mkdir(dirname(report), { recursive: true });
    await rm(report, { force: true });
  }
  /** @type {Totals | undefined} */
  let counted;
  let code = 0;
  for (const args of runs) {
    const child = watchProcess(process.execPath, args, {
      cwd: root,
      onLine: (line) => {
        const numbers = /^\w+: (\d+) passed, (\d+) failed, (\d+) skipped$/.exec(line)?.slice(1).map(Number);
        if (numbers) counted = { passed: numbers[0], failed: numbers[1], skipped: numbers[2] };
        print(line);
      },
    });
    const timer = setTimeout(() => {
      print(`The step "${name}" was stopped after ${minutes} minutes.`);
      child.kill();
    }, minutes * 60_000);
    code = await child.done;
    clearTimeout(timer);
    if (code !== 0) break;
  }
  const totals = report ? await readVitestReport(report) : counted;
  if (!totals) return code === 0 ? { passed: 1, failed: 0, skipped: 0 } : { passed: 0, failed: 1, skipped: 0 };
  return code !== 0 && totals.failed === 0 ? { ...totals, failed: 1 } : totals;
}

/** @param {string} file @returns {Promise<Totals | undefined>} */
async function readVitestReport(file) {
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  const report = JSON.parse(text);
  return { passed: report.numPassedTests, failed: report.numFailedTests, skipped: report.numPendingTests + report.numTodoTests };
}

/** @param {string | number} value @param {number} width */
function cell(value, width) {
  return String(value).padStart(width);
}
