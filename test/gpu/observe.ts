/** Counts what is asked of a device while a spec runs, by wrapping its own methods. */
import type { Gpu } from '../../src/index.ts';
import type { SpecContext } from '../harness/harness.ts';
import { type Method, wrap } from '../harness/wrap.ts';

export interface ObjectCounts {
  /** Calls of `create...` methods by name; encoders and passes are exempt. */
  readonly created: Record<string, number>;
  readonly writes: number;
  readonly writtenBytes: number;
  readonly submits: number;
  /** Bytes mapped for reading. */
  readonly readBytes: number;
  /** Buffers created and not destroyed since. */
  liveBuffers(): number;
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
];

/** Counts from now on, until the spec ends. */
export function countObjects(t: SpecContext, gpu: Gpu): ObjectCounts {
  const counts = { created: {} as Record<string, number>, writes: 0, writtenBytes: 0, submits: 0, readBytes: 0 };
  const live = new Set<object>();
  const watch = (target: object, name: string, replacement: (original: Method) => Method) => t.defer(wrap(target, name, replacement));
  for (const name of creators) {
    watch(gpu.device, name, (original) => (...args) => {
      counts.created[name] = (counts.created[name] ?? 0) + 1;
      const made = original(...args);
      if (name === 'createBuffer') {
        const buffer = made as GPUBuffer;
        live.add(buffer);
        wrap(buffer, 'destroy', (destroy) => () => {
          live.delete(buffer);
          return destroy();
        });
      }
      return made;
    });
  }
  watch(gpu.device.queue, 'writeBuffer', (original) => (...args) => {
    const [, , data, , size] = args as [GPUBuffer, number, ArrayBufferView, number?, number?];
    const elementBytes = 'BYTES_PER_ELEMENT' in data ? (data.BYTES_PER_ELEMENT as number) : 1;
    counts.writes++;
    counts.writtenBytes += size === undefined ? data.byteLength : size * elementBytes;
    return original(...args);
  });
  watch(gpu.device.queue, 'submit', (original) => (...args) => {
    counts.submits++;
    return original(...args);
  });
  const { prototype } = GPUBuffer;
  const { mapAsync } = prototype;
  prototype.mapAsync = function (this: GPUBuffer, mode, offset = 0, size = this.size - offset) {
    counts.readBytes += size;
    return mapAsync.call(this, mode, offset, size);
  };
  t.defer(() => {
    prototype.mapAsync = mapAsync;
  });
  return Object.assign(readers(counts), { liveBuffers: () => live.size });
}

/** Getters, so that a caller sees the counts of the moment. */
function readers<T extends object>(counts: T): T {
  const view = {} as T;
  for (const name of Object.keys(counts)) Object.defineProperty(view, name, { enumerable: true, get: () => Reflect.get(counts, name) });
  return view;
}

/** Readbacks since the counts were last set to 0. */
export interface ReadbackCounts {
  all: number;
  /** Those that began while another one was on its way. */
  overlapping: number;
  /** Most that were on their way at once. */
  most: number;
}

/** Delays every readback from now on, and counts them; the rest of the host goes on meanwhile. */
export function delayReadbacks(t: SpecContext, milliseconds: number): ReadbackCounts {
  const { prototype } = GPUBuffer;
  const { mapAsync } = prototype;
  const counts = { all: 0, overlapping: 0, most: 0 };
  let pending = 0;
  prototype.mapAsync = async function (this: GPUBuffer, ...args) {
    counts.all++;
    if (pending > 0) counts.overlapping++;
    counts.most = Math.max(counts.most, ++pending);
    await mapAsync.apply(this, args);
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    pending--;
    return undefined;
  };
  t.defer(() => {
    prototype.mapAsync = mapAsync;
  });
  return counts;
}
