/** Times passes by the GPU's own clock where there is one, else by the host's. */
import type { Gpu } from '../gpu.ts';

export interface PassTimer {
  /** Records, submits and awaits one pass. @returns milliseconds; by the host's clock with the wait for the GPU, which is 11 ms in Deno */
  time(record: (pass: GPUComputePassEncoder) => void, submit: (commands: GPUCommandBuffer) => void): Promise<number>;
  destroy(): void;
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
