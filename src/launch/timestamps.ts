import type { TracedLaunch } from './traced-pass.ts';

/** Queries of one set: WebGPU's most. */
const setSize = 4096;

/** When a launch ran, in nanoseconds of the GPU's own clock. */
export interface GpuTime {
  readonly begin: bigint;
  readonly end: bigint;
}

/**
 * Records launches into a pass each, with a timestamp at either end: WebGPU has none inside a pass.
 * @returns what to call after the submit; it resolves to one time per launch
 */
export function recordTimed(device: GPUDevice, encoder: GPUCommandEncoder, launches: readonly TracedLaunch[]): () => Promise<GpuTime[]> {
  const label = 'trace';
  const numQueries = 2 * launches.length;
  const sets: GPUQuerySet[] = [];
  for (let first = 0; first < numQueries; first += setSize)
    sets.push(device.createQuerySet({ label, type: 'timestamp', count: Math.min(setSize, numQueries - first) }));
  launches.forEach(({ replay, kernel }, i) => {
    const querySet = sets[Math.floor((2 * i) / setSize)];
    const query = (2 * i) % setSize;
    const timestampWrites = { querySet, beginningOfPassWriteIndex: query, endOfPassWriteIndex: query + 1 };
    const pass = encoder.beginComputePass({ label: kernel, timestampWrites });
    replay(pass);
    pass.end();
  });
  const size = Math.max(16, numQueries * 8);
  const resolved = device.createBuffer({ label, size, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ label, size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  sets.forEach((set, i) => {
    encoder.resolveQuerySet(set, 0, set.count, resolved, i * setSize * 8);
  });
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
  return async () => {
    try {
      await staging.mapAsync(GPUMapMode.READ);
      const nanoseconds = new BigUint64Array(staging.getMappedRange());
      return launches.map((_, i) => ({ begin: nanoseconds[2 * i], end: nanoseconds[2 * i + 1] }));
    } finally {
      staging.destroy();
      resolved.destroy();
      for (const set of sets) set.destroy();
    }
  };
}
