/**
 * Runs the scheduler against a device that exists in numbers only: slots hold values that depend on every key that a token sees, so that a wrong block, a missing copy or
 * a stale hit gives other tokens than the reference. The device works in the order of its queue; the host hears of it late.
 */
import { BlockTables, type Sequence } from '../../src/attention/block-tables.ts';
import { nullBlock } from '../../src/attention/blocks.ts';
import { PrefixCache } from '../../src/engine/prefix-cache.ts';
import { createRequest, outputLength, type Request, type RequestOptions } from '../../src/engine/request.ts';
import type { ScheduledStep, ScheduledTokens } from '../../src/engine/schedule.ts';
import { Scheduler } from '../../src/engine/scheduler.ts';

export interface SimulationOptions {
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly maxSequences: number;
  readonly maxBlocksPerSequence: number;
  readonly maxTokensPerStep: number;
  /** Steps submitted before the first result is heard of. */
  readonly runAhead: number;
  readonly prefixCaching?: boolean;
  readonly longPrefillThreshold?: number;
  readonly window?: number;
}

/** An invariant that does not hold. A thousand steps check it a hundred thousand times, so it is no matcher's. */
export class BrokenInvariant extends Error {}

function ensure(condition: boolean, invariant: string): void {
  if (!condition) throw new BrokenInvariant(invariant);
}

/** Tokens of the model; 0 ends a text. */
export const vocabulary = 40;

const mix = (a: number, b: number): number => {
  const mixed = Math.imul(a ^ Math.imul(b + 1, 0x9e3779b1), 0x85ebca6b);
  return mixed ^ (mixed >>> 13);
};

/** What a token's slot holds, from the slots that it sees. */
const slotValue = (token: number, position: number, seen: readonly number[]): number => seen.reduce(mix, mix(token, position));

const sample = (value: number, seed: number): number => (mix(value, seed) >>> 0) % vocabulary;

/** The tokens that a request must give. */
export function reference(prompt: readonly number[], seed: number, maxTokens: number, window = Number.POSITIVE_INFINITY): number[] {
  const tokens = [...prompt];
  const values: number[] = [];
  for (;;) {
    for (let p = values.length; p < tokens.length; p++) values.push(slotValue(tokens[p]!, p, values.slice(Math.max(0, p - window + 1))));
    const next = sample(values.at(-1)!, seed);
    tokens.push(next);
    if (next === 0 || tokens.length - prompt.length === maxTokens) return tokens.slice(prompt.length);
  }
}

/** The device: pool, block table and the tokens sampled last. */
class Device {
  readonly #pool: Int32Array;
  readonly #table: Int32Array;
  readonly #sampled: Int32Array;

  constructor(
    readonly tables: BlockTables,
    readonly window: number,
  ) {
    const { numBlocks, blockSize, maxSequences, maxBlocksPerSequence } = tables.options;
    this.#pool = new Int32Array(numBlocks * blockSize);
    this.#table = new Int32Array(maxSequences * maxBlocksPerSequence);
    this.#sampled = new Int32Array(maxSequences);
  }

  /** Runs a step at once. @returns for each entry the tokens sampled after each of its last `samples` tokens. */
  run(step: ScheduledStep, seedOf: (request: Request) => number): number[][] {
    const { blockSize } = this.tables.options;
    const updates = this.tables.takeTableUpdates();
    for (let i = 0; i < updates.length; i += 2) this.#table[updates[i]!] = updates[i + 1]!;
    for (const [source, destination] of this.tables.takeBlockCopies())
      this.#pool.copyWithin(destination * blockSize, source * blockSize, (source + 1) * blockSize);
    return step.entries.map(({ request, sequence, count, tokens, samples }) => {
      const begin = sequence.length - count;
      const given = tokens ?? [this.#sampled[sequence.tableRow]!];
      ensure(given.length === count, 'an entry has its tokens');
      const results: number[] = [];
      given.forEach((token, i) => {
        const position = begin + i;
        const seen: number[] = [];
        for (let p = Math.max(0, position - this.window + 1); p < position; p++) seen.push(this.#pool[this.#slot(sequence, p)]!);
        const value = slotValue(token, position, seen);
        this.#pool[this.#slot(sequence, position)] = value;
        if (i >= count - samples) results.push(sample(value, seedOf(request)));
      });
      if (samples > 0) this.#sampled[sequence.tableRow] = results.at(-1)!;
      return results;
    });
  }

  #slot({ tableRow }: Sequence, position: number): number {
    const { blockSize, maxBlocksPerSequence } = this.tables.options;
    const block = this.#table[tableRow * maxBlocksPerSequence + Math.floor(position / blockSize)]!;
    ensure(block !== nullBlock, 'a slot that is used is in a block');
    return block * blockSize + (position % blockSize);
  }
}

interface InFlight {
  readonly step: ScheduledStep;
  readonly results: readonly number[][];
}

/** Scheduler, tables and device of one run, with every invariant checked after every step. */
export class Simulation {
  readonly tables: BlockTables;
  readonly prefixes: PrefixCache | undefined;
  readonly scheduler: Scheduler;
  /** Outputs of requests that ended by themselves. */
  readonly finished: Request[] = [];
  readonly failed: Request[] = [];
  steps = 0;
  /** Blocks copied on write, and tokens of drafts that were right. */
  copies = 0;
  drafted = 0;
  readonly #device: Device;
  readonly #seeds = new Map<Request, number>();
  readonly #inFlight: InFlight[] = [];

  /** @param spoil changes the parts, for faults that the checks must find. */
  constructor(
    readonly options: SimulationOptions,
    spoil: (parts: { tables: BlockTables; prefixes: PrefixCache | undefined }) => void = () => {},
  ) {
    this.tables = new BlockTables(options);
    this.prefixes = options.prefixCaching === false ? undefined : new PrefixCache(this.tables.blocks, options.blockSize, 1);
    spoil(this);
    this.scheduler = new Scheduler(this.tables, this.prefixes, options);
    this.#device = new Device(this.tables, options.window ?? Number.POSITIVE_INFINITY);
  }

  add(options: RequestOptions, seed = 0): Request {
    const request = createRequest(options);
    this.#seeds.set(request, seed);
    this.scheduler.add(request);
    return request;
  }

  seedOf(request: Request): number {
    return this.#seeds.get(request)!;
  }

  get inFlight(): number {
    return this.#inFlight.length;
  }

  /** One step, if there is anything to do and room in flight. */
  submit(): ScheduledStep | undefined {
    if (this.#inFlight.length >= this.options.runAhead) return undefined;
    const step = this.scheduler.schedule();
    this.failed.push(...step.failed.map(({ request }) => request));
    this.check(step);
    if (step.entries.length === 0) return step;
    this.steps++;
    this.copies += this.tables.numBlockCopies;
    const results = this.#device.run(step, (request) => this.seedOf(request));
    this.check(step);
    this.#inFlight.push({ step, results });
    return step;
  }

  /** The host hears of the oldest step. */
  receive(): void {
    const oldest = this.#inFlight.shift();
    oldest?.step.entries.forEach((entry, i) => {
      if (entry.samples > 0) this.#accept(entry, oldest.results[i]!);
    });
    this.check();
  }

  #accept(entry: ScheduledTokens, results: readonly number[]): void {
    const { request, tokens = [], samples } = entry;
    const draft = tokens.slice(tokens.length - (samples - 1));
    const agreed = samples > 1 ? draft.findIndex((token, i) => token !== results[i]) : 0;
    let accepted = results.slice(0, (agreed < 0 ? samples - 1 : agreed) + 1);
    const end = accepted.indexOf(0);
    if (end >= 0) accepted = accepted.slice(0, end + 1);
    this.drafted += accepted.length - 1;
    this.scheduler.accept(entry, accepted);
    if (request.status === 'ended') return;
    if (end >= 0 || outputLength(request) >= request.maxTokens) {
      this.scheduler.finish(request);
      this.finished.push(request);
    }
  }

  /** Steps and results in turn until nothing is left. */
  drain(): void {
    for (let idle = 0; this.scheduler.running.length + this.scheduler.waiting.length > 0; ) {
      const step = this.submit();
      const worked = (step?.entries.length ?? 0) + (step?.failed.length ?? 0) > 0;
      if (!worked) {
        idle = this.#inFlight.length === 0 ? idle + 1 : 0;
        ensure(idle < 3, 'what waits is scheduled some day');
        this.receive();
      }
    }
    while (this.#inFlight.length > 0) this.receive();
  }

  /** Throws where an invariant does not hold. */
  check(step?: ScheduledStep): void {
    const { tables, scheduler, options } = this;
    const { blocks, sequences } = tables;
    if (step) {
      ensure(step.numTokens === step.entries.reduce((sum, { count }) => sum + count, 0), 'the tokens of a step are counted');
      ensure(step.numTokens <= options.maxTokensPerStep, 'the tokens of a step are within the budget');
      ensure(new Set(step.entries.map(({ request }) => request)).size === step.entries.length, 'a request is once in a step');
      ensure(
        step.entries.every(({ count }) => count > 0),
        'an entry has tokens',
      );
    }
    ensure(scheduler.running.length <= options.maxSequences, 'no more requests run than may');
    ensure(scheduler.running.length === sequences.size, 'each sequence is that of a running request');
    const holders = new Map<number, Request[]>();
    for (const request of scheduler.running) {
      const { sequence, inFlight } = request;
      if (!sequence) throw new BrokenInvariant('a running request has a sequence');
      ensure(sequences.has(sequence), 'the sequence of a running request is open');
      ensure(sequence.blocks.length === Math.ceil(sequence.length / options.blockSize), 'a sequence has the blocks of its tokens');
      ensure(inFlight >= 0, 'no more tokens come than were sampled');
      ensure(inFlight > 0 || sequence.length < request.tokens.length, 'a sequence has slots for tokens that there are');
      for (const block of sequence.blocks) if (block !== nullBlock) holders.set(block, [...(holders.get(block) ?? []), request]);
    }
    const owners = new Map([...holders].map(([block, { length }]) => [block, length]));
    for (const source of tables.copySources) owners.set(source, (owners.get(source) ?? 0) + 1);
    let cached = 0;
    for (let block = 1; block < blocks.size; block++) {
      ensure(blocks.owners(block) === (owners.get(block) ?? 0), 'the owners of a block are counted');
      if (blocks.isCached(block)) cached++;
    }
    const free = blocks.freeBlocks();
    ensure(free.length === blocks.free && new Set(free).size === free.length, 'free blocks are counted');
    ensure(!free.includes(nullBlock) && !owners.has(nullBlock) && !blocks.isCached(nullBlock), "the null block is nobody's");
    ensure(free.length + owners.size + 1 === blocks.size, 'free, used and null block are all');
    ensure(cached === (this.prefixes?.size ?? 0), 'cached blocks are those that can be found');
    for (const [block, requests] of holders) {
      const families = new Set(requests.map((request) => request.forkOf ?? request));
      ensure(families.size === 1 || blocks.isCached(block), 'a block of two sequences is cached or forked');
    }
  }
}
