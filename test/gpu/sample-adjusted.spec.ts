/** What a request can ask of sampling beside temperature, top-k and top-p: each alone, in pairs, and with the log-probabilities. */
import { expect, expectClose, expectEqual, random, spec } from '../harness/harness.ts';
import { adjust, allowed, openSampler, openSampling, probabilities, type SampleRow, type Sampling, untouched } from './sample-case.ts';

const largest = (values: ArrayLike<number>) => Array.from(values).reduce((best, value, i, all) => (value > all[best] ? i : best), 0);

const maskOf = (vocabSize: number, tokens: Iterable<number>): Uint32Array => {
  const mask = new Uint32Array(Math.ceil(vocabSize / 32));
  for (const token of tokens) mask[token >> 5] |= 1 << (token & 31);
  return mask;
};

/** Bits behind the vocabulary, which must not matter, are set. */
const withBitsBehind = (mask: Uint32Array, vocabSize: number): Uint32Array =>
  mask.map((word, i) => (32 * (i + 1) > vocabSize ? word | (-1 << (vocabSize % 32)) : word));

type Options = Omit<SampleRow, 'logits'>;

/** Each option with a value that changes which tokens may come, made for these logits. */
function featuresOf(logits: Float32Array, seed: number): Readonly<Record<string, Options>> {
  const numbers = random(seed);
  const order = Array.from(logits, (_, token) => token).sort((a, b) => logits[b] - logits[a]);
  const some = (count: number) => Array.from({ length: count }, () => order[numbers.integer(order.length)]);
  const history = { prompt: [order[0], order[3], ...some(9)], output: [order[1], order[1], order[1], order[4], ...some(6)] };
  return {
    'top-k': { topK: 7 },
    'top-p': { topP: 0.7 },
    'min-p': { minP: 0.2 },
    repetition: { ...history, repetitionPenalty: 1.7 },
    'reward of repetition': { ...history, repetitionPenalty: 0.6 },
    presence: { ...history, presencePenalty: 1.5 },
    frequency: { ...history, frequencyPenalty: 0.6 },
    bias: {
      logitBias: [...new Set([order[0], order[9], order[20], ...some(12)])]
        .sort((a, b) => a - b)
        .map((token, i) => [token, Math.fround((i % 2 ? 1.3 : -2.1) * (1 + i / 7))] as const),
    },
    'banned stops': { banStopTokens: true, stopTokens: [order[2], order[0], ...some(3)] },
    mask: { allowedTokens: withBitsBehind(maskOf(logits.length, [...order.slice(1, 40), ...some(30)]), logits.length) },
  };
}

for (const vocabulary of [61, 4096]) {
  spec(
    `vocabulary of ${vocabulary}: greedy takes the largest logit that each option, and each pair of them, leaves`,
    async (t) => {
      const rows = [1, 2, 3].flatMap((seed) => {
        const logits = random(seed + vocabulary).normals(vocabulary, 2);
        const features = Object.values(featuresOf(logits, seed));
        return features.flatMap((one, i) => features.slice(i).map((other) => ({ logits, temperature: 0, ...one, ...other })));
      });
      const sample = await openSampler(t, rows.length);
      const tokens = (await sample(rows)).map(({ token }) => token);
      expectEqual(
        tokens,
        rows.map((row) => largest(adjust(row))),
      );
      const changed = tokens.filter((token, i) => token !== largest(rows[i].logits)).length;
      expect(changed > rows.length / 2, `${changed} of ${rows.length} rows chose another token than the likeliest`);
    },
    { devices: vocabulary === 61 ? 'both' : 'default' },
  );
}

{
  const logits = random(8).normals(61, 1.5);
  const features = Object.entries(featuresOf(logits, 8));
  const base = { logits, temperature: 1.4, topK: 6 };
  const draws = 320;
  for (const [i, [name, one]] of features.entries()) {
    spec(
      `${name}, alone and with each other option: exactly the tokens that may come`,
      async (t) => {
        const cases = features.slice(i).map(([other, more]) => ({ pair: `${name} and ${other}`, row: { ...base, ...one, ...more } }));
        const rows = cases.flatMap(({ row }) => Array.from({ length: draws }, (_, seed) => ({ ...row, seed, position: 9 })));
        const sample = await openSampler(t, rows.length);
        const tokens = (await sample(rows)).map(({ token }) => token);
        cases.forEach(({ pair, row }, index) => {
          const chances = allowed(row);
          const found = new Set(tokens.slice(index * draws, (index + 1) * draws));
          const support = [...chances.keys()].filter((token) => chances[token] > 0);
          const strange = [...found].filter((token) => chances[token] === 0);
          expectEqual(strange, [], `${pair}: tokens that may not come`);
          // One in a million of the least likely of these stays away.
          const missing = support.filter((token) => chances[token] * draws > 14 && !found.has(token));
          expectEqual(missing, [], `${pair}: likely tokens that did not come`);
          expect(support.length > 1 && found.size > 1, `${pair}: a case that shows little, ${support.length} tokens`);
        });
      },
      { devices: 'default' },
    );
  }
}

const minimums: Readonly<Record<string, SampleRow>> = {
  'min-p': { logits: Float32Array.of(2, 1.4, 1, 0.2, -0.1, -0.5, -3), minP: 0.25, temperature: 1 },
  'min-p at a high temperature': { logits: Float32Array.of(-7, -1, -2.5, -9, -3.9, -5.5, -8), minP: 0.3, temperature: 3 },
  'min-p, then top-k': { logits: Float32Array.of(2, 1.9, 1.8, 1.7, 0.3, 0.2, -3), minP: 0.1, topK: 3 },
  'min-p, then top-p of what it leaves': { logits: Float32Array.of(2, 1.9, 1.8, 1.7, 1.6, -0.5, -0.5), minP: 0.2, topP: 0.78 },
};

for (const [name, row] of Object.entries(minimums)) {
  spec(
    `support and frequencies of ${name}`,
    async (t) => {
      const draws = 1024;
      const sample = await openSampler(t, draws);
      const tokens = (await sample(Array.from({ length: draws }, (_, seed) => ({ ...row, seed })))).map(({ token }) => token);
      const chances = allowed(row);
      const counts = [...chances.keys()].map((token) => tokens.filter((drawn) => drawn === token).length);
      expectEqual(
        counts.map((count) => count > 0),
        [...chances].map((chance) => chance > 0),
        'support',
      );
      const square = counts.reduce((sum, n, i) => sum + (chances[i] > 0 ? (n - draws * chances[i]) ** 2 / (draws * chances[i]) : 0), 0);
      expect(square < 30, `chi-square is ${square}`);
    },
    { devices: 'default' },
  );
}

spec(
  'min-p of 1 leaves the likeliest alone',
  async (t) => {
    const numbers = random(5);
    const rows = Array.from({ length: 40 }, (_, seed) => ({ logits: numbers.normals(300), minP: 1, temperature: 0.3 + seed / 4, seed }));
    const sample = await openSampler(t, rows.length);
    expectEqual(
      (await sample(rows)).map(({ token }) => token),
      rows.map(({ logits }) => largest(logits)),
    );
  },
  { devices: 'default' },
);

/** log softmax in float64. */
function logprobsOf(logits: Float32Array): number[] {
  const maximum = logits.reduce((a, b) => Math.max(a, b));
  const mass = logits.reduce((sum, logit) => sum + Math.exp(logit - maximum), 0);
  return Array.from(logits, (logit) => logit - maximum - Math.log(mass));
}

function checkLogprobs({ results }: Sampling, rows: readonly SampleRow[]): void {
  results.forEach(({ token, logprob, top }, i) => {
    const { logits, logprobs } = rows[i];
    const expected = logprobsOf(logits);
    if (logprobs === undefined) {
      expectEqual([logprob, top], [undefined, undefined], `row ${i}, which asks for none`);
      return;
    }
    const order = Array.from(logits, (_, id) => id).sort((a, b) => logits[b] - logits[a] || a - b);
    expectClose([logprob as number], [expected[token]], { atol: 4e-6, rtol: 2e-6, label: `row ${i}: log-probability of ${token}` });
    const ids = order.slice(0, logprobs);
    expectEqual(
      top?.map(({ token: id }) => id),
      ids,
      `row ${i}: likeliest`,
    );
    const likely = top?.map((one) => one.logprob) ?? [];
    expectClose(
      likely,
      ids.map((id) => expected[id]),
      { atol: 4e-6, rtol: 2e-6, label: `row ${i}: log-probabilities` },
    );
    expect(
      [logprob as number, ...likely].every((one) => one <= 0),
      `row ${i}: a probability above 1`,
    );
  });
}

for (const vocabulary of [23, 4096, 50257]) {
  spec(
    `vocabulary of ${vocabulary}: log-probabilities are those of the model, whatever is sampled from`,
    async (t) => {
      const numbers = random(vocabulary);
      const certain = numbers.normals(vocabulary, 0.1);
      certain[5] = 40;
      const far = numbers.normals(vocabulary);
      far[7] = 1e30;
      far[8] = -1e30;
      const ties = numbers.normals(vocabulary).map((logit) => Math.round(logit));
      const flat = new Float32Array(vocabulary).fill(-3);
      const plain = numbers.normals(vocabulary, 3);
      const least = largest(plain.map((logit) => -logit));
      const rows: SampleRow[] = [
        { logits: certain, temperature: 0, logprobs: 3 },
        { logits: far, temperature: 0, logprobs: 20 },
        { logits: ties, temperature: 1, logprobs: 20 },
        { logits: flat, temperature: 1, logprobs: 5, seed: 3 },
        { logits: plain, temperature: 0 },
        { logits: plain, temperature: 0, logprobs: 0 },
        { logits: plain, temperature: 2.5, topK: 9, logprobs: 1, seed: 5 },
        { logits: plain, temperature: 0, logprobs: 4, allowedTokens: maskOf(vocabulary, [least]) },
        { logits: plain, temperature: 0, logprobs: 4, logitBias: [[least, 100]], prompt: [1], output: [2], repetitionPenalty: 2 },
      ];
      const sample = await openSampling(t, rows.length);
      const sampling = await sample(rows);
      checkLogprobs(sampling, rows);
      expectEqual([...new Set(sampling.behind)], [0xdeadbeef], 'behind the results');
      expectEqual(
        sampling.results.map(({ token }) => token),
        sampling.sampled.map(({ token }) => token),
        'tokens of results and of sequences',
      );
      expectEqual([sampling.results[7].token, sampling.results[8].token], [least, least], 'tokens that mask and bias choose');
    },
    { devices: vocabulary === 4096 ? 'both' : 'default' },
  );
}

spec(
  'a row that asks for nothing samples the same beside rows that do',
  async (t) => {
    const numbers = random(12);
    const plain = Array.from({ length: 40 }, (_, seed) => ({
      ...{ logits: numbers.normals(1000, 3), temperature: seed % 3, topK: (7 * seed) % 40, topP: seed % 2 ? 0.8 : 1, seed },
      ...{ stopTokens: [seed, 999] },
    }));
    const alone = await (await openSampler(t, 40))(plain);
    const beside = await (await openSampler(t, 41))(
      [{ ...plain[0], sequence: 40, logprobs: 2 }, ...plain].map((row, i) => ({ sequence: i - 1, ...row })),
    );
    expectEqual(beside.slice(0, 40), alone);
    expectEqual(
      await (await openSampler(t, 40, { adjusted: true }))(plain),
      alone,
      'all of them through the kernel for all that can be asked',
    );
  },
  { devices: 'default' },
);

spec('sampling counts what it chose, and nothing else', async (t) => {
  const vocabulary = 77;
  const logits = random(3).normals(vocabulary);
  const penalties = { logits, temperature: 0, frequencyPenalty: 0.01 };
  const rows: SampleRow[] = [
    { ...penalties, sequence: 5, prompt: [1, 2, 76], output: [4, 4, 76] },
    { ...penalties, sequence: 1, prompt: [largest(logits)], output: Array<number>(0x7fff).fill(largest(logits)), frequencyPenalty: 1e-6 },
    { logits, temperature: 0, sequence: 3, minP: 0.5 },
    { ...penalties, sequence: 2, prompt: [], output: [], logitBias: [[76, 50]] },
  ];
  const { counts, results } = await (await openSampling(t, 6))(rows);
  const expected = new Uint16Array(6 * 78).fill(0xbeef);
  for (const { sequence = 0, prompt, output = [] } of rows) {
    if (!prompt) continue;
    const own = expected.subarray(sequence * 78, (sequence + 1) * 78).fill(0);
    for (const token of output) own[token]++;
    for (const token of prompt) own[token] |= 0x8000;
  }
  for (const i of [0, 3]) expected[(rows[i].sequence ?? 0) * 78 + results[i].token]++;
  expectEqual(results[1].token, largest(logits), 'the token that was counted as often as can be');
  expectEqual(results[3].token, 76, 'the last token of the vocabulary');
  expectEqual(counts, expected);
});

spec(
  'where a mask allows stop tokens alone, they are not banned; where it allows another, they are',
  async (t) => {
    const vocabulary = 70;
    const logits = random(9).normals(vocabulary);
    logits[69] = 9;
    const row = { logits, temperature: 0, stopTokens: [69, 3], banStopTokens: true, first: true };
    const rows: SampleRow[] = [
      { ...row, allowedTokens: withBitsBehind(maskOf(vocabulary, [69, 3]), vocabulary) },
      { ...row, allowedTokens: withBitsBehind(maskOf(vocabulary, [69, 3, 66]), vocabulary) },
      { ...row, allowedTokens: maskOf(vocabulary, [3]), temperature: 1 },
      row,
    ];
    const { results } = await (await openSampling(t, 4))(rows);
    expectEqual(results, [
      { token: 69, finished: true },
      { token: 66, finished: false },
      { token: 3, finished: true },
      { token: largest(logits.map((logit, i) => (i === 69 ? -9 : logit))), finished: false },
    ]);
  },
  { devices: 'default' },
);

spec('several rows of one sequence have results of their own, and the last one goes on', async (t) => {
  const numbers = random(6);
  const make = (token: number) => numbers.normals(200).fill(7, token, token + 1);
  const row = (token: number, more: Options): SampleRow => ({ logits: make(token), temperature: 0, sequence: 2, last: false, ...more });
  for (const logprobs of [undefined, 2]) {
    const sample = await openSampling(t, 4);
    const stop = { stopTokens: [50, 120] };
    const rows = [
      row(10, { first: true, ...stop }),
      row(50, { first: true, ...stop, logprobs }),
      row(60, { first: true, ...stop, last: true }),
      { ...row(120, { last: true, first: true, ...stop, logprobs }), sequence: 0 },
      row(70, { temperature: 0.01, sequence: 3, stopTokens: [71] }),
      row(80, { sequence: 3, last: true, allowedTokens: maskOf(200, [81]) }),
    ];
    const { sampled, results } = await sample(rows);
    expectEqual(
      results.map(({ token, finished }) => [token, finished]),
      [
        [10, false],
        [50, true],
        [60, false],
        [120, true],
        [70, false], // not the last: of itself alone
        [81, true], // the sequence was finished before: 7 in `untouched`
      ],
    );
    expectEqual(sampled, [{ token: 120, finished: 1 }, untouched, { token: 60, finished: 0 }, { token: 81, finished: 7 }], 'sequences');
  }
});

spec(
  'the width of a workgroup changes no token and no log-probability',
  async (t) => {
    const logits = random(10).normals(1000, 2);
    const features = Object.values(featuresOf(logits, 10));
    const rows = features.flatMap((one, i) =>
      features.slice(i + 1, i + 3).map((other, j) => ({ logits, seed: i + j, temperature: (i + j) % 2, logprobs: 6, ...one, ...other })),
    );
    const runs = await Promise.all([16, 64, 256].map(async (invocations) => (await openSampling(t, rows.length, { invocations }))(rows)));
    for (const { results } of runs.slice(1)) {
      expectEqual(
        results.map(({ token, top }) => [token, top?.map((one) => one.token)]),
        runs[0].results.map(({ token, top }) => [token, top?.map((one) => one.token)]),
      );
    }
    for (const run of runs) checkLogprobs(run, rows);
  },
  { devices: 'default' },
);

spec(
  'most biases at once, in a vocabulary where many tokens share their place in the filter',
  async (t) => {
    const vocabulary = 20001;
    const numbers = random(21);
    const logits = numbers.normals(vocabulary);
    const tokens = [...numbers.permutation(vocabulary).slice(0, 1022), 0, vocabulary - 1];
    const logitBias = [...new Set(tokens)].sort((a, b) => a - b).map((token) => [token, Math.fround(3 * numbers.normal())] as const);
    const rows = [0, 1, 2].map((seed) => ({
      logits,
      temperature: seed,
      topK: 40,
      seed,
      logitBias,
      stopTokens: tokens.slice(0, 100),
      banStopTokens: true,
    }));
    const sample = await openSampler(t, rows.length);
    const found = (await sample(rows)).map(({ token }) => token);
    expectEqual(found[0], largest(adjust(rows[0])));
    for (const i of [1, 2]) expect(allowed(rows[i])[found[i]] > 0, `token ${found[i]} of row ${i}`);
    expect(probabilities(logits, 1)[found[0]] < 0.01, 'a token that the bias made the likeliest');
  },
  { devices: 'default' },
);
