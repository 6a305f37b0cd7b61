/** The command line of the benches in Deno and Node: `launch [--rounds N] [--quick] [--filter TEXT] [--json FILE] [--commit TEXT]`, and what `serving` takes. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { argv, memoryUsage } from 'node:process';
import { parseArgs } from 'node:util';
import type { LoadingText } from '../demo/shared/loading.ts';
import { filesFromFolder } from '../demo/terminal/folder.ts';
import { listen } from '../demo/terminal/listen.ts';
import { createProgressBar } from '../demo/terminal/progress.ts';
import { currentCommit } from '../scripts/commit.mjs';
import { readServingOptions, servingOptions } from '../scripts/serving-options.mjs';
import { benches } from './benches.ts';
import type { BenchHost } from './report.ts';
import { runBench } from './run.ts';

/** @returns the exit code */
export async function runTerminal(
  host: Omit<BenchHost, 'commit' | 'print' | 'progress' | 'modelFiles' | 'heapUsed' | 'listen'>,
): Promise<number> {
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
        ...servingOptions,
      },
    });
    if (positionals.length < 1) throw new Error(`Name one bench: ${Object.keys(benches).join(', ')}.`);
    const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
    if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0)) throw new Error('--rounds is a positive integer.');
    const commit = values.commit ?? currentCommit();
    const print = (line: string) => console.log(line);
    const serving = readServingOptions(values, positionals.slice(1));
    const options = { rounds, quick: values.quick, filter: values.filter, serving };
    const given = { commit, print, progress, listen, modelFiles: filesFromFolder, heapUsed: globalThis.gc && heapUsed };
    const report = await runBench({ ...host, ...given }, positionals[0], options);
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

const bar = createProgressBar((text: LoadingText) => text);

function progress(fraction: number | undefined, what = '', amount = ''): void {
  if (fraction === undefined) bar.stop();
  else bar.update({ fraction, what, amount });
}

function heapUsed(): number {
  globalThis.gc?.();
  return memoryUsage().heapUsed;
}
