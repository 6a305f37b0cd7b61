import { openGpu } from 'pagewise';
import { type Bench, benches, remoteBenches } from './benches.ts';
import type { BenchHost, BenchOptions, BenchReport } from './report.ts';
import { describeReport } from './table.ts';

/** Runs one bench, prints its table, and gives its report. */
export async function runBench(host: BenchHost, name: string, options: BenchOptions): Promise<BenchReport> {
  const bench = Object.hasOwn(benches, name) ? benches[name as keyof typeof benches] : undefined;
  if (!bench) throw new Error(`There is no bench "${name}". There are: ${Object.keys(benches).join(', ')}.`);
  const { version } = JSON.parse(new TextDecoder().decode(await host.readFile('package.json')));
  const { adapter, software, result } = await measure(host, name, bench, options);
  const { rows, notes, lines } = result;
  const report: BenchReport = {
    ...{ bench: name, host: host.name, runtime: host.runtime, adapter, software },
    ...{ version, commit: host.commit, date: new Date().toISOString().slice(0, 10) },
    notes: [...host.notes, ...notes],
    rows,
  };
  for (const line of describeReport(report, lines)) host.print(line);
  return report;
}

async function measure(host: BenchHost, name: string, bench: Bench, options: BenchOptions) {
  const url = options.serving?.url;
  const remote = Object.hasOwn(remoteBenches, name) ? remoteBenches[name] : undefined;
  if (url !== undefined && remote) return { adapter: 'a server', software: false, result: await remote(url, host, options) };
  const gpu = await openGpu({ gpu: host.api });
  try {
    const result = await bench(gpu, host, options);
    if (gpu.loss) throw gpu.loss;
    const { vendor, architecture, device, description, software } = gpu.adapter;
    const adapter = [...new Set([vendor, architecture, device, description])].filter(Boolean).join(' ') || 'an unnamed adapter';
    return { adapter, software, result };
  } finally {
    gpu.destroy();
  }
}
