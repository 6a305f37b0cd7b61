import type { Gpu } from '../gpu.ts';
import { plainResultWords, resultWordsFor } from './sampling-plan.ts';

/** A token and the natural logarithm of its probability. */
export interface LikelyToken {
  readonly token: number;
  readonly logprob: number;
}

/** What a step sampled for one row of logits. */
export interface SampledToken {
  readonly token: number;
  /** This is a stop token; in the last row of its sequence also: one has come before. */
  readonly finished: boolean;
  /** Of the model's distribution; where the row asked for it. */
  readonly logprob?: number;
  /** The likeliest tokens, as many as the row asked for, the likeliest first. */
  readonly top?: readonly LikelyToken[];
}

/** Where the results of a step will be. */
export interface StepResults {
  readonly buffer: GPUBuffer;
  /** Of a row. */
  readonly words: number;
  /** For each row what `SamplingParameters.logprobs` was. */
  readonly logprobs: readonly (number | undefined)[];
}

/** Results that were asked for. */
interface Reading {
  readonly staging: GPUBuffer;
  readonly size: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A ring of staging buffers, made once, through which the results of steps come back: one copy a step, whatever the number of rows. Several can be
 * on their way at once: waits overlap, which is what running ahead lives on.
 */
export class ReadbackRing {
  readonly #idle: GPUBuffer[];
  readonly #all: readonly GPUBuffer[];
  /** Not mapped yet. There are none while nothing is on its way, so that all get their turn. */
  readonly #waiting: Reading[] = [];
  #onTheirWay = 0;
  /**
   * How many results are mapped together. Those of a step whose predecessors are all back are mapped at once, others when there are so many, or when
   * what is on its way has come.
   */
  atOnce = 1;

  /**
   * @param depth readbacks that can be on their way at once.
   * @param maxRows rows of a step. @param maxLogprobs likeliest tokens of a row; both as those of the model.
   */
  constructor(gpu: Gpu, depth: number, maxRows: number, maxLogprobs = 0) {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const size = maxRows * resultWordsFor(maxLogprobs) * 4;
    this.#all = Array.from({ length: depth }, () => gpu.device.createBuffer({ label: 'readback', size, usage }));
    this.#idle = [...this.#all];
  }

  /**
   * Records the copy of a step's results (`LlamaModel.results`). Call the returned function after the submit; it resolves once the GPU is done, to
   * the rows in the order of the plan. A step without rows resolves at once.
   *
   * @throws {RangeError} when all staging buffers are on their way.
   */
  record(encoder: GPUCommandEncoder, { buffer, words, logprobs }: StepResults): () => Promise<readonly SampledToken[]> {
    if (logprobs.length === 0) return async () => [];
    const staging = this.#idle.pop();
    if (!staging) throw new RangeError('More readbacks in flight than the ring holds.');
    const size = logprobs.length * words * 4;
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
    return async () => {
      await this.#map(staging, size);
      const mapped = staging.getMappedRange(0, size);
      const [u32, f32] = [new Uint32Array(mapped), new Float32Array(mapped)];
      const rows = logprobs.map((asked, row) => readRow(u32, f32, row * words, asked));
      staging.unmap();
      this.#idle.push(staging);
      return rows;
    };
  }

  /** Maps what waits for others to be mapped with. */
  flush(): void {
    for (const { staging, size, resolve, reject } of this.#waiting.splice(0)) {
      this.#onTheirWay++;
      staging
        .mapAsync(GPUMapMode.READ, 0, size)
        .then(resolve, reject)
        .finally(() => {
          this.#onTheirWay--;
          if (this.#onTheirWay === 0) this.flush();
        });
    }
  }

  destroy(): void {
    for (const { reject } of this.#waiting.splice(0)) reject(new Error('The readback was given up.'));
    for (const buffer of this.#all) buffer.destroy();
  }

  #map(staging: GPUBuffer, size: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ staging, size, resolve, reject });
      if (this.#waiting.length >= this.atOnce || this.#onTheirWay === 0) this.flush();
    });
  }
}

function readRow(u32: Uint32Array, f32: Float32Array, at: number, asked: number | undefined): SampledToken {
  const sampled = { token: u32[at], finished: u32[at + 1] !== 0 };
  if (asked === undefined) return sampled;
  const first = at + plainResultWords + 1;
  const top = Array.from({ length: asked }, (_, i) => ({ token: u32[first + 2 * i], logprob: f32[first + 2 * i + 1] }));
  return { ...sampled, logprob: f32[at + plainResultWords], top };
}
