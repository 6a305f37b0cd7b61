import type { Gpu } from '../../src/gpu.ts';

/** A watch over a device's errors. */
export interface ErrorWatch {
  /** Ends the watch; returns a line for every error that nobody else caught. */
  close(): Promise<string[]>;
}

const filters = ['internal', 'out-of-memory', 'validation'] as const;

/** Opens one error scope of each kind on the device, and listens for errors that escape them. */
export function watchErrors(gpu: Gpu): ErrorWatch {
  const problems: string[] = [];
  const listener = (event: GPUUncapturedErrorEvent) => {
    event.preventDefault();
    problems.push(`stray error: ${event.error.message}`);
  };
  gpu.device.addEventListener('uncapturederror', listener);
  for (const filter of filters) gpu.device.pushErrorScope(filter);
  return {
    async close() {
      for (const filter of [...filters].reverse()) {
        const error = await gpu.device.popErrorScope().catch((reason) => (gpu.loss ? null : reason));
        if (error) problems.push(`stray ${filter} error: ${error.message}`);
      }
      gpu.device.removeEventListener('uncapturederror', listener);
      return problems;
    },
  };
}
