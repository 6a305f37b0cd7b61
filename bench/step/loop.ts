import { type Gpu, KvCache, LaunchCache, type Sequence } from 'pagewise';
import { LlamaModel } from '../../src/engine/model.ts';
import { ReadbackRing } from '../../src/engine/readback.ts';
import type { BenchModel } from '../generate/models.ts';
import { median } from '../report.ts';
import { countOn } from './counts.ts';

/** So many sequences, each with so many tokens in the cache, to each of which a step adds one. */
export interface StepCase {
  readonly batch: number;
  readonly context: number;
}

/** Milliseconds of a step on the host: the medians of a run; on software adapters, whose threads and the host's compete, the fastest. */
export interface StepTimes {
  /** Planning, recording and submitting. */
  readonly host: number;
  /** Planning and recording. */
  readonly record: number;
  /** Reserving slots, planning, and the plan's write. */
  readonly plan: number;
}

/** What a step asks of the device: means of a run, since a sequence needs a block in one step of sixteen only. */
export interface StepCounts {
  readonly launches: number;
  readonly writes: number;
  readonly bytesWritten: number;
  readonly objects: number;
}

const blockSize = 16;
const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };

/** Decode steps of changing batches on one model, one KV cache and one launch cache, as in a server. Nothing is in flight when one is timed. */
export class DecodeSteps {
  readonly #gpu: Gpu;
  readonly #steps: number;
  readonly #kv: KvCache;
  readonly #cache: LaunchCache;
  readonly #model: LlamaModel;
  readonly #ring: ReadbackRing;

  /** @param steps of a run, whatever its case; with a multiple of 16 each run needs the same blocks */
  static async open(gpu: Gpu, { config, weights }: BenchModel, cases: readonly StepCase[], steps: number): Promise<DecodeSteps> {
    const { numLayers, numKvHeads, headDim } = config;
    const blocksOf = (context: number) => Math.ceil((context + 1 + steps) / blockSize);
    const maxSequences = Math.max(...cases.map(({ batch }) => batch));
    const kv = new KvCache(gpu, {
      ...{ numLayers, numKvHeads, headDim, blockSize, dtype: 'f16', maxSequences },
      numBlocks: 1 + Math.max(...cases.map(({ batch, context }) => batch * blocksOf(context))),
      maxBlocksPerSequence: Math.max(...cases.map(({ context }) => blocksOf(context))),
    });
    const cache = await LaunchCache.open(gpu);
    const options = { maxTokensPerStep: maxSequences, maxLogitRows: maxSequences };
    const model = await LlamaModel.create(cache, kv, config, weights, options);
    cache.freeze('throw');
    return new DecodeSteps(gpu, steps, kv, cache, model);
  }

  private constructor(gpu: Gpu, steps: number, kv: KvCache, cache: LaunchCache, model: LlamaModel) {
    this.#gpu = gpu;
    this.#steps = steps;
    this.#kv = kv;
    this.#cache = cache;
    this.#model = model;
    this.#ring = new ReadbackRing(gpu, 1, kv.options.maxSequences);
  }

  async time(one: StepCase): Promise<StepTimes> {
    const times: { readonly [Name in keyof StepTimes]: number[] } = { host: [], record: [], plan: [] };
    await this.#withSequences(one, async (sequences) => {
      for (let step = 0; step < this.#steps; step++) {
        const begin = performance.now();
        this.#plan(sequences);
        times.plan.push(performance.now() - begin);
        const { commands, read } = this.#record();
        times.record.push(performance.now() - begin);
        this.#cache.submit([commands]);
        times.host.push(performance.now() - begin);
        await read();
      }
    });
    const typical = this.#gpu.adapter.software ? (samples: readonly number[]) => Math.min(...samples) : median;
    return { host: typical(times.host), record: typical(times.record), plan: typical(times.plan) };
  }

  async count(one: StepCase): Promise<StepCounts> {
    const steps = this.#steps;
    let launches = 0;
    let counted = { writes: 0, bytesWritten: 0, objects: 0 };
    await this.#withSequences(one, async (sequences) => {
      const before = this.#cache.stats().launches;
      counted = await countOn(this.#gpu.device, async () => {
        for (let step = 0; step < steps; step++) await this.#step(sequences);
      });
      launches = this.#cache.stats().launches - before;
    });
    const { writes, bytesWritten, objects } = counted;
    return { launches: launches / steps, writes: writes / steps, bytesWritten: bytesWritten / steps, objects: objects / steps };
  }

  /** Opens the case's sequences, with zeros for keys and values, and makes the step that tells the GPU their blocks. */
  async #withSequences({ batch, context }: StepCase, work: (sequences: readonly Sequence[]) => Promise<void>): Promise<void> {
    const sequences = Array.from({ length: batch }, () => this.#kv.open());
    for (const sequence of sequences) this.#kv.extend(sequence, context);
    await this.#step(sequences, true);
    await work(sequences);
    for (const sequence of sequences) this.#kv.close(sequence);
  }

  async #step(sequences: readonly Sequence[], first = false): Promise<void> {
    this.#plan(sequences, first);
    const { commands, read } = this.#record();
    this.#cache.submit([commands]);
    await read();
  }

  #plan(sequences: readonly Sequence[], first = false): void {
    const entries = sequences.map((sequence) => {
      this.#kv.extend(sequence, 1);
      return { sequence, queryLen: 1, tokens: first ? [5] : undefined, sample: greedy, first };
    });
    this.#model.plan(entries);
  }

  #record() {
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
