import pLimit from 'p-limit';
import type { RequestTrace } from './arithmetic.ts';
import type { Client } from './clients.ts';
import type { SampleRequest } from './dataset.ts';

/** A run of all requests. */
export interface DriveResult {
  readonly traces: readonly RequestTrace[];
  readonly failures: readonly Error[];
  /** Milliseconds from just before the first request until all were done. */
  readonly duration: number;
}

export interface DriveOptions {
  /** When each request is sent, in milliseconds after the first. */
  readonly arrivals: readonly number[];
  /** Most requests on their way at once; default: no limit. */
  readonly maxConcurrency?: number;
  readonly onDone?: (done: number) => void;
}

/** Sends each request at its time; one that fails does not end the others. */
export async function drive(
  client: Client,
  requests: readonly SampleRequest[],
  { arrivals, maxConcurrency, onDone }: DriveOptions,
): Promise<DriveResult> {
  const limit = pLimit(maxConcurrency ?? Number.POSITIVE_INFINITY);
  const traces: RequestTrace[] = [];
  const failures: Error[] = [];
  const start = performance.now();
  const sent: Promise<void>[] = [];
  for (const [at, request] of requests.entries()) {
    const wait = start + arrivals[at] - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const work = limit(() => client(request));
    sent.push(
      work
        .then(
          (trace) => void traces.push(trace),
          (error: Error) => void failures.push(error),
        )
        .finally(() => onDone?.(traces.length + failures.length)),
    );
  }
  await Promise.all(sent);
  return { traces, failures, duration: performance.now() - start };
}
