import type { KvCache } from '../attention/kv-cache.ts';
import { causeOf, type Gpu } from '../gpu.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { Tracer } from '../launch/trace.ts';
import type { Choice } from './choice.ts';
import type { RunningGeneration } from './generation.ts';
import type { LlamaModel, StepEntry } from './model.ts';
import type { PrefixCache } from './prefix-cache.ts';
import type { ReadbackRing, SampledToken } from './readback.ts';
import { outputLength, type Request } from './request.ts';
import { stepsPerRead } from './run-ahead.ts';
import { usesPenalties } from './sampling.ts';
import type { ScheduledStep, ScheduledTokens } from './schedule.ts';
import type { Scheduler } from './scheduler.ts';

/**
 * Milliseconds of submitting after which other work gets a turn. Where a software adapter holds a submit or a `mapAsync` up until the step
 * before is done, the tokens of a whole bunch of steps would else arrive together. It must be a timer's turn: readbacks in Deno arrive by
 * its timers, which a message's turn does not run.
 */
const longestTurn = 8;

/** What the loop works with. Owned by the engine. */
export interface LoopParts {
  readonly gpu: Gpu;
  readonly kv: KvCache;
  readonly cache: LaunchCache;
  readonly model: LlamaModel;
  readonly ring: ReadbackRing;
  readonly scheduler: Scheduler;
  readonly prefixes: PrefixCache | undefined;
}

/** A submitted step. `rows` are there once its results have arrived, `error` if they never will. */
interface StepInFlight {
  readonly step: ScheduledStep;
  rows?: readonly SampledToken[];
  error?: { readonly cause: unknown };
  /** Nobody waits for its results any more. */
  abandoned?: true;
}

interface Owner {
  readonly generation: RunningGeneration;
  readonly choice: Choice;
}

/**
 * The engine's only loop: schedules a step, plans, records and submits it, up to a depth before the first one's results are back; takes results in, in their order; and
 * lets other work (`exclusively`) have its turn between steps. It sleeps when there is nothing to do.
 */
export class StepLoop {
  readonly #parts: LoopParts;
  readonly #owners = new Map<Request, Owner>();
  readonly #inFlight: StepInFlight[] = [];
  readonly #jobs: (() => Promise<void>)[] = [];
  /** Wakes the loop, which else has `#notified` to see. */
  #wake: (() => void) | undefined;
  #notified = false;
  #looping = false;
  #steps = 0;
  #hostTime = 0;
  #generatedTokens = 0;
  #draftedTokens = 0;
  #acceptedTokens = 0;
  /** Collects where time goes, from when it is set. */
  tracer: Tracer | undefined;

  constructor(parts: LoopParts) {
    this.#parts = parts;
  }

  /** Requests that have not ended. */
  get size(): number {
    return this.#owners.size;
  }

  get counts() {
    return {
      ...{ steps: this.#steps, hostTime: this.#hostTime, generatedTokens: this.#generatedTokens },
      ...{ draftedTokens: this.#draftedTokens, acceptedTokens: this.#acceptedTokens },
    };
  }

  add(generation: RunningGeneration): void {
    for (const choice of generation.choices) {
      this.#owners.set(choice.request, { generation, choice });
      this.#parts.scheduler.add(choice.request);
    }
    this.notify();
  }

  /** Takes a generation's requests out, at once. */
  remove(generation: RunningGeneration): void {
    for (const { request } of generation.choices) {
      this.#parts.scheduler.finish(request);
      this.#owners.delete(request);
    }
    this.notify();
  }

  /** Runs work that plans, records and submits steps of its own, between those of generations. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = new Promise<T>((resolve, reject) => {
      this.#jobs.push(async () => {
        try {
          resolve(await work());
        } catch (error) {
          reject(await causeOf(this.#parts.gpu, error));
        }
      });
    });
    this.notify();
    return done;
  }

  /** Says that something has changed that the loop may wait for. */
  notify(): void {
    this.#notified = true;
    this.#wake?.();
    if (this.#looping) return;
    this.#looping = true;
    // In a later turn, so that requests made in one go share their first step.
    void Promise.resolve().then(() => this.#loop());
  }

  /** Takes all generations out, and rejects them. */
  async fail(error: unknown): Promise<void> {
    const generations = new Set([...this.#owners.values()].map(({ generation }) => generation));
    for (const generation of generations) this.remove(generation);
    for (const step of this.#inFlight) step.abandoned = true; // still in flight: their staging buffers are not free yet
    // What was scheduled last may not have been submitted: copies are not to be made any more, and no block holds for sure what it should.
    this.#parts.kv.takeBlockCopies();
    this.#parts.prefixes?.clear();
    const cause = await causeOf(this.#parts.gpu, error);
    for (const generation of generations) generation.fail(cause);
  }

  /** Records the planned step into an encoder. */
  record(): GPUCommandEncoder {
    const { gpu, model } = this.#parts;
    if (this.tracer) return this.tracer.record((pass) => model.record(pass));
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    model.record(pass);
    pass.end();
    return encoder;
  }

  async #loop(): Promise<void> {
    while (this.#owners.size > 0 || this.#jobs.length > 0 || this.#inFlight.length > 0) {
      this.#notified = false;
      try {
        const job = this.#jobs.shift();
        if (job) await job();
        else {
          await this.#submitAhead();
          await this.#takeResults();
        }
      } catch (error) {
        await this.fail(error);
      }
    }
    this.#looping = false;
  }

  /** Submits steps until as many are in flight as may be, or there is nothing to compute. */
  async #submitAhead(): Promise<void> {
    const { ring } = this.#parts;
    let turnBegan = performance.now();
    ring.atOnce = stepsPerRead(this.#depth());
    while (this.#jobs.length === 0 && this.#inFlight.length < this.#depth()) {
      this.#consult();
      if (!this.#submit()) return ring.flush(); // no step comes that others could wait for
      if (performance.now() - turnBegan > longestTurn) {
        await new Promise((resolve) => setTimeout(resolve));
        turnBegan = performance.now();
      }
    }
  }

  /** Takes in the results of the oldest step, or sleeps until there is something else to do. */
  async #takeResults(): Promise<void> {
    const [oldest] = this.#inFlight;
    const waiting = oldest && this.tracer?.begin('wait');
    const isHere = () => oldest !== undefined && (oldest.rows ?? oldest.error) !== undefined;
    if (!isHere() && !this.#notified) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    waiting?.end();
    if (!isHere()) return;
    this.#inFlight.shift();
    if (oldest.abandoned) return;
    if (oldest.error) throw oldest.error.cause;
    this.#accept(oldest.step, oldest.rows ?? []);
  }

  #depth(): number {
    let depth = 1;
    for (const { generation } of this.#owners.values()) depth = Math.max(depth, generation.runAhead);
    return depth;
  }

  /** Asks readers and hooks what may be scheduled. */
  #consult(): void {
    for (const { generation, choice } of [...this.#owners.values()]) {
      if (generation.ended) continue; // by the hook of another sample
      choice.request.paused = generation.isBehind;
      try {
        if (!choice.request.paused) choice.consult((parameters) => this.#parts.model.checkSampling(parameters));
      } catch (error) {
        this.remove(generation);
        generation.fail(error);
      }
    }
  }

  /** Schedules and submits one step. @returns whether there was anything to compute. */
  #submit(): boolean {
    if (this.#owners.size === 0) return false;
    const began = performance.now();
    const step = this.#parts.scheduler.schedule();
    if (step.entries.length > 0) this.#submitStep(step, began);
    // Now, since other samples of the same prompt may be in the step.
    for (const { request, error } of step.failed) this.#failOne(request, error);
    return step.entries.length + step.failed.length > 0;
  }

  #submitStep(step: ScheduledStep, began: number): void {
    const { cache, model, ring } = this.#parts;
    const isDecode = step.entries.every(isDecodeOf);
    const span = this.tracer?.begin(isDecode ? 'decode' : 'prefill');
    const launches = cache.counts.launches;
    const inFlight: StepInFlight = { step };
    try {
      const planning = this.tracer?.begin('plan');
      model.plan(step.entries.map((entry) => this.#entryOf(entry)));
      planning?.end();
      const encoder = this.record();
      const submitting = this.tracer?.begin('submit');
      const read = ring.record(encoder, model.results);
      cache.submit([encoder.finish()]);
      submitting?.end();
      const reading = this.tracer?.begin('read');
      this.#inFlight.push(inFlight);
      void read()
        .then(
          (rows) => {
            inFlight.rows = rows;
          },
          (cause) => {
            inFlight.error = { cause };
          },
        )
        .then(() => this.notify());
      reading?.end();
      this.tracer?.submitted();
    } finally {
      span?.end();
    }
    const hostTime = performance.now() - began;
    this.#steps++;
    this.#hostTime += hostTime;
    for (const entry of step.entries) {
      const generation = this.#owners.get(entry.request)?.generation;
      generation?.stepped(began, hostTime, cache.counts.launches - launches, isDecodeOf(entry));
    }
  }

  #entryOf({ request, sequence, count, tokens, samples, first }: ScheduledTokens): StepEntry {
    const { choice } = this.#owners.get(request) as Owner;
    // The first row samples the token behind all that are known or in flight, which this step's own is by now.
    const place = outputLength(request) + request.inFlight - 1;
    const sample = Array.from({ length: samples }, (_, i) => choice.parametersAt(place + i));
    const { tokens: known, promptLength } = request;
    const history =
      first && sample.some(usesPenalties) ? { prompt: known.slice(0, promptLength), output: known.slice(promptLength) } : undefined;
    // The last row of a step may have sampled a stop token behind a wrong guess: what it left is not to be believed.
    return { sequence, queryLen: count, tokens, sample, first: first || choice.speculates, history };
  }

  /** Gives each sample its token; those that end give their blocks back. */
  #accept({ entries }: ScheduledStep, rows: readonly SampledToken[]): void {
    let row = 0;
    for (const entry of entries) {
      const { request, tokens = [], samples } = entry;
      const sampled = rows.slice(row, row + samples);
      row += samples;
      if (samples === 0) continue;
      const owner = this.#owners.get(request);
      const accepted: number[] = [];
      for (const [i, one] of sampled.entries()) {
        if (!owner || owner.choice.finishReason) break;
        // A row behind a guess counts only where the guess was what the row before it sampled.
        if (i > 0 && tokens[tokens.length - samples + i] !== accepted[i - 1]) break;
        accepted.push(one.token);
        owner.generation.push(owner.choice.take(one));
      }
      this.#generatedTokens += accepted.length;
      this.#countDraft(owner, samples - 1, Math.max(0, accepted.length - 1));
      this.#parts.scheduler.accept(entry, accepted);
      if (!owner?.choice.finishReason) continue;
      this.#parts.scheduler.finish(request);
      this.#owners.delete(request);
      owner.generation.end();
    }
  }

  #countDraft(owner: Owner | undefined, drafted: number, accepted: number): void {
    owner?.generation.verified(drafted, accepted);
    this.#draftedTokens += drafted;
    this.#acceptedTokens += accepted;
  }

  #failOne(request: Request, error: unknown): void {
    const generation = this.#owners.get(request)?.generation;
    if (!generation) return;
    this.remove(generation);
    generation.fail(error);
  }
}

/** Whether a request only goes on from its last token, with or without a draft behind it. */
function isDecodeOf({ count, samples, first }: ScheduledTokens): boolean {
  return count === samples && !first;
}
