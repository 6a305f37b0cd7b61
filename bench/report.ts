/** What a bench measures and says: the same on every host. */
import type { ModelFiles } from 'pagewise/engine';
import type { Handler } from 'pagewise/serve';
import type { Address, Listener } from '../demo/terminal/listen.ts';
import type { ServingOptions } from '../scripts/serving-options.mjs';

/** A distribution of samples under a name. */
export interface BenchRow {
  readonly name: string;
  readonly params: Readonly<Record<string, string | number | boolean>>;
  readonly unit: string;
  /** The median. */
  readonly value: number;
  readonly p10: number;
  readonly p90: number;
  readonly samples: number;
}

/** A run of a bench, as `--json` writes it. */
export interface BenchReport {
  readonly bench: string;
  /** chromium, deno or node. */
  readonly host: string;
  /** The host's name and version. */
  readonly runtime: string;
  readonly adapter: string;
  /** The adapter is a processor that plays a GPU. */
  readonly software: boolean;
  /** Pagewise's. */
  readonly version: string;
  readonly commit: string;
  readonly date: string;
  /** What a reader must know to judge the rows. */
  readonly notes: readonly string[];
  readonly rows: readonly BenchRow[];
}

/** What a bench gives. */
export interface BenchResult {
  readonly rows: readonly BenchRow[];
  readonly notes: readonly string[];
  /** To print in place of the table of rows. */
  readonly lines?: readonly string[];
}

/** What a host gives a bench. */
export interface BenchHost {
  readonly name: 'chromium' | 'deno' | 'node';
  readonly runtime: string;
  readonly api: GPU | undefined;
  readonly commit: string;
  /** How the host was started, where that matters. */
  readonly notes: readonly string[];
  /** A file of the repository; of the machine, where the path is absolute. */
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  /** The part of the comparison that runs onnxruntime-web, where the host can. */
  readonly onnxruntime?: () => Promise<typeof import('./compare/onnxruntime.ts')>;
  /** The files of a model in a folder, where the host has folders. */
  modelFiles?(folder: string): ModelFiles;
  /** Shows how far something has come, where somebody looks on; without a fraction it has ended. */
  progress?(fraction: number | undefined, what?: string, amount?: string): void;
  /** Opens a port, where the host can. */
  listen?(handler: Handler, address: Address): Promise<Listener>;
  /** Bytes of the host's heap, its garbage collected, where the host tells. */
  heapUsed?(): number;
  /** Prints a line. */
  print(line: string): void;
}

/** What is asked of a bench. */
export interface BenchOptions {
  /** At least 5 for figures to be quoted; each bench has its default. */
  readonly rounds?: number;
  /** As little as shows that it runs. */
  readonly quick?: boolean;
  /** Only the parts of a bench whose name contains this, where it has parts. */
  readonly filter?: string;
  /** Of the benches that serve. */
  readonly serving?: ServingOptions;
}

/** A row from samples, of which there is at least one. */
export function rowOf(name: string, params: BenchRow['params'], unit: string, samples: readonly number[]): BenchRow {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number) => significant(quantile(sorted, share));
  return { name, params, unit, value: at(0.5), p10: at(0.1), p90: at(0.9), samples: samples.length };
}

export function median(samples: readonly number[]): number {
  return quantile(
    [...samples].sort((a, b) => a - b),
    0.5,
  );
}

function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)];
  return below + (sorted[Math.ceil(at)] - below) * (at - Math.floor(at));
}

/** Four digits: no timer here gives more. */
function significant(value: number): number {
  return Number(value.toPrecision(4));
}
