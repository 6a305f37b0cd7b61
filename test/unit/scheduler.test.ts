import { describe, expect, it } from 'vitest';
import { BlockTables } from '../../src/attention/block-tables.ts';
import { PrefixCache } from '../../src/engine/prefix-cache.ts';
import { createRequest, type Request, type RequestOptions } from '../../src/engine/request.ts';
import type { ScheduledStep, SchedulerOptions } from '../../src/engine/schedule.ts';
import { Scheduler } from '../../src/engine/scheduler.ts';
import { blocksAtOnce, tokensAtOnce } from '../../src/engine/window.ts';
import { BlocksExhaustedError, CapacityExceededError, InvalidArgumentError } from '../../src/errors.ts';
import { reference, Simulation, type SimulationOptions } from './scheduler-simulation.ts';

function open(options: Partial<SchedulerOptions> & { numBlocks?: number } = {}) {
  const { numBlocks = 64, ...others } = options;
  const tables = new BlockTables({ blockSize: 8, numBlocks, maxSequences: 8, maxBlocksPerSequence: 32 });
  const prefixes = new PrefixCache(tables.blocks, 8, 1);
  const scheduler = new Scheduler(tables, prefixes, { maxTokensPerStep: 64, maxSequences: 8, ...others });
  const add = (length: number, first = 1, request: Partial<RequestOptions> = {}) => {
    const promptIds = Array.from({ length }, (_, i) => first * 1000 + i);
    const added = createRequest({ promptIds, maxTokens: 16, ...request });
    scheduler.add(added);
    return added;
  };
  return { tables, scheduler, add };
}

const countsOf = ({ entries }: ScheduledStep) => entries.map(({ count }) => count);
const requestsOf = ({ entries }: ScheduledStep) => entries.map(({ request }) => request);

/** Gives every sampling entry of a step a token. */
function answer(scheduler: Scheduler, step: ScheduledStep, token = 7): void {
  for (const entry of step.entries) if (entry.samples > 0) scheduler.accept(entry, [token]);
}

describe('one step', () => {
  it('shares its budget: running requests first, then those that wait, in chunks', () => {
    const { scheduler, add } = open({ maxTokensPerStep: 16 });
    add(10);
    add(20, 2);
    add(4, 3);
    const first = scheduler.schedule();
    expect(countsOf(first)).toEqual([10, 6]);
    expect(first.entries.map(({ samples }) => samples)).toEqual([1, 0]);
    const second = scheduler.schedule();
    expect(countsOf(second)).toEqual([1, 14, 1]);
    expect(second.entries.map(({ samples }) => samples)).toEqual([1, 1, 0]);
    expect(countsOf(scheduler.schedule())).toEqual([1, 1, 3]);
  });

  it('gives a long prompt no more than the threshold', () => {
    const { scheduler, add } = open({ longPrefillThreshold: 12 });
    add(30);
    add(5, 2);
    expect(countsOf(scheduler.schedule())).toEqual([12, 5]);
    expect(countsOf(scheduler.schedule())).toEqual([12, 1]);
  });

  it('runs no more requests than it may, and the next one when one has ended', () => {
    const { scheduler, add } = open({ maxSequences: 2 });
    const requests = [add(3), add(3, 2), add(3, 3)];
    expect(requestsOf(scheduler.schedule())).toEqual(requests.slice(0, 2));
    scheduler.finish(requests[0]!);
    expect(requestsOf(scheduler.schedule())).toEqual(requests.slice(1));
    expect(scheduler.stats()).toMatchObject({ running: 2, waiting: 0 });
  });

  it('says how many it passed over, and counts none that came since', () => {
    const { scheduler, add } = open({ maxSequences: 2 });
    for (let i = 1; i < 4; i++) add(3, i);
    expect(scheduler.passedOver).toBe(0);
    scheduler.schedule();
    expect(scheduler.passedOver).toBe(1);
    const late = add(3, 5);
    expect([scheduler.passedOver, scheduler.stats().waiting]).toEqual([1, 2]);
    scheduler.finish(scheduler.waiting[0]!);
    scheduler.finish(late!);
    expect(scheduler.passedOver).toBe(0);
  });

  it('counts prompts when they first run, one of several samples once, and none that never ran', () => {
    const { scheduler, add } = open({ maxSequences: 2, numBlocks: 6 });
    const [first, second] = [add(20), add(16, 2)];
    const fork = add(20, 1, { forkOf: first });
    const never = add(9, 3);
    add(100, 4);
    expect(scheduler.stats().promptTokens).toBe(0);
    answer(scheduler, scheduler.schedule());
    expect(scheduler.stats().promptTokens).toBe(36);
    while (scheduler.stats().preemptions === 0) answer(scheduler, scheduler.schedule());
    scheduler.finish(first);
    answer(scheduler, scheduler.schedule());
    expect(second.status).toBe('running');
    scheduler.finish(never);
    scheduler.finish(second);
    const { failed } = scheduler.schedule();
    expect([fork.status, failed.length]).toEqual(['running', 1]);
    expect(scheduler.stats().promptTokens).toBe(36);
  });

  it('lets lower priorities go first', () => {
    const { scheduler, add } = open({ maxSequences: 2 });
    const [last, first, second] = [add(3, 1, { priority: 2 }), add(3, 2, { priority: -1 }), add(3, 3)];
    expect(requestsOf(scheduler.schedule())).toEqual([first, second]);
    scheduler.finish(first!);
    expect(requestsOf(scheduler.schedule())).toEqual([second, last]);
  });

  it('passes over what is paused', () => {
    const { scheduler, add } = open();
    const [one, other] = [add(3), add(3, 2)];
    one!.paused = true;
    expect(requestsOf(scheduler.schedule())).toEqual([other]);
    one!.paused = false;
    other!.paused = true;
    expect(requestsOf(scheduler.schedule())).toEqual([one]);
  });
});

describe('running ahead', () => {
  it('schedules tokens that the host does not know yet, up to the last one', () => {
    const { scheduler, add } = open();
    const request = add(10, 1, { maxTokens: 3 });
    const steps = [scheduler.schedule(), scheduler.schedule(), scheduler.schedule()];
    expect(steps.map(({ entries }) => entries[0]!.tokens?.length)).toEqual([10, undefined, undefined]);
    expect(steps.map(({ entries }) => entries[0]!.first)).toEqual([true, false, false]);
    expect(request.inFlight).toBe(3);
    expect(scheduler.schedule().entries).toEqual([]);
    for (const step of steps) answer(scheduler, step);
    expect([request.tokens.length, request.inFlight]).toEqual([13, 0]);
    expect(scheduler.schedule().entries).toEqual([]);
  });

  it('goes on from a token that the host knows, where it does', () => {
    const { scheduler, add } = open();
    add(10);
    answer(scheduler, scheduler.schedule(), 42);
    expect(scheduler.schedule().entries[0]!.tokens).toEqual([42]);
  });

  it('is limited for one request alone', () => {
    const { scheduler, add } = open();
    const limited = add(3, 1, { maxInFlight: 1 });
    const free = add(3, 2);
    const first = scheduler.schedule();
    expect(requestsOf(first)).toEqual([limited, free]);
    expect(requestsOf(scheduler.schedule())).toEqual([free]);
    answer(scheduler, first);
    expect(requestsOf(scheduler.schedule())).toEqual([limited, free]);
  });

  it('drops what was computed past the end, and gives its slots back', () => {
    const { tables, scheduler, add } = open();
    const request = add(8);
    const steps = [0, 1, 2, 3].map(() => scheduler.schedule());
    answer(scheduler, steps[0]!);
    scheduler.finish(request);
    for (const step of steps.slice(1)) answer(scheduler, step);
    expect(request.tokens.length).toBe(9);
    expect([tables.blocks.free, tables.sequences.size]).toEqual([63, 0]);
  });

  it('verifies a draft and rolls back what was wrong', () => {
    const { scheduler, add } = open();
    const request = add(10, 1, { maxInFlight: 1 });
    answer(scheduler, scheduler.schedule(), 5);
    request.draft = [6, 7, 8];
    const [entry] = scheduler.schedule().entries;
    expect(entry).toMatchObject({ count: 4, samples: 4, tokens: [5, 6, 7, 8] });
    expect(request.sequence!.length).toBe(14);
    scheduler.accept(entry!, [6, 9]);
    expect([request.tokens.slice(10), request.sequence!.length, request.draft]).toEqual([[5, 6, 9], 12, []]);
    // A draft longer than the request may still write is cut short.
    request.draft = Array(20).fill(1);
    expect(scheduler.schedule().entries[0]!.count).toBe(13);
  });
});

describe('when blocks run out', () => {
  it('the last running request makes room, waits in front, and computes its tokens anew', () => {
    const { scheduler, add } = open({ numBlocks: 6, maxTokensPerStep: 64 });
    const [one, other] = [add(16), add(16, 2)];
    const waiting = add(4, 3);
    const steps = [scheduler.schedule()];
    expect(requestsOf(steps[0]!)).toEqual([one, other, waiting]);
    steps.push(scheduler.schedule()); // needs three blocks, of which there are none
    expect(requestsOf(steps[1]!)).toEqual([one]);
    expect(scheduler.waiting).toEqual([other, waiting]);
    expect(scheduler.stats().preemptions).toBe(2);
    // Its first token is on its way: nobody is admitted before it.
    expect(requestsOf(scheduler.schedule())).toEqual([one]);
    answer(scheduler, steps[0]!);
    expect(requestsOf(scheduler.schedule())).toEqual([one]); // three blocks are not free
    scheduler.finish(one!);
    const again = scheduler.schedule();
    expect(requestsOf(again)).toEqual([other, waiting]);
    expect(again.entries[0]!).toMatchObject({ count: 1, first: true }); // the prompt was still cached
    expect(other!.tokens.length).toBe(17);
  });

  it('a request that nobody reads makes room before any other', () => {
    const { scheduler, add } = open({ numBlocks: 6 });
    const [unread, read, last] = [add(16), add(16, 2), add(4, 3)];
    scheduler.schedule();
    unread!.paused = true;
    expect(requestsOf(scheduler.schedule())).toEqual([read, last]);
    expect(scheduler.waiting).toEqual([unread]);
  });

  it('a request that is alone and has no room fails, once nothing of it is in flight', () => {
    const { tables, scheduler, add } = open({ numBlocks: 3 });
    const request = add(15);
    const steps = [scheduler.schedule(), scheduler.schedule()];
    expect(scheduler.schedule()).toMatchObject({ entries: [], failed: [] });
    for (const step of steps) answer(scheduler, step);
    const { failed } = scheduler.schedule();
    expect(failed).toEqual([{ request, error: expect.any(BlocksExhaustedError) }]);
    expect(request.status).toBe('ended');
    expect(tables.blocks.free).toBe(2);
  });

  it('a prompt longer than the pool fails alone', () => {
    const { scheduler, add } = open({ numBlocks: 3 });
    const [long, short] = [add(17), add(5, 2)];
    const step = scheduler.schedule();
    expect(step.failed).toEqual([{ request: long, error: expect.any(BlocksExhaustedError) }]);
    expect(requestsOf(step)).toEqual([short]);
  });

  it('what others hold is not waited for, for ever', () => {
    const { tables, scheduler, add } = open({ numBlocks: 5 });
    const sequences = Array.from({ length: 8 }, () => tables.open());
    add(5);
    expect(scheduler.schedule().failed[0]!.error).toBeInstanceOf(CapacityExceededError);
    tables.close(sequences[0]!);
    tables.extend(sequences[1]!, 30);
    add(5);
    expect(scheduler.schedule().failed[0]!.error).toBeInstanceOf(BlocksExhaustedError);
  });

  it('work beside the requests preempts them', () => {
    const { scheduler, add } = open({ numBlocks: 6 });
    add(16);
    add(16, 2);
    scheduler.schedule();
    scheduler.makeRoom(2);
    expect(scheduler.stats()).toMatchObject({ running: 1, waiting: 1, preemptions: 1 });
    expect(() => scheduler.makeRoom(6)).toThrow(BlocksExhaustedError);
  });
});

describe('forks', () => {
  it('wait for the prompt, share its blocks and copy the one that they write into', () => {
    const { tables, scheduler, add } = open();
    const parent = add(20);
    const forks = [add(20, 1, { forkOf: parent }), add(20, 1, { forkOf: parent })];
    expect(requestsOf(scheduler.schedule())).toEqual([parent]);
    tables.takeBlockCopies();
    const second = scheduler.schedule();
    expect(requestsOf(second)).toEqual([parent, ...forks]);
    expect(second.entries.slice(1).map(({ count, samples, first, tokens }) => [count, samples, first, tokens])).toEqual(
      Array(2).fill([1, 1, true, [1019]]),
    );
    const [a, b, c] = [parent, ...forks].map(({ sequence }) => sequence!.blocks);
    expect([b!.slice(0, 2), c!.slice(0, 2)]).toEqual([a!.slice(0, 2), a!.slice(0, 2)]);
    expect(new Set([a![2], b![2], c![2]]).size).toBe(3);
    expect(tables.takeBlockCopies()).toEqual([
      [a![2], b![2]],
      [a![2], c![2]],
    ]);
    expect(scheduler.stats().prefixHits).toBe(0);
    for (const request of [parent, ...forks]) scheduler.finish(request);
    expect(tables.blocks.free).toBe(63);
  });

  it('of a request that ended compute the prompt themselves', () => {
    const { scheduler, add } = open();
    const parent = add(20);
    const fork = add(20, 1, { forkOf: parent });
    scheduler.schedule();
    scheduler.finish(parent);
    const [entry] = scheduler.schedule().entries;
    expect([entry!.request, entry!.count, fork.cachedTokens]).toEqual([fork, 4, 16]);
  });

  it('of a window that has moved on compute the prompt themselves', () => {
    const { scheduler, add } = open({ window: 9, maxSequences: 1 });
    const parent = add(30);
    const fork = add(30, 1, { forkOf: parent, cacheSalt: 'none' });
    for (let i = 0; i < 12; i++) answer(scheduler, scheduler.schedule());
    expect(parent.sequence!.blocks.filter((block) => block === 0).length).toBe(4);
    Object.assign(fork, { forkOf: parent });
    scheduler.finish(parent);
    expect(scheduler.schedule().entries[0]).toMatchObject({ request: fork, count: 30 });
  });
});

describe('a sliding window', () => {
  /** Runs until a request ends. @returns the most blocks that were in use, after each step. */
  function most({ tables, scheduler }: ReturnType<typeof open>, request: Request): number {
    let used = 0;
    for (let step = 0; request.status !== 'ended'; step++) {
      expect(step).toBeLessThan(500);
      const scheduled = scheduler.schedule();
      expect(scheduled.failed).toEqual([]);
      used = Math.max(used, tables.blocks.size - 1 - tables.blocks.free);
      answer(scheduler, scheduled, 1 + (step % 9));
      if (request.tokens.length - request.promptLength >= request.maxTokens) scheduler.finish(request);
    }
    return used;
  }

  it('bounds the blocks of a request by itself and what a step computes', () => {
    const opened = open({ window: 20, maxTokensPerStep: 16 });
    expect(most(opened, opened.add(100, 1, { maxTokens: 100 }))).toBeLessThanOrEqual(blocksAtOnce({ window: 20 }, 16, 8));
  });

  it('lets requests run that are longer than the pool, in chunks that fit', () => {
    const opened = open({ window: 20, numBlocks: 7 });
    const request = opened.add(100, 1, { maxTokens: 100 });
    const step = opened.scheduler.schedule();
    expect(countsOf(step)).toEqual([tokensAtOnce({ window: 20 }, 6, 8)]);
    answer(opened.scheduler, step);
    expect(most(opened, request)).toBeLessThanOrEqual(6);
    // Its last blocks can be found, though its first are gone.
    const again = opened.add(1, 1, { promptIds: [...request.tokens, 5] });
    expect(opened.scheduler.schedule().entries[0]!.count).toBeLessThan(16);
    expect(again.cachedTokens).toBeGreaterThan(180);
    expect(again.sequence!.blocks.findIndex((block) => block !== 0)).toBe(again.cachedTokens! / 8 - 3);
  });

  it('lets such a request come back after a preemption', () => {
    const opened = open({ window: 20, numBlocks: 7 });
    const request = opened.add(10, 1, { maxTokens: 100 });
    for (let i = 0; i < 70; i++) answer(opened.scheduler, opened.scheduler.schedule());
    opened.scheduler.makeRoom(6);
    expect([request.status, request.tokens.length]).toEqual(['waiting', 80]);
    expect(most(opened, request)).toBeLessThanOrEqual(6);
    expect(opened.scheduler.stats().preemptions).toBe(1);
  });

  it('that does not fit into the pool ends what is longer than that', () => {
    const { scheduler, add } = open({ window: 50, numBlocks: 7 });
    const [long, short] = [add(49), add(20, 2)];
    const { failed, entries } = scheduler.schedule();
    expect(failed).toEqual([{ request: long, error: expect.any(BlocksExhaustedError) }]);
    expect(entries[0]!.request).toBe(short);
  });
});

describe('requests', () => {
  it('refuse what makes no sense', () => {
    expect(() => createRequest({ promptIds: [], maxTokens: 1 })).toThrow(InvalidArgumentError);
    expect(() => createRequest({ promptIds: [1], maxTokens: 0 })).toThrow(/maxTokens/);
    expect(() => createRequest({ promptIds: [1], maxTokens: 1, maxInFlight: 0 })).toThrow(/maxInFlight/);
  });

  it('can be ended at any time, and twice', () => {
    const { tables, scheduler, add } = open();
    const [waiting, running] = [add(100), add(5, 2)];
    scheduler.finish(waiting!);
    scheduler.schedule();
    scheduler.finish(running!);
    scheduler.finish(running!);
    expect([tables.blocks.free, scheduler.running.length, scheduler.waiting.length]).toEqual([63, 0, 0]);
  });
});

describe('tokens are the same', () => {
  const prompts = Array.from({ length: 10 }, (_, i) => [...Array.from({ length: 20 + i }, (_, t) => 1 + (t % 7)), 1 + i, 2 + i]);
  const write = (options: Partial<SimulationOptions>) => {
    const simulation = new Simulation({
      ...{ blockSize: 8, numBlocks: 128, maxSequences: 8, maxBlocksPerSequence: 16, maxTokensPerStep: 64, runAhead: 4 },
      ...options,
    });
    const requests: Request[] = prompts.map((promptIds) => simulation.add({ promptIds, maxTokens: 40 }, 3));
    simulation.drain();
    expect(simulation.failed).toEqual([]);
    return { outputs: requests.map(({ tokens, promptLength }) => tokens.slice(promptLength)), stats: simulation.scheduler.stats() };
  };

  it.each([
    ['a prefix cache, and without', { prefixCaching: true }, { prefixCaching: false }],
    ['chunks of 16, and of 2048', { maxTokensPerStep: 16 }, { maxTokensPerStep: 2048 }],
    ['one step in flight, and 32', { runAhead: 1 }, { runAhead: 32 }],
    ['a pool of 12 blocks, and of 200', { numBlocks: 12 }, { numBlocks: 200 }],
    ['one request at a time, and eight', { maxSequences: 1 }, { maxSequences: 8 }],
  ] as const)('with %s', (_, one, other) => {
    const expected = prompts.map((prompt) => reference(prompt, 3, 40));
    expect(write(one).outputs).toEqual(expected);
    expect(write(other).outputs).toEqual(expected);
  });

  it('where blocks were short, and requests were preempted', () => {
    const { stats } = write({ numBlocks: 12 });
    expect(stats.preemptions).toBeGreaterThan(3);
    expect(write({}).stats.prefixHits).toBeGreaterThan(100);
  });
});
