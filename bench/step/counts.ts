/** What steps ask of a device, counted by wrapping its methods: exact, and no part of what is timed. */
export interface DeviceCounts {
  /** Calls of `queue.writeBuffer`. */
  writes: number;
  bytesWritten: number;
  /** Buffers, bind groups, layouts, shader modules, pipelines and query sets; command encoders and passes are part of any step. */
  objects: number;
}

const creators = [
  'createBuffer',
  'createBindGroup',
  'createBindGroupLayout',
  'createPipelineLayout',
  'createShaderModule',
  'createComputePipeline',
  'createComputePipelineAsync',
  'createQuerySet',
] as const;

type Method = (...args: unknown[]) => unknown;

/** Counts while `work` runs; nobody else may use the device then. */
export async function countOn(device: GPUDevice, work: () => Promise<void>): Promise<DeviceCounts> {
  const counts: DeviceCounts = { writes: 0, bytesWritten: 0, objects: 0 };
  const restore = creators.map((name) =>
    before(device, name, () => {
      counts.objects++;
    }),
  );
  restore.push(
    before(device.queue, 'writeBuffer', (_buffer, _offset, data, _dataOffset, size) => {
      const { byteLength, BYTES_PER_ELEMENT: elementBytes = 1 } = data as { byteLength: number; BYTES_PER_ELEMENT?: number };
      counts.writes++;
      counts.bytesWritten += size === undefined ? byteLength : (size as number) * elementBytes;
    }),
  );
  try {
    await work();
  } finally {
    for (const undo of restore) undo();
  }
  return counts;
}

/** Calls `look` before each call of a method of this one object. @returns what undoes it */
function before(target: object, name: string, look: (...args: unknown[]) => void): () => void {
  const original = Reflect.get(target, name) as Method;
  const value: Method = (...args) => {
    look(...args);
    return original.apply(target, args);
  };
  Object.defineProperty(target, name, { configurable: true, value });
  return () => void Reflect.deleteProperty(target, name);
}
