/** The search for the fastest candidate, with times and a clock of the test's own. */
import { expect, it } from 'vitest';
import { type Found, findFastest, type SearchHost } from '../../src/attention/search.ts';

interface Candidate {
  readonly name: string;
  /** Milliseconds of each workload, round by round; the last one holds on. */
  readonly times: readonly (readonly number[])[];
  /** What opening it throws. */
  readonly fault?: string;
}

const steady = (name: string, ...times: number[]): Candidate => ({ name, times: [times] });

interface Outcome {
  readonly found: Found<Candidate>;
  /** Names of what was opened, and of what is still open. */
  readonly opened: readonly string[];
  readonly open: ReadonlySet<string>;
}

/** Opening takes 10 ms of the clock, a run its time. */
async function search(candidates: readonly Candidate[], deadline = Number.POSITIVE_INFINITY, check = () => {}): Promise<Outcome> {
  let clock = 0;
  const opened: string[] = [];
  const open = new Set<string>();
  const host: SearchHost<Candidate> = {
    async open({ name, times, fault }) {
      clock += 10;
      opened.push(name);
      if (fault) throw new Error(`${fault}\nand more`);
      open.add(name);
      let round = 0;
      return {
        async time() {
          const row = times[Math.min(round++, times.length - 1)];
          clock += row.reduce((sum, time) => sum + time, 0);
          return row;
        },
        destroy: () => void open.delete(name),
      };
    },
    now: () => clock,
    check,
    onTried: () => {},
  };
  return { found: await findFastest(candidates, host, deadline), opened, open };
}

it('takes the fastest over all workloads', async () => {
  const { found, open } = await search([steady('default', 10, 10), steady('slow', 20, 20), steady('good', 8, 9), steady('best', 7, 9)]);
  expect(found.best.name).toBe('best');
  expect([found.defaultTimes, found.bestTimes]).toEqual([
    [10, 10],
    [7, 9],
  ]);
  expect([found.tried, found.complete, found.leftOut]).toEqual([4, true, []]);
  expect(open.size).toBe(0);
});

it('keeps the default unless another is faster by more than noise', async () => {
  expect((await search([steady('default', 10), steady('hardly faster', 9.8)])).found.best.name).toBe('default');
  expect((await search([steady('default', 10), steady('faster', 9.6)])).found.best.name).toBe('faster');
});

it('a candidate that was fast once does not win', async () => {
  const lucky = { name: 'lucky', times: [[2], [10], [11], [2], [10], [10], [10], [11], [10], [10]] };
  expect((await search([steady('default', 10), lucky])).found.best.name).toBe('default');
});

it('what slows all down for a while decides nothing', async () => {
  const wave = [1, 3, 1, 3, 3, 1, 1, 3, 3, 1];
  const inWave = (name: string, time: number) => ({ name, times: wave.map((factor) => [factor * time]) });
  expect((await search([inWave('default', 10), inWave('better', 9)])).found.best.name).toBe('better');
  expect((await search([inWave('default', 10), inWave('equal', 10)])).found.best.name).toBe('default');
});

it('no workload pays for another', async () => {
  expect((await search([steady('default', 10, 10), steady('unfair', 4, 11)])).found.best.name).toBe('default');
});

it('what does not compile, or computes something else, is left out with the first line of the reason', async () => {
  const wrong = { ...steady('wrong', 1), fault: 'its output differs' };
  const { found, open } = await search([steady('default', 10), wrong, steady('right', 9)]);
  expect(found.best.name).toBe('right');
  expect(found.leftOut.map(({ candidate, reason }) => [candidate.name, reason])).toEqual([['wrong', 'its output differs']]);
  expect([found.tried, open.size]).toEqual([2, 0]);
});

it('ends near the deadline, with the rounds that a winner needs', async () => {
  const many = Array.from({ length: 50 }, (_, i) => steady(`candidate ${i}`, i === 3 ? 5 : 10));
  const { found, opened, open } = await search(many, 600);
  expect(found.complete).toBe(false);
  expect(opened.length).toBeGreaterThan(10);
  expect(opened.length).toBeLessThan(30);
  expect(found.tried).toBe(opened.length);
  expect(found.best.name).toBe('candidate 3');
  expect(open.size).toBe(0);
});

it('without any time the default is timed, and kept', async () => {
  const { found, opened } = await search([steady('default', 10), steady('faster', 1)], 0);
  expect([found.best.name, found.tried, found.complete, opened]).toEqual(['default', 1, false, ['default']]);
});

it('an abort stops it, and closes what is open', async () => {
  const check = () => {
    throw new Error('aborted');
  };
  await expect(search([steady('default', 10), { ...steady('wrong', 1), fault: 'x' }], 1000, check)).rejects.toThrow('aborted');
});
