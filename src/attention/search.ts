/** Finds the fastest of some candidates by times that are noisy, within a budget. Pure: whoever calls it measures. */

/** A candidate that is ready to run, and was found right. */
export interface Subject {
  /** Runs each workload once. @returns milliseconds of each */
  time(): Promise<readonly number[]>;
  destroy(): void;
}

export interface SearchHost<T> {
  /** Makes a candidate ready and checks what it computes; a rejection leaves it out, and says why. */
  open(candidate: T): Promise<Subject>;
  /** Milliseconds of some clock. */
  now(): number;
  /** Throws where the search should stop and fail: after an abort, or the loss of the device. */
  check(): void;
  /** How many candidates are done with. */
  onTried(done: number): void;
}

export interface LeftOut<T> {
  readonly candidate: T;
  readonly reason: string;
}

export interface Found<T> {
  /** The first candidate, unless another one is faster by more than noise. */
  readonly best: T;
  /** Milliseconds of each workload with the first candidate, and with the best one. */
  readonly defaultTimes: readonly number[];
  readonly bestTimes: readonly number[];
  /** Candidates that were timed. */
  readonly tried: number;
  readonly leftOut: readonly LeftOut<T>[];
  /** False: the budget ended before all candidates had their turn. */
  readonly complete: boolean;
}

/** Over all workloads (geometric mean) a winner takes at most this share of the default's time, and in none more than so much of it. */
const winningShare = 0.97;
const worstShare = 1.05;

/** A candidate that took more than this share at first sight has no second turn; of the others so many have. */
const promisingShare = 1.1;
const mostFinalists = 3;

const leastRounds = 3;
const mostRounds = 9;

interface Contender<T> {
  readonly candidate: T;
  readonly subject: Subject;
  /** Its time as a share of the default's. */
  readonly share: number;
  readonly rounds: (readonly number[])[];
}

/**
 * Times each candidate once, and then the most promising ones in turn with the first one, the default, in several rounds. The default is
 * always timed, the others only until `deadline`, by `now`.
 */
export async function findFastest<T>(candidates: readonly T[], host: SearchHost<T>, deadline: number): Promise<Found<T>> {
  const reference: Contender<T> = { candidate: candidates[0], subject: await host.open(candidates[0]), share: 1, rounds: [] };
  const contenders: Contender<T>[] = [];
  const leftOut: LeftOut<T>[] = [];
  try {
    const begun = host.now();
    const first = await reference.subject.time();
    const turn = host.now() - begun;
    host.onTried(1);
    let next = 1;
    for (; next < candidates.length; next++) {
      // What the rounds at the end will take.
      if (host.now() + leastRounds * (contenders.length + 2) * turn > deadline) break;
      const candidate = candidates[next];
      const subject = await host.open(candidate).catch((error: unknown) => {
        host.check();
        leftOut.push({ candidate, reason: error instanceof Error ? error.message.split('\n', 1)[0] : String(error) });
        return undefined;
      });
      if (subject) await enter(contenders, candidate, subject, first);
      host.onTried(next + 1);
    }
    for (let round = 0; round < mostRounds && contenders.length > 0; round++) {
      if (round >= leastRounds && host.now() + (contenders.length + 1) * turn > deadline) break;
      for (const { subject, rounds } of [reference, ...contenders]) rounds.push(await subject.time());
    }
    const winner = contenders.reduce((best, one) => (gainOf(one, reference) < gainOf(best, reference) ? one : best), reference);
    const defaultTimes = reference.rounds.length > 0 ? medians(reference.rounds) : first;
    const bestTimes = winner === reference ? defaultTimes : medians(winner.rounds);
    const tried = next - leftOut.length;
    return { best: winner.candidate, defaultTimes, bestTimes, tried, leftOut, complete: next === candidates.length };
  } finally {
    for (const { subject } of [reference, ...contenders]) subject.destroy();
  }
}

/** Times a candidate and keeps it, in order, if it is among the promising ones. */
async function enter<T>(contenders: Contender<T>[], candidate: T, subject: Subject, first: readonly number[]): Promise<void> {
  let share = Number.POSITIVE_INFINITY;
  try {
    share = mean(shares(await subject.time(), first));
  } finally {
    if (share > promisingShare) subject.destroy();
  }
  if (share > promisingShare) return;
  contenders.push({ candidate, subject, share, rounds: [] });
  contenders.sort((a, b) => a.share - b.share);
  for (const { subject: slowest } of contenders.splice(mostFinalists)) slowest.destroy();
}

/** The share of the default's time that counts: 1 where the gain could be noise, or a workload pays for another. */
function gainOf<T>(one: Contender<T>, reference: Contender<T>): number {
  if (one === reference) return 1;
  // Round by round, so that what slows all down for a while cancels out.
  const byWorkload = medians(one.rounds.map((times, round) => shares(times, reference.rounds[round])));
  const share = mean(byWorkload);
  return share < winningShare && Math.max(...byWorkload) <= worstShare ? share : 1;
}

function shares(times: readonly number[], of: readonly number[]): number[] {
  return times.map((time, i) => Math.max(time, 1e-6) / Math.max(of[i], 1e-6));
}

/** The geometric mean. */
function mean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}

/** Of each column. */
function medians(rows: readonly (readonly number[])[]): number[] {
  return rows[0].map((_, column) => {
    const sorted = rows.map((row) => row[column]).sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  });
}
