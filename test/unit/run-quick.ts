import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { BenchReport } from '../../bench/report.ts';

/** A bench, as little of it as there can be, by the command. */
export async function runQuick(...args: readonly string[]): Promise<{ readonly written: BenchReport; readonly stdout: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
  try {
    const file = join(folder, 'bench.json');
    const { stdout } = await promisify(execFile)(process.execPath, ['scripts/bench.mjs', ...args, '--quick', '--json', file]);
    return { written: JSON.parse(await readFile(file, 'utf8')), stdout };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Names of the rows of one KV dtype. */
export function namesIn({ rows }: BenchReport, kv: string): readonly string[] {
  return rows.filter(({ params }) => params.kv === kv).map(({ name }) => name);
}
