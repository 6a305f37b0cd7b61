/** `npm run bench:chart -- FILE.json ...`: draws the ladder of one or more launch benches into docs/launch-ladder.svg. See `--help`. */
import { readFile, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './hosts/folders.mjs';
import { drawLadder } from './ladder-drawing.mjs';

const help = `Usage: npm run bench:chart -- FILE.json ... [--output FILE]

Each FILE is what "npm run bench -- launch --json FILE" wrote; each makes a panel, in this order.

  --output FILE  default docs/launch-ladder.svg`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { output: { type: 'string', default: 'docs/launch-ladder.svg' }, help: { type: 'boolean', short: 'h' } },
});

if (values.help || positionals.length === 0) {
  console.log(help);
  process.exitCode = values.help ? 0 : 1;
} else {
  /** @type {import('../bench/report.ts').BenchReport[]} */
  const reports = await Promise.all(positionals.map(async (file) => JSON.parse(await readFile(file, 'utf8'))));
  const foreign = reports.findIndex(({ bench }) => bench !== 'launch');
  if (foreign >= 0) throw new Error(`${positionals[foreign]} is of the bench "${reports[foreign].bench}", not of "launch".`);
  await writeFile(resolve(root, values.output), drawLadder(reports));
  console.log(values.output);
}
