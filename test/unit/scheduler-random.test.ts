import { describe, expect, it } from 'vitest';
import type { BlockTables } from '../../src/attention/block-tables.ts';
import type { PrefixCache } from '../../src/engine/prefix-cache.ts';
import { outputLength, type Request } from '../../src/engine/request.ts';
import { type Random, random } from '../harness/random.ts';
import { reference, Simulation, type SimulationOptions, vocabulary } from './scheduler-simulation.ts';

const base: SimulationOptions = {
  blockSize: 8,
  numBlocks: 24,
  maxSequences: 6,
  maxBlocksPerSequence: 12,
  maxTokensPerStep: 32,
  runAhead: 4,
};

const longest = base.blockSize * base.maxBlocksPerSequence;

/** Adds a request, or a family of forks, with a prompt that often begins as others do. */
function addSome(simulation: Simulation, numbers: Random, prefixes: readonly (readonly number[])[]): void {
  const prefix = prefixes[numbers.integer(prefixes.length)]!;
  const own = Array.from({ length: 1 + numbers.integer(20) }, () => 1 + numbers.integer(vocabulary - 1));
  const promptIds = [...prefix.slice(0, numbers.integer(prefix.length + 1)), ...own];
  const options = {
    promptIds,
    maxTokens: Math.min(1 + numbers.integer(40), longest - promptIds.length),
    priority: numbers.integer(8) === 0 ? numbers.integer(3) - 1 : 0,
    cacheSalt: numbers.integer(6) === 0 ? 'salt' : '',
    maxInFlight: [1, 2, Number.POSITIVE_INFINITY][numbers.integer(3)],
  };
  const forkOf = simulation.add(options, numbers.integer(3));
  const forks = numbers.integer(5) === 0 ? 1 + numbers.integer(3) : 0;
  for (let i = 0; i < forks; i++) simulation.add({ ...options, forkOf }, 10 + i);
}

/** Guesses what comes next, more or less well. */
function draftSome(request: Request, numbers: Random, next: readonly number[]): void {
  if (request.maxInFlight !== 1 || request.inFlight > 0) return;
  const right = next.slice(outputLength(request), outputLength(request) + numbers.integer(5));
  request.draft = numbers.integer(2) === 0 ? right : [...right.slice(0, 1), numbers.integer(vocabulary)];
}

/** Random work. @returns the simulation, empty again. */
function work(
  seed: number,
  steps: number,
  options: Partial<SimulationOptions> = {},
  spoil?: ConstructorParameters<typeof Simulation>[1],
  meddle: (simulation: Simulation) => void = () => {},
) {
  const numbers = random(seed);
  const simulation = new Simulation({ ...base, ...options }, spoil);
  const prefixes = Array.from({ length: 4 }, () => Array.from({ length: 40 }, () => 1 + numbers.integer(vocabulary - 1)));
  const { scheduler } = simulation;
  const expected = new Map<Request, number[]>();
  const expectedOf = (request: Request): number[] => {
    const known = expected.get(request);
    if (known) return known;
    const prompt = request.tokens.slice(0, request.promptLength);
    const tokens = reference(prompt, simulation.seedOf(request), request.maxTokens, options.window);
    expected.set(request, tokens);
    return tokens;
  };
  let aborted = 0;
  while (simulation.steps < steps) {
    const all = [...scheduler.running, ...scheduler.waiting];
    const request = all[numbers.integer(all.length)];
    const choice = numbers.integer(40);
    if (all.length < 12 && choice < 8) addSome(simulation, numbers, prefixes);
    else if (request && choice === 39 && numbers.integer(3) === 0) {
      scheduler.finish(request);
      aborted++;
    } else if (request && choice === 38) request.paused = !request.paused;
    else if (request && choice === 37 && numbers.integer(3) === 0) {
      const free = 1 + numbers.integer(simulation.tables.blocks.size - 1);
      scheduler.makeRoom(free);
      expect(simulation.tables.blocks.free).toBeGreaterThanOrEqual(free);
    } else if (choice < 28) {
      for (const one of scheduler.running) if (numbers.integer(2) === 0) draftSome(one, numbers, expectedOf(one));
      if (!simulation.submit()?.entries.length) for (const one of all) one.paused = false;
      meddle(simulation);
    } else simulation.receive();
    for (const one of simulation.finished.splice(0)) expect(one.tokens.slice(one.promptLength), 'tokens').toEqual(expectedOf(one));
    expect(simulation.failed, 'failed').toEqual([]);
  }
  for (const one of [...scheduler.running, ...scheduler.waiting]) scheduler.finish(one);
  expect(simulation.tables.blocks.free, 'free blocks after aborting all').toBe(simulation.tables.blocks.size - 1);
  while (simulation.inFlight > 0) simulation.receive();
  simulation.check();
  return { simulation, stats: scheduler.stats(), aborted };
}

describe('10,000 random steps', () => {
  it('keep every invariant and give every request its own tokens', () => {
    const { simulation, stats, aborted } = work(1, 10_000);
    // The test is worth something only if all of this happened.
    expect(stats.preemptions).toBeGreaterThan(100);
    expect(stats.prefixHits).toBeGreaterThan(1000);
    expect(aborted).toBeGreaterThan(50);
    expect(simulation.copies).toBeGreaterThan(100);
    expect(simulation.drafted).toBeGreaterThan(100);
  }, 120_000);

  it.each([
    ['no prefix cache', { prefixCaching: false }],
    ['one step in flight', { runAhead: 1 }],
    ['many steps in flight', { runAhead: 32 }],
    ['a budget smaller than a block', { maxTokensPerStep: 7 }],
    ['long prompts held back', { longPrefillThreshold: 5 }],
    ['a sliding window', { window: 11 }],
    ['a window smaller than a block', { window: 5, runAhead: 8 }],
    ['a window and a pool shorter than a request', { window: 11, numBlocks: 8 }],
    ['a window in a small pool without a prefix cache', { window: 20, numBlocks: 9, prefixCaching: false }],
    ['a window in a small pool, a little at a time', { window: 16, numBlocks: 7, maxTokensPerStep: 7, runAhead: 8 }],
    ['a pool for hardly more than one request', { numBlocks: 14 }],
    ['one sequence at a time', { maxSequences: 1 }],
  ] as const)(
    'and fewer with %s',
    (_, options) => {
      work(2, 1500, options);
    },
    120_000,
  );
});

type Parts = { readonly tables: BlockTables; readonly prefixes: PrefixCache | undefined };

/** Replaces a method by one that gets the original. */
function replace<T extends object, K extends keyof T>(target: T, name: K, make: (original: T[K]) => T[K]): void {
  const original = target[name] as unknown as (...args: unknown[]) => unknown;
  Object.defineProperty(target, name, { value: make(original.bind(target) as unknown as T[K]) });
}

describe('the checks find', () => {
  const faults: readonly (readonly [fault: string, spoil: (parts: Parts) => void, broken: RegExp])[] = [
    [
      'a leaked block',
      ({ tables }) => replace(tables.blocks, 'release', (release) => (blocks) => release(blocks.length > 2 ? blocks.slice(1) : blocks)),
      /owners/,
    ],
    ['an owner of a fork that is not counted', ({ tables }) => replace(tables.blocks, 'retain', () => () => {}), /owners/],
    [
      'an owner of a hit that is not counted',
      ({ tables: { blocks } }) => replace(blocks, 'take', (take) => (hit) => take(hit.filter((block) => blocks.owners(block) === 0))),
      /owners/,
    ],
    [
      'a block that is given out while it is in use',
      ({ tables }) =>
        replace(tables.blocks, 'allocate', (allocate) => (count) => (count > 1 ? [...allocate(count - 1), 3] : allocate(count))),
      /owners/,
    ],
    [
      'the null block given out',
      ({ tables }) =>
        replace(tables.blocks, 'allocate', (allocate) => (count) => (count > 1 ? [...allocate(count - 1), 0] : allocate(count))),
      /slot that is used is in a block/,
    ],
    ['a missing copy', ({ tables }) => replace(tables, 'takeBlockCopies', (take) => () => take().slice(1)), /tokens/],
    [
      'a table entry that is lost',
      ({ tables }) => replace(tables, 'takeTableUpdates', (take) => () => take().slice(2)),
      /tokens|in a block/,
    ],
    [
      'slots that are not rolled back',
      ({ tables }) => replace(tables, 'truncate', (truncate) => (sequence, length) => truncate(sequence, length && sequence.length)),
      /slots for tokens that there are|count is -/,
    ],
    [
      'a block given out that can still be found',
      ({ tables: { blocks } }) =>
        replace(blocks, 'allocate', (allocate) => (count) => {
          const [head] = blocks.freeBlocks();
          if (head) blocks.setCached(head, false);
          return allocate(count);
        }),
      /cached blocks are those that can be found/,
    ],
    [
      'a hit of other tokens',
      ({ tables, prefixes }) =>
        replace(prefixes!, 'find', (find) => {
          let other: ReturnType<typeof find> | undefined;
          return (chain, tokens) => {
            const hit = find(chain, tokens);
            if (hit.blocks.length === 1) other = hit;
            return hit.blocks.length === 0 && tokens.length > 8 && other && tables.blocks.isCached(other.blocks[0]!) ? other : hit;
          };
        }),
      /tokens/,
    ],
    [
      'blocks registered before their tokens are known',
      ({ prefixes }) =>
        replace(prefixes!, 'register', (register) => (chain, tokens, blocks, known) => {
          const early = Math.min(known + 4, blocks.length * base.blockSize);
          register(chain, [...tokens, 1, 1, 1, 1], blocks, early);
        }),
      /tokens/,
    ],
  ];
  it.each(faults)('%s', (_, spoil, broken) => {
    expect(() => work(3, 3000, {}, spoil)).toThrow(broken);
  });

  it('too many tokens, and too many requests', () => {
    const simulation = new Simulation({ ...base, maxTokensPerStep: 64, maxSequences: 4 });
    for (let i = 0; i < 4; i++) simulation.add({ promptIds: Array(16).fill(1 + i), maxTokens: 4 });
    const step = simulation.scheduler.schedule();
    simulation.check(step);
    Object.assign(simulation.options, { maxTokensPerStep: 63 });
    expect(() => simulation.check(step)).toThrow(/within the budget/);
    Object.assign(simulation.options, { maxTokensPerStep: 64, maxSequences: 3 });
    expect(() => simulation.check(step)).toThrow(/no more requests run/);
  });

  it('a preempted request that runs again before its tokens came', () => {
    const forgetful = (simulation: Simulation) => {
      for (const request of simulation.scheduler.waiting) request.inFlight = 0;
    };
    expect(() => work(4, 3000, {}, () => {}, forgetful)).toThrow(/tokens|no more tokens come/);
  });
});
