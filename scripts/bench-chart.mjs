/** `npm run bench:chart -- FILE.json ...`: draws what one or more runs of a bench measured, into docs. See `--help`. */
import { readFile, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { drawAttention } from './attention-drawing.mjs';
import { root } from './hosts/folders.mjs';
import { drawLadder } from './ladder-drawing.mjs';
import { drawSteps } from './step-drawing.mjs';

/** @typedef {import('../bench/report.ts').BenchReport} BenchReport */

/** By bench. @type {Readonly<Record<string, { draw: (reports: readonly BenchReport[]) => string, file: string }>>} */
const drawings = {
  launch: { draw: drawLadder, file: 'docs/launch-ladder.svg' },
  attention: { draw: drawAttention, file: 'docs/decode-share.svg' },
  step: { draw: drawSteps, file: 'docs/step-time.svg' },
};

const help = `Usage: npm run bench:chart -- FILE.json ... [--output FILE]

Each FILE is what "npm run bench -- BENCH --json FILE" wrote; all are of one bench, and each makes a panel or a row of panels, in this order.

${Object.entries(drawings)
  .map(([bench, { file }]) => `  ${bench.padEnd(14)} drawn into ${file}`)
  .join('\n')}

  --output FILE  where else`;

process.exitCode = await main().catch((error) => {
  console.error(`Error: ${error.message}`);
  return 1;
});

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { output: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help || positionals.length === 0) {
    console.log(help);
    return values.help ? 0 : 1;
  }
  const reports = await Promise.all(positionals.map(readReport));
  const [{ bench }] = reports;
  const other = reports.findIndex((report) => report.bench !== bench);
  if (other >= 0)
    throw new Error(
      `${positionals[other]} is of the bench "${reports[other].bench}", and ${positionals[0]} of "${bench}". Draw them apart.`,
    );
  const { draw, file } = drawings[bench];
  const output = values.output ?? file;
  await writeFile(resolve(root, output), draw(reports));
  console.log(output);
  return 0;
}

/** @param {string} file @returns {Promise<BenchReport>} @throws {Error} for what no bench wrote, or one that has no drawing */
async function readReport(file) {
  const text = await readFile(file, 'utf8');
  /** @type {BenchReport} */
  let report;
  try {
    report = JSON.parse(text);
  } catch (error) {
    throw new Error(`${file} is no JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (typeof report?.bench !== 'string' || !Array.isArray(report.rows))
    throw new Error(`${file} is no report of a bench. Write one with "npm run bench -- BENCH --json FILE".`);
  if (!Object.hasOwn(drawings, report.bench))
    throw new Error(`${file} is of the bench "${report.bench}". Drawn are: ${Object.keys(drawings).join(', ')}.`);
  return report;
}
