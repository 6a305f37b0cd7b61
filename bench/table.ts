import type { BenchReport, BenchRow } from './report.ts';

/** A report as lines to print. @param instead of the table of its rows */
export function describeReport(
  { bench, host, runtime, adapter, version, commit, notes, rows }: BenchReport,
  instead?: readonly string[],
): string[] {
  const lines = [`${bench}: ${runtime} (${host}) on ${adapter}; Pagewise ${version}, commit ${commit}`, ...notes, ''];
  if (instead) return [...lines, ...instead];
  const names = [...new Set(rows.flatMap(({ params }) => Object.keys(params)))];
  const head = ['', ...names, 'median', 'p10', 'p90', 'unit', 'samples'];
  const cells = rows.map((row) => [row.name, ...names.map((name) => String(row.params[name] ?? '')), ...figures(row)]);
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((row) => row[column].length)));
  const isText = (column: number) => column <= names.length || column === names.length + 4;
  for (const row of [head, ...cells]) {
    const padded = row.map((cell, column) => (isText(column) ? cell.padEnd(widths[column]) : cell.padStart(widths[column])));
    lines.push(padded.join('  ').trimEnd());
  }
  return lines;
}

function figures({ value, p10, p90, unit, samples }: BenchRow): string[] {
  return [number(value), number(p10), number(p90), unit, String(samples)];
}

function number(value: number): string {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toFixed(digits);
}
