/** The command line of the benches in Deno and Node: `launch [--rounds N] [--quick] [--filter TEXT] [--json FILE] [--commit TEXT]`. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { argv } from 'node:process';
import { parseArgs } from 'node:util';
import { currentCommit } from '../scripts/commit.mjs';
import { benches } from './benches.ts';
import type { BenchHost } from './report.ts';
import { runBench } from './run.ts';

/** @returns the exit code */
export async function runTerminal(host: Omit<BenchHost, 'commit' | 'print'>): Promise<number> {
  try {
    const { values, positionals } = parseArgs({
      args: argv.slice(2),
      allowPositionals: true,
      options: {
        rounds: { type: 'string' },
        quick: { type: 'boolean' },
        filter: { type: 'string' },
        json: { type: 'string' },
        commit: { type: 'string' },
      },
    });
    if (positionals.length !== 1) throw new Error(`Name one bench: ${Object.keys(benches).join(', ')}.`);
    const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
    if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0)) throw new Error('--rounds is a positive integer.');
    const commit = values.commit ?? currentCommit();
    const print = (line: string) => console.log(line);
    const report = await runBench({ ...host, commit, print }, positionals[0], { rounds, quick: values.quick, filter: values.filter });
    if (values.json !== undefined) {
      const file = resolve(values.json);
      await mkdir(dirname(file), { recursive: true });
      await writeFile(file, `${JSON.stringify(report, undefined, 2)}\n`);
    }
    return 0;
  } catch (error) {
    console.error(`Error: ${error instanceof Error ? error.message : error}`);
    return 1;
  }
}
