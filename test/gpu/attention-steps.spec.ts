/** A cache in use: sequences come, grow, shrink and go, over blocks and table rows that others had before. */
import { expect, expectClose, expectEqual, random, readBuffer, type SpecContext, spec } from '../harness/harness.ts';
import { PagedSession, type PagedSetup, type TestSequence } from './paged.ts';

const setup: PagedSetup = {
  numHeads: 4,
  numKvHeads: 2,
  headDim: 32,
  blockSize: 8,
  dtype: 'f32',
  numBlocks: 24,
  maxSequences: 4,
  maxBlocksPerSequence: 12,
  maxTokensPerStep: 60,
  options: { minSegmentKeys: 32, targetWorkgroups: 64 },
};
const tolerance = { atol: 1e-5, rtol: 1e-4 };

/** The rows of the block table that belong to open sequences are what the host says. */
async function checkTable(t: SpecContext, { kv }: PagedSession, open: readonly TestSequence[]): Promise<void> {
  const table = new Uint32Array(await readBuffer(t.gpu, kv.blockTable));
  for (const { sequence } of open) {
    const start = sequence.tableRow * setup.maxBlocksPerSequence;
    expectEqual([...table.subarray(start, start + sequence.blocks.length)], [...sequence.blocks], `table row ${sequence.tableRow}`);
  }
}

spec('sixty steps of random sequences', async (t) => {
  const numbers = random(77);
  const session = await PagedSession.open(t, setup, numbers);
  const open = new Set<TestSequence>();
  let compared = 0;
  for (let step = 0; step < 60; step++) {
    if (open.size < 4 && numbers.uniform() < 0.5) open.add(session.open());
    for (const one of open) {
      const fate = numbers.uniform();
      if (fate < 0.08) {
        session.kv.close(one.sequence);
        open.delete(one);
      } else if (fate < 0.25) {
        session.truncate(one, numbers.integer(one.sequence.length + 1));
      }
    }
    let [budget, blocks] = [setup.maxTokensPerStep, session.kv.blocks.free];
    const batch = [...open].flatMap((one): [TestSequence, number][] => {
      const { length, blocks: held } = one.sequence;
      const wanted = numbers.uniform() < 0.6 ? 1 : numbers.integer(25);
      const room = Math.min(budget, setup.maxBlocksPerSequence * 8 - length, (held.length + blocks) * 8 - length);
      const queryLen = Math.max(0, Math.min(wanted, room));
      budget -= queryLen;
      blocks -= Math.max(0, Math.ceil((length + queryLen) / 8) - held.length);
      return [[one, queryLen]];
    });
    const { actual, expected } = await session.step(batch);
    expectClose(actual, expected, { ...tolerance, label: `step ${step}` });
    compared += expected.length;
  }
  await checkTable(t, session, [...open]);
  expect(compared > 100 * 4 * 32, `only ${compared} values were compared`);
});

spec('a table row that changes hands between two steps has its last owner', async (t) => {
  const session = await PagedSession.open(t, setup, random(3));
  const first = session.open();
  const second = session.open();
  await session.step([[first, 40]]);
  for (let round = 0; round < 5; round++) {
    // The entries of the first row change several times before the next plan.
    for (const length of [0, 20, 8, 0]) {
      session.kv.truncate(first.sequence, Math.min(length, first.sequence.length));
      session.kv.extend(second.sequence, 8);
      session.kv.extend(first.sequence, 24);
    }
    session.truncate(first, 0);
    session.truncate(second, 0);
    const { actual, expected } = await session.step([
      [first, 30],
      [second, 17],
    ]);
    expectClose(actual, expected, { ...tolerance, label: `round ${round}` });
    await checkTable(t, session, [first, second]);
  }
});

spec('decoding token by token gives what one prefill gives', async (t) => {
  const numbers = random(6);
  const session = await PagedSession.open(t, { ...setup, adapt: repeatable() }, numbers);
  const [whole, single] = [session.open(), session.open()];
  const { actual } = await session.step([[whole, 40]]);
  const rows: number[] = [];
  for (let token = 0; token < 40; token++) rows.push(...(await session.step([[single, 1]])).actual);
  expectClose(rows, actual, tolerance);
});

/** Rows that depend on the position alone. */
function repeatable() {
  return (rows: { query: Float32Array; key: Float32Array; value: Float32Array }, position: number) => {
    const numbers = random(1000 + position);
    for (const row of [rows.query, rows.key, rows.value]) row.set(numbers.normals(row.length));
  };
}
