import type { Gpu } from '../gpu.ts';

/** What a step sampled for one sequence. */
export interface SampledToken {
  readonly token: number;
  /** A stop token has come, now or before. */
  readonly finished: boolean;
}

const bytesPerSequence = 8;

/**
 * A ring of staging buffers, made once, through which sampled tokens come back. Several can be on their way at once: waits overlap,
 * which is what running ahead lives on.
 */
export class ReadbackRing {
  readonly #idle: GPUBuffer[];
  readonly #all: readonly GPUBuffer[];

  /** @param depth readbacks that can be on their way at once. */
  constructor(gpu: Gpu, depth: number) {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    this.#all = Array.from({ length: depth }, () => gpu.device.createBuffer({ label: 'readback', size: bytesPerSequence, usage }));
    this.#idle = [...this.#all];
  }

  /**
   * Records the copy of one sequence's row of `sampled`. Call the returned function after the submit; it resolves once the GPU is done.
   */
  record(encoder: GPUCommandEncoder, sampled: GPUBuffer, row: number): () => Promise<SampledToken> {
    const buffer = this.#idle.pop();
    if (!buffer) throw new RangeError('More readbacks in flight than the ring holds.');
    encoder.copyBufferToBuffer(sampled, row * bytesPerSequence, buffer, 0, bytesPerSequence);
    return async () => {
      await buffer.mapAsync(GPUMapMode.READ);
      const [token, finished] = new Uint32Array(buffer.getMappedRange());
      buffer.unmap();
      this.#idle.push(buffer);
      return { token, finished: finished !== 0 };
    };
  }

  destroy(): void {
    for (const buffer of this.#all) buffer.destroy();
  }
}
