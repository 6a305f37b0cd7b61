import { afterEach, describe, expect, it, vi } from 'vitest';
import { type ForwardParts, measureRunAhead } from '../../src/engine/forward.ts';
import type { ReadbackRing } from '../../src/engine/readback.ts';
import { runAheadDepth, stepsPerRead, stepTime } from '../../src/engine/run-ahead.ts';

describe('the depth of running ahead', () => {
  afterEach(() => void vi.restoreAllMocks());

  it.each([
    ['the host is at once there', 0, 5, 2],
    ['the clock says that the wait was negative', -1, 5, 2],
    ['the host takes less than a step', 4, 5, 2],
    ['the host takes exactly a step', 5, 5, 2],
    ['the host takes two and a bit', 11, 5, 4],
    ['steps are very short', 40, 0.02, 32],
    ['nobody knows what a step takes', 40, undefined, 2],
  ])('where %s', (_, wait, step, depth) => {
    expect(runAheadDepth(wait, step)).toBe(depth);
  });

  it.each([
    [1, 1],
    [3, 1],
    [4, 2],
    [15, 7],
    [16, 8],
    [32, 8],
  ])('of %i has %i steps read together in Deno, one elsewhere', (depth, together) => {
    expect([stepsPerRead(depth, 'deno'), stepsPerRead(depth, 'chromium')]).toEqual([together, 1]);
  });

  it.each([
    ['a step takes as long as the wait', 11.2, 2],
    ['a fifth of it', 2.24, 9],
    ['a millisecond', 1, 20],
    ['half a millisecond', 0.5, 31],
    ['less', 0.2, 32],
  ])('covers the wait beside what is read together, where %s', (_, step, depth) => {
    expect(runAheadDepth(11.2, step, 'deno')).toBe(depth);
  });

  it('comes of the time by which many steps take longer than one', () => {
    expect(stepTime(12, 33, 8)).toBe(3);
    expect(stepTime(12, 18, 3)).toBe(3);
    expect(stepTime(12, 15, 2)).toBe(3);
    expect(stepTime(12, 11, 8)).toBe(0.02);
    expect([stepTime(12, 12, 1), stepTime(12, 0, 0)]).toEqual([undefined, undefined]);
  });

  /** A GPU whose steps take 10 ms each, one after the other, and whose results the host has 35 ms after the end of theirs. */
  function fakes() {
    let clock = 0;
    let free = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => clock);
    const sequence = { length: 0 };
    const kv = { open: () => sequence, extend: () => void sequence.length++, close: vi.fn() };
    const record = () => ({ finish: () => ({}) });
    const submit = () => {
      free = Math.max(free, clock) + 10;
    };
    const parts = { kv, record, model: { plan: () => {}, results: {} }, cache: { submit } };
    const read = () => {
      const there = free + 35;
      return Promise.resolve().then(() => {
        clock = Math.max(clock, there);
      });
    };
    return { parts: parts as unknown as ForwardParts, ring: { record: () => read } as unknown as ReadbackRing, sequence, kv };
  }

  it.each([
    [1024, 5],
    [10, 5],
    [9, 5],
    [5, 5],
    [4, 5],
    [3, 2],
    [2, 2],
  ])('is measured within a context of %i tokens', async (contextLength, depth) => {
    const { parts, ring, sequence, kv } = fakes();
    expect(await measureRunAhead(parts, ring, contextLength)).toBe(depth);
    expect(sequence.length).toBe(Math.min(contextLength, 10));
    expect(kv.close).toHaveBeenCalledOnce();
  });
});
