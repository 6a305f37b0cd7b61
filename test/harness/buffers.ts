import type { Gpu } from '../../src/gpu.ts';
import type { SpecContext } from './spec.ts';

const storage = () => GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;

/** A storage buffer holding `data`, destroyed after the spec. Its size is rounded up to a multiple of 4 bytes. */
export function uploadBuffer(t: SpecContext, data: ArrayBufferView<ArrayBuffer>, usage = storage(), gpu = t.gpu): GPUBuffer {
  const buffer = emptyBuffer(t, data.byteLength, usage, gpu);
  const padded = new Uint8Array(buffer.size);
  padded.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  gpu.device.queue.writeBuffer(buffer, 0, padded);
  return buffer;
}

/** A zeroed storage buffer of `bytes`, destroyed after the spec. */
export function emptyBuffer(t: SpecContext, bytes: number, usage = storage(), gpu = t.gpu): GPUBuffer {
  const buffer = gpu.device.createBuffer({ label: 'spec', size: Math.max(4, Math.ceil(bytes / 4) * 4), usage });
  t.defer(() => buffer.destroy());
  return buffer;
}

/** Copies a buffer (made with COPY_SRC), or `size` bytes of it, back to the host. */
export async function readBuffer(gpu: Gpu, buffer: GPUBuffer, offset = 0, size = buffer.size - offset): Promise<ArrayBuffer> {
  const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
  const staging = gpu.device.createBuffer({ label: 'spec readback', size, usage });
  const encoder = gpu.device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, offset, staging, 0, size);
  gpu.device.queue.submit([encoder.finish()]);
  try {
    await staging.mapAsync(GPUMapMode.READ);
    return staging.getMappedRange().slice(0);
  } finally {
    staging.destroy();
  }
}

/** As `readBuffer`, as 32-bit floats. */
export async function readFloats(gpu: Gpu, buffer: GPUBuffer, offset?: number, size?: number): Promise<Float32Array<ArrayBuffer>> {
  return new Float32Array(await readBuffer(gpu, buffer, offset, size));
}
