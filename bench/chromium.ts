/** The benches in Chromium: a page that waits for `runPagewiseBench`; the launcher provides `pagewisePrint`. */
import type { BenchOptions, BenchReport } from './report.ts';
import { runBench } from './run.ts';

declare global {
  interface Window {
    pagewisePrint(line: string): Promise<void>;
    runPagewiseBench(name: string, options: BenchOptions, commit: string): Promise<BenchReport>;
  }
}

window.runPagewiseBench = async (name, options, commit) => {
  let printed = Promise.resolve();
  const report = await runBench(
    {
      name: 'chromium',
      runtime: /Chrome\/[\d.]+/.exec(navigator.userAgent)?.[0].replace('/', ' ') ?? navigator.userAgent,
      api: navigator.gpu,
      commit,
      notes: [`Timer: ${crossOriginIsolated ? '5' : '100'} us.`],
      readFile: async (path) => {
        const response = await fetch(`/repository/${path}`);
        if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
        return new Uint8Array(await response.arrayBuffer());
      },
      onnxruntime: () => import('./compare/onnxruntime.ts'),
      print: (line) => {
        printed = window.pagewisePrint(line);
      },
    },
    name,
    options,
  );
  await printed;
  return report;
};
