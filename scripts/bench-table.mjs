/** `npm run bench:table -- FILE.json ...`: prints what `npm run bench -- compare --json FILE` wrote as Markdown, for docs/comparison.md. */
import { readFile } from 'node:fs/promises';
import { tableOfComparison } from './comparison-table.mjs';

const files = process.argv.slice(2).filter((file) => !file.startsWith('-'));
if (files.length === 0) {
  console.error('Usage: npm run --silent bench:table -- FILE.json ...\n\nEach FILE is what "npm run bench -- compare --json FILE" wrote.');
  process.exitCode = 1;
}
for (const file of files) {
  /** @type {import('../bench/report.ts').BenchReport} */
  const report = JSON.parse(await readFile(file, 'utf8'));
  if (report.bench !== 'compare') throw new Error(`${file} is of the bench "${report.bench}", not of "compare".`);
  console.log(`${tableOfComparison(report)}\n`);
}
