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
  readonly #gpu: Gpu;
  readonly #idle: GPUBuffer[];
  readonly #all: readonly GPUBuffer[];

  /** @param depth readbacks that can be on their way at once. */
  constructor(gpu: Gpu, depth: number) {
    this.#gpu = gpu;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    this.#all = Array.from({ length: depth }, () => gpu.device.createBuffer({ label: 'readback', size: bytesPerSequence, usage }));
    this.#idle = [...this.#all];
  }

  /**
   * Records the copy of one sequence's row of `sampled`. Call the returned function after the submit; it resolves once the GPU is done.
   * @throws {DeviceLostError} from the returned function when the device is lost.
   */
  record(encoder: GPUCommandEncoder, sampled: GPUBuffer, row: number): () => Promise<SampledToken> {
    const buffer = this.#idle.pop();
    if (!buffer) throw new RangeError('More readbacks in flight than the ring holds.');
    encoder.copyBufferToBuffer(sampled, row * bytesPerSequence, buffer, 0, bytesPerSequence);
    return async () => {
      try {
        await buffer.mapAsync(GPUMapMode.READ);
      } catch (error) {
        throw this.#gpu.loss ?? (await lossOr(this.#gpu, error));
      }
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

/** A failed map is mostly the first sign of a lost device, whose own promise settles a moment later. */
async function lossOr(gpu: Gpu, error: unknown): Promise<unknown> {
  return Promise.race([gpu.lost, new Promise((resolve) => setTimeout(resolve, 1000, error))]);
}
