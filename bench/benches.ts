import type { Gpu } from 'pagewise';
import { benchAttention } from './attention/bench.ts';
import { benchCold } from './cold.ts';
import { benchCompare } from './compare/bench.ts';
import { benchGenerate } from './generate/bench.ts';
import { benchLaunch } from './launch/bench.ts';
import { benchLinear } from './linear/bench.ts';
import type { BenchHost, BenchOptions, BenchResult } from './report.ts';
import { benchServing, benchServingAt } from './serving/bench.ts';
import { benchSoak, benchSoakAt } from './serving/soak.ts';
import { benchSpeculate } from './speculate/bench.ts';
import { benchStep } from './step/bench.ts';

/** A bench: it makes what it needs on the device and takes it down again. */
export type Bench = (gpu: Gpu, host: BenchHost, options: BenchOptions) => Promise<BenchResult>;

export const benches = {
  launch: benchLaunch,
  attention: benchAttention,
  linear: benchLinear,
  compare: benchCompare,
  cold: benchCold,
  generate: benchGenerate,
  step: benchStep,
  speculate: benchSpeculate,
  serving: benchServing,
  soak: benchSoak,
} satisfies Record<string, Bench>;

/** Of a server elsewhere, which has the GPU. */
export type RemoteBench = (url: string, host: BenchHost, options: BenchOptions) => Promise<BenchResult>;

export const remoteBenches: Readonly<Record<string, RemoteBench>> = { serving: benchServingAt, soak: benchSoakAt };
