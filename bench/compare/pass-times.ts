/** The GPU's own time for launches that somebody else records: every compute pass that is made on a device gets timestamps. */

const maxPasses = 2048;

export interface PassTimes {
  /** Milliseconds that the GPU was inside the passes made since the last call; those that overlap count once. Await the work itself first. */
  take(): Promise<number>;
  /** Gives the device its own methods back. */
  destroy(): void;
}

/** The device must have timestamp-query. While it is watched, nobody else may give its passes timestamps. */
export function watchPasses(device: GPUDevice): PassTimes {
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 * maxPasses });
  const size = maxPasses * 16;
  const resolved = device.createBuffer({ size, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const createEncoder = device.createCommandEncoder.bind(device);
  let passes = 0;
  device.createCommandEncoder = (descriptor) => {
    const encoder = createEncoder(descriptor);
    const beginPass = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (pass) => {
      if (passes === maxPasses) throw new Error(`more than ${maxPasses} passes were made.`);
      const at = 2 * passes++;
      return beginPass({ ...pass, timestampWrites: { querySet, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 } });
    };
    return encoder;
  };
  return {
    async take() {
      const count = passes;
      passes = 0;
      if (count === 0) return 0;
      const encoder = createEncoder();
      encoder.resolveQuerySet(querySet, 0, 2 * count, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16 * count);
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      const times = BigInt64Array.from(new BigInt64Array(staging.getMappedRange(0, 16 * count)));
      staging.unmap();
      return Number(union(times)) / 1e6;
    },
    destroy() {
      Reflect.deleteProperty(device, 'createCommandEncoder');
      querySet.destroy();
      resolved.destroy();
      staging.destroy();
    },
  };
}

/** Length of the union of intervals [begin, end, begin, end, ...] that begin in order. */
function union(times: BigInt64Array): bigint {
  let covered = 0n;
  let until = times[0];
  for (let i = 0; i < times.length; i += 2) {
    const [begin, end] = [times[i] > until ? times[i] : until, times[i + 1]];
    if (end <= begin) continue;
    covered += end - begin;
    until = end;
  }
  return covered;
}
