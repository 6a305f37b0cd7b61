import { type Gpu, KvCache, LaunchCache, type LaunchCacheMode, type Sequence } from 'pagewise';
import { LlamaModel } from '../../src/engine/model.ts';
import { maxRunAhead } from '../../src/engine/options.ts';
import { ReadbackRing, type SampledToken } from '../../src/engine/readback.ts';
import { stepsPerRead } from '../../src/engine/run-ahead.ts';
import { median } from '../report.ts';
import type { BenchModel } from './models.ts';

/** What is run over and over: steps of so many sequences with so many new tokens each. */
export interface Regime {
  readonly name: string;
  readonly model: BenchModel;
  readonly batch: number;
  /** New tokens of a sequence in a step: 1 decodes, more are prompts. */
  readonly queryLen: number;
  readonly steps: number;
}

/** Figures of a run. */
export interface LoopRun {
  /** Milliseconds of all of it, per step. */
  readonly stepTime: number;
  /** Milliseconds of planning, recording and submitting a step: the median. */
  readonly hostTime: number;
  /** The same without the submit, in which a software adapter may do the GPU's work. */
  readonly recordTime: number;
  /** Sampled for the first sequence, step by step. */
  readonly tokens: readonly number[];
}

const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };

/** A decode loop, on the model's own step and without an engine: what is scheduled is the same in each round. */
export class StepLoop {
  readonly #gpu: Gpu;
  readonly #regime: Regime;
  readonly #kv: KvCache;
  readonly #cache: LaunchCache;
  readonly #model: LlamaModel;
  readonly #ring: ReadbackRing;

  static async open(gpu: Gpu, regime: Regime, mode: LaunchCacheMode): Promise<StepLoop> {
    const { batch, queryLen, steps, model } = regime;
    const { numLayers, numKvHeads, headDim } = model.config;
    const maxBlocksPerSequence = Math.ceil((queryLen === 1 ? steps : queryLen) / 16) + 1;
    const kv = new KvCache(gpu, {
      ...{ numLayers, numKvHeads, headDim, blockSize: 16, dtype: 'f32' },
      ...{ numBlocks: batch * maxBlocksPerSequence + 1, maxSequences: batch, maxBlocksPerSequence },
    });
    const cache = await LaunchCache.open(gpu, { mode });
    const options = { maxTokensPerStep: batch * queryLen, maxLogitRows: batch };
    const llama = await LlamaModel.create(cache, kv, model.config, model.weights, options);
    return new StepLoop(gpu, regime, kv, cache, llama);
  }

  private constructor(gpu: Gpu, regime: Regime, kv: KvCache, cache: LaunchCache, model: LlamaModel) {
    this.#gpu = gpu;
    this.#regime = regime;
    this.#kv = kv;
    this.#cache = cache;
    this.#model = model;
    this.#ring = new ReadbackRing(gpu, maxRunAhead, regime.batch);
  }

  /**
   * Runs steps from empty sequences on.
   * @param depth steps in flight; with 1, each waits for the one before, so that no backlog of the GPU's counts as host time
   */
  async run(steps = this.#regime.steps, depth = maxRunAhead): Promise<LoopRun> {
    const { batch, queryLen } = this.#regime;
    let sequences: Sequence[] = [];
    const tokens: number[] = [];
    const inFlight: Promise<readonly SampledToken[]>[] = [];
    const hostTimes: number[] = [];
    const recordTimes: number[] = [];
    this.#ring.atOnce = stepsPerRead(depth);
    const start = performance.now();
    for (let step = 0; step < steps; step++) {
      if (inFlight.length === depth) tokens.push((await (inFlight.shift() as Promise<readonly SampledToken[]>))[0].token);
      const begin = performance.now();
      if (queryLen > 1) for (const sequence of sequences.splice(0)) this.#kv.close(sequence);
      if (sequences.length === 0) sequences = Array.from({ length: batch }, () => this.#kv.open());
      const { commands, read } = this.#record(sequences);
      recordTimes.push(performance.now() - begin);
      this.#cache.submit([commands]);
      hostTimes.push(performance.now() - begin);
      inFlight.push(read());
    }
    this.#ring.flush();
    for (const step of inFlight) tokens.push((await step)[0].token);
    const time = performance.now() - start;
    for (const sequence of sequences) this.#kv.close(sequence);
    return { stepTime: time / steps, hostTime: median(hostTimes), recordTime: median(recordTimes), tokens };
  }

  #record(sequences: readonly Sequence[]): { commands: GPUCommandBuffer; read: () => Promise<readonly SampledToken[]> } {
    const { queryLen, model } = this.#regime;
    const entries = sequences.map((sequence, row) => {
      const first = sequence.length === 0;
      this.#kv.extend(sequence, queryLen);
      const given = Array.from({ length: queryLen }, (_, i) => (17 * i + 31 * row + 5) % model.config.vocabSize);
      return { sequence, queryLen, tokens: first ? given : undefined, sample: greedy, first };
    });
    this.#model.plan(entries);
    const encoder = this.#gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.#model.record(pass);
    pass.end();
    const read = this.#ring.record(encoder, this.#model.results);
    return { commands: encoder.finish(), read };
  }

  destroy(): void {
    this.#ring.destroy();
    this.#model.destroy();
    this.#cache.destroy();
    this.#kv.destroy();
  }
}
