/** Times passes by the GPU's own clock where there is one, else by the host's. */
import type { Gpu } from 'pagewise';

export interface PassTimer {
  /** Records, submits and awaits one pass. @returns milliseconds */
  time(record: (pass: GPUComputePassEncoder) => void, submit: (commands: GPUCommandBuffer) => void): Promise<number>;
  destroy(): void;
}

/** The note to print beside the times. */
export function timerNote({ features }: Gpu): string {
  return features.timestampQuery
    ? "Times are the GPU's own, by timestamps at either end of a pass."
    : 'Times are wall-clock times until the GPU was done.';
}

export function passTimer({ device, features }: Gpu): PassTimer {
  if (!features.timestampQuery) {
    return {
      async time(record, submit) {
        const encoder = device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        record(pass);
        pass.end();
        const commands = encoder.finish();
        const start = performance.now();
        submit(commands);
        await device.queue.onSubmittedWorkDone();
        return performance.now() - start;
      },
      destroy: () => {},
    };
  }
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 });
  const resolved = device.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  return {
    async time(record, submit) {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass({ timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } });
      record(pass);
      pass.end();
      encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16);
      submit(encoder.finish());
      await staging.mapAsync(GPUMapMode.READ);
      const [begin, end] = new BigUint64Array(staging.getMappedRange());
      staging.unmap();
      return Number(end - begin) / 1e6;
    },
    destroy() {
      querySet.destroy();
      resolved.destroy();
      staging.destroy();
    },
  };
}

/** Milliseconds of work after which a GPU that was idle, while the host checked results, runs at its full clock again. */
const rampUp = 150;

/** Medians are of what comes after this: runs `sample` until the GPU is at its full clock, then so many times more. @returns the times of these */
export async function sampleWarm(rounds: number, software: boolean, sample: () => Promise<number>): Promise<number[]> {
  const start = performance.now();
  do await sample();
  while (!software && performance.now() - start < rampUp);
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) times.push(await sample());
  return times;
}
