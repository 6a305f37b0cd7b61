/** The choice of the next token: greedy, within top-k and top-p, by seed. */
import { expect, expectEqual, random, type SpecContext, spec } from '../harness/harness.ts';
import { allowed, openSampler, probabilities, type SampleRow, untouched } from './sample-case.ts';

/** Draws `count` tokens of one distribution by a changing seed or position. */
async function draw(t: SpecContext, row: SampleRow, count: number, by: 'seed' | 'position', rowsAtOnce = count): Promise<number[]> {
  const sample = await openSampler(t, rowsAtOnce);
  const tokens: number[] = [];
  for (let first = 0; first < count; first += rowsAtOnce) {
    const rows = Array.from({ length: rowsAtOnce }, (_, i) => ({ seed: 3, position: 5, ...row, [by]: first + i }));
    tokens.push(...(await sample(rows)).map(({ token }) => token));
  }
  return tokens;
}

/** Sum of (found - expected)^2 / expected over the outcomes that are expected at all. */
function chiSquare(found: readonly number[], chances: ArrayLike<number>): number {
  const total = found.reduce((a, b) => a + b, 0);
  return found.reduce((sum, count, i) => sum + (chances[i] > 0 ? (count - total * chances[i]) ** 2 / (total * chances[i]) : 0), 0);
}

const countsOf = (values: readonly number[], outcomes: number) => {
  const counts = Array<number>(outcomes).fill(0);
  for (const value of values) counts[value]++;
  return counts;
};

const few = Float32Array.of(1.5, -0.5, 2, 0, 1, -3, 0.7);

for (const vocabulary of [7, 4096, 50257]) {
  spec(
    `vocabulary of ${vocabulary}: greedy takes the largest, the lowest id among equals`,
    async (t) => {
      const numbers = random(vocabulary);
      const logits = Array.from({ length: 6 }, () => numbers.normals(vocabulary));
      logits[1][3] = logits[1][vocabulary - 1] = 20;
      logits[2].fill(-4);
      logits[3] = logits[3].map((logit) => -Math.abs(logit) - 1000);
      logits[4][vocabulary - 1] = 1e30;
      logits[5].fill(-1e30);
      logits[5][5] = -9e29;
      const sample = await openSampler(t, 8);
      const tokens = await sample(logits.map((row) => ({ logits: row, temperature: 0, topK: 2, topP: 0.5 })));
      const largest = logits.map((row) => row.indexOf(row.reduce((a, b) => Math.max(a, b))));
      expectEqual(largest.slice(1, 3), [3, 0], 'largest, as the host sees it');
      expectEqual(
        tokens.map(({ token }) => token),
        [...largest, untouched.token, untouched.token],
      );
    },
    { devices: vocabulary === 4096 ? 'both' : 'default' },
  );

  spec(
    `vocabulary of ${vocabulary}: top-k of 1, a tiny top-p and a tiny temperature are greedy`,
    async (t) => {
      const numbers = random(vocabulary + 1);
      const cases = [
        { topK: 1 },
        { topP: 1e-6 },
        { temperature: 1e-4 },
        { temperature: 1e-30 },
        { temperature: 1e-40 },
        { topK: 1, topP: 0.3, temperature: 5 },
      ];
      const rows = cases.map((options, i) => ({ ...options, logits: numbers.normals(vocabulary, i % 2 === 0 ? 1 : 4), seed: i }));
      const sample = await openSampler(t, rows.length);
      const tokens = await sample(rows);
      const greedy = rows.map(({ logits }) => logits.indexOf(logits.reduce((a, b) => Math.max(a, b))));
      expectEqual(
        tokens.map(({ token }) => token),
        greedy,
      );
    },
    { devices: 'default' },
  );
}

/** Logits with a few likely tokens among many. */
function peaked(vocabulary: number, peaks: readonly number[], rest: number, seed: number): Float32Array {
  const numbers = random(seed);
  const logits = numbers.normals(vocabulary).map((logit) => rest + logit / 2);
  const places = numbers.permutation(vocabulary);
  peaks.forEach((peak, i) => {
    logits[places[i]] = peak;
  });
  return logits;
}

const supports: Readonly<Record<string, SampleRow>> = {
  'top-k': { logits: random(1).normals(4096), topK: 5, temperature: 0.8 },
  'top-k with ties': { logits: Float32Array.of(5, 4, 1, 4, 4, 3.9, -2), topK: 3, temperature: 2 },
  'top-k of negative logits': {
    logits: random(2)
      .normals(500)
      .map((logit) => -100 - Math.abs(logit)),
    topK: 6,
  },
  'top-k beyond the vocabulary': { logits: few, topK: 100, temperature: 3 },
  'top-p': { logits: few, topP: 0.8, temperature: 1.5 },
  'top-p of many': { logits: peaked(4096, [9, 8.8, 8.5, 8, 7.9, 7.5], -3, 4), topP: 0.9 },
  'top-p of nearly all': { logits: peaked(300, [6, 5.5, 5, 4.5, 4, 3.5], -12, 5), topP: 0.995 },
  'top-k, then top-p within': { logits: peaked(4096, [4, 3.8, 3.6, 3.4, 3.2, 3, 2.8, 2.6], -1, 6), topK: 7, topP: 0.6, temperature: 1.2 },
  'both signs': { logits: Float32Array.of(0.4, -0.3, 0.2, -0.1, 0, -6, 0.1), topK: 4 },
};

for (const [name, row] of Object.entries(supports)) {
  spec(
    `support of ${name}`,
    async (t) => {
      const chances = allowed(row);
      const support = [...chances.keys()].filter((token) => chances[token] > 0);
      const least = Math.min(...support.map((token) => chances[token]));
      expect(support.length > 1 && least * 480 > 12, `a case that shows little: ${support.length} tokens, least chance ${least}`);
      const found = new Set(await draw(t, row, 480, 'seed', 240));
      expectEqual(
        [...found].sort((a, b) => a - b),
        support,
      );
    },
    { devices: 'default' },
  );
}

for (const by of ['seed', 'position'] as const) {
  spec(
    `frequencies follow softmax, draws by ${by} are independent`,
    async (t) => {
      const temperature = 1.3;
      const tokens = await draw(t, { logits: few, temperature }, 2048, by);
      const chances = probabilities(few, temperature);
      const single = chiSquare(countsOf(tokens, 7), chances);
      // 6 degrees of freedom: 30 is exceeded once in 25 000 tries, 48: 110 once in a million.
      expect(single < 30, `chi-square of tokens is ${single}`);
      const pairs = tokens.slice(1).map((token, i) => tokens[i] * 7 + token);
      const joint = Float64Array.from({ length: 49 }, (_, i) => chances[Math.floor(i / 7)] * chances[i % 7]);
      const paired = chiSquare(countsOf(pairs, 49), joint);
      expect(paired < 110, `chi-square of neighbours is ${paired}`);
      t.log(`chi-square ${single.toFixed(1)} of 6, neighbours ${paired.toFixed(1)} of 48`);
    },
    { devices: 'default' },
  );
}

spec(
  'frequencies follow softmax within top-k and top-p of a large vocabulary',
  async (t) => {
    const row = supports['top-k, then top-p within'];
    const chances = allowed(row);
    const tokens = await draw(t, row, 600, 'position', 300);
    const support = [...chances.keys()].filter((token) => chances[token] > 0);
    const counts = support.map((token) => tokens.filter((drawn) => drawn === token).length);
    const measured = chiSquare(
      counts,
      support.map((token) => chances[token]),
    );
    expect(measured < 35, `chi-square of ${support.length} tokens is ${measured}`);
  },
  { devices: 'default' },
);

/** 17 million random numbers: the rarest must not let a token in that has no chance. */
spec(
  'a token without a chance never comes',
  async (t) => {
    const logits = new Float32Array(32768).fill(-40);
    logits[17] = 0;
    const tokens = await draw(t, { logits }, 512, 'position', 128);
    expectEqual([...new Set(tokens)], [17]);
  },
  { devices: 'default' },
);

spec(
  'a top-p just below 1 lets in the whole of top-k, and no more',
  async (t) => {
    const numbers = random(31);
    const rows = Array.from({ length: 300 }, (_, seed) => ({
      logits: numbers.normals(400),
      topK: 3,
      topP: 1 - 2 ** -24,
      temperature: 20,
      seed,
    }));
    const sample = await openSampler(t, rows.length);
    const ranks = (await sample(rows)).map(({ token }, i) => rows[i].logits.filter((logit) => logit > rows[i].logits[token]).length);
    expectEqual(
      [...new Set(ranks)].sort((a, b) => a - b),
      [0, 1, 2],
    );
  },
  { devices: 'default' },
);

spec(
  'the same seed and position give the same token, others another',
  async (t) => {
    const logits = new Float32Array(4096);
    const sample = await openSampler(t, 6);
    const options = [
      [1, 1],
      [1, 1],
      [1, 2],
      [2, 1],
      [0xffffffff, 1],
      [1, 0xffffff],
    ];
    const rows = options.map(([seed, position]) => ({ logits, seed, position }));
    const tokens = (await sample(rows)).map(({ token }) => token);
    expectEqual(new Set(tokens).size, 5, `different tokens among ${tokens}`);
    expectEqual(tokens[0], tokens[1], 'the same seed and position');
    const again = (await sample([...rows].reverse())).map(({ token }) => token);
    expectEqual(again.reverse(), tokens, 'in other rows');
  },
  { devices: 'default' },
);

spec('a stop token ends the sequence, which stays ended until its row is first used again', async (t) => {
  const logitsFor = (token: number) => Float32Array.from({ length: 300 }, (_, i) => (i === token ? 5 : 0));
  const sample = await openSampler(t, 4);
  const greedy = { temperature: 0, stopTokens: [7, 250, 9] };
  const run = async (sequence: number, token: number, more: Partial<SampleRow> = {}) => {
    const { token: chosen, finished } = (await sample([{ ...greedy, logits: logitsFor(token), sequence, ...more }]))[sequence];
    return [chosen, finished];
  };
  expectEqual(await run(1, 8, { first: true }), [8, 0], 'first, no stop');
  expectEqual(await run(1, 11), [11, 0], 'no stop');
  expectEqual(await run(1, 250), [250, 1], 'the second stop token');
  expectEqual(await run(1, 11), [11, 1], 'after a stop');
  expectEqual(await run(2, 9, { first: true }), [9, 1], 'a stop at once');
  expectEqual(await run(1, 11, { stopTokens: [] }), [11, 1], 'after a stop, without stop tokens');
  expectEqual(await run(1, 12, { first: true }), [12, 0], 'first again');
  expectEqual(await run(1, 7, { stopTokens: [] }), [7, 0], 'no stop tokens');
  const both = await sample([
    { ...greedy, logits: logitsFor(3), sequence: 3, first: true, stopTokens: [1] },
    { ...greedy, logits: logitsFor(1), sequence: 2, first: true, stopTokens: [3, 1] },
  ]);
  expectEqual(
    [both[3], both[2], both[0]],
    [{ token: 3, finished: 0 }, { token: 1, finished: 1 }, untouched],
    'rows with lists of their own',
  );
});

spec(
  'the width of a workgroup changes no token',
  async (t) => {
    const numbers = random(77);
    const rows = Array.from({ length: 60 }, (_, seed) => ({
      logits: numbers.normals(1000, 3),
      temperature: seed % 3,
      topK: (7 * seed) % 40,
      topP: seed % 2 ? 0.8 : 1,
      seed,
    }));
    const tokens = await Promise.all(
      [16, 64, 256].map(async (invocations) => {
        const sample = await openSampler(t, rows.length, { invocations });
        return (await sample(rows)).map(({ token }) => token);
      }),
    );
    expectEqual(tokens[1], tokens[0], '64 invocations as 16');
    expectEqual(tokens[2], tokens[0], '256 invocations as 16');
    expect(new Set(tokens[0]).size > 20, 'the rows choose many tokens');
  },
  { devices: 'default' },
);
