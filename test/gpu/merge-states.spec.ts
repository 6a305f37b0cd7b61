/** Merging two attention states, against float64, and against attention over the union of their keys. */
import {
  type AttentionState,
  attention,
  CapacityExceededError,
  InvalidArgumentError,
  LaunchCache,
  prepareMergeStates,
} from '../../src/index.ts';
import {
  emptyBuffer,
  expect,
  expectClose,
  expectEqual,
  expectThrows,
  random,
  readFloats,
  type SpecContext,
  spec,
  uploadBuffer,
} from '../harness/harness.ts';

/** The log-sum-exp of a row that saw no key. */
const empty = Math.fround(-3e38);
const poison = 12345;
const tolerance = { atol: 1e-6, rtol: 1e-5 };

interface State {
  readonly output: Float32Array<ArrayBuffer>;
  readonly logSumExp: Float32Array<ArrayBuffer>;
}

interface Setup {
  readonly numHeads: number;
  readonly headDim: number;
  readonly maxTokens: number;
}

function randomState({ numHeads, headDim, maxTokens }: Setup, seed: number, spread = 3): State {
  const numbers = random(seed);
  return { output: numbers.normals(maxTokens * numHeads * headDim), logSumExp: numbers.normals(maxTokens * numHeads, spread) };
}

/** Makes a row a state of no keys; its output is what no result may show. */
function forget({ output, logSumExp }: State, row: number): void {
  const headDim = output.length / logSumExp.length;
  logSumExp[row] = empty;
  output.fill(Number.NaN, row * headDim, (row + 1) * headDim);
}

/** The same in float64. */
function referenceMerge(a: State, b: State) {
  const headDim = a.output.length / a.logSumExp.length;
  const output = new Float64Array(a.output.length);
  const logSumExp = Float64Array.from(a.logSumExp, (_, row) => {
    const states = [a, b].filter((state) => state.logSumExp[row] !== empty);
    if (states.length === 0) return empty;
    const maximum = Math.max(...states.map((state) => state.logSumExp[row]));
    const weights = states.map((state) => Math.exp(state.logSumExp[row] - maximum));
    const sum = weights.reduce((x, y) => x + y, 0);
    for (let i = row * headDim; i < (row + 1) * headDim; i++)
      output[i] = states.reduce((value, state, s) => value + (weights[s] / sum) * state.output[i], 0);
    return maximum + Math.log(sum);
  });
  return { output, logSumExp };
}

async function merge(t: SpecContext, setup: Setup, a: State, b: State, numTokens = setup.maxTokens) {
  const upload = ({ output, logSumExp }: State): AttentionState => ({
    output: uploadBuffer(t, output),
    logSumExp: uploadBuffer(t, logSumExp),
  });
  const output = uploadBuffer(t, new Float32Array(a.output.length).fill(poison));
  const logSumExp = uploadBuffer(t, new Float32Array(a.logSumExp.length).fill(poison));
  const cache = new LaunchCache(t.gpu, { mode: 'verify' });
  t.defer(() => cache.destroy());
  const site = await prepareMergeStates(cache, { ...setup, a: upload(a), b: upload(b), into: { output, logSumExp } });
  const encoder = t.gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  site.record(pass, numTokens);
  pass.end();
  cache.submit([encoder.finish()]);
  return { output: await readFloats(t.gpu, output), logSumExp: await readFloats(t.gpu, logSumExp), stats: cache.stats() };
}

const setup: Setup = { numHeads: 5, headDim: 24, maxTokens: 33 };

spec('is the float64 merge', async (t) => {
  const [a, b] = [randomState(setup, 1), randomState(setup, 2)];
  const { output, logSumExp } = await merge(t, setup, a, b);
  const expected = referenceMerge(a, b);
  expectClose(output, expected.output, tolerance);
  expectClose(logSumExp, expected.logSumExp, tolerance);
});

spec('log-sum-exps far apart and far from zero', async (t) => {
  const [a, b] = [randomState(setup, 3, 300), randomState(setup, 4, 300)];
  for (let row = 0; row < 20; row++) b.logSumExp[row] = a.logSumExp[row] + (row - 10) / 4;
  const { output, logSumExp } = await merge(t, setup, a, b);
  const expected = referenceMerge(a, b);
  expectClose(output, expected.output, tolerance);
  expectClose(logSumExp, expected.logSumExp, tolerance);
});

spec('an empty state on either side, and on both', async (t) => {
  const [a, b] = [randomState(setup, 5), randomState(setup, 6)];
  for (let row = 0; row < a.logSumExp.length; row++) {
    if (row % 4 === 1 || row % 4 === 3) forget(a, row);
    if (row % 4 === 2 || row % 4 === 3) forget(b, row);
  }
  const { output, logSumExp } = await merge(t, setup, a, b);
  const expected = referenceMerge(a, b);
  expectClose(output, expected.output, tolerance);
  expectClose(logSumExp, expected.logSumExp, tolerance);
  const { headDim } = setup;
  for (let row = 0; row < 12; row += 4) {
    const rowOf = (values: Float32Array, at: number) => values.subarray(at * headDim, (at + 1) * headDim);
    expectEqual(rowOf(output, row + 1), rowOf(b.output, row + 1), 'with a empty, b as it is');
    expectEqual(logSumExp[row + 1], b.logSumExp[row + 1], 'with a empty, the log-sum-exp of b');
    expectEqual(rowOf(output, row + 2), rowOf(a.output, row + 2), 'with b empty, a as it is');
    expect(
      rowOf(output, row + 3).every((value) => value === 0),
      'with both empty, zeros',
    );
    expectEqual(logSumExp[row + 3], empty, 'with both empty, the empty log-sum-exp');
  }
});

spec('writes the tokens of the launch and no others', async (t) => {
  const [a, b] = [randomState(setup, 7), randomState(setup, 8)];
  for (const numTokens of [0, 1, 20]) {
    const { output, logSumExp, stats } = await merge(t, setup, a, b, numTokens);
    const rows = numTokens * setup.numHeads;
    const expected = referenceMerge(a, b);
    expectClose(output.subarray(0, rows * setup.headDim), expected.output.subarray(0, rows * setup.headDim), tolerance);
    expect(
      output.subarray(rows * setup.headDim).every((value) => value === poison),
      `${numTokens} tokens: outputs behind the last`,
    );
    expect(
      logSumExp.subarray(rows).every((value) => value === poison),
      `${numTokens} tokens: log-sum-exps behind the last`,
    );
    expectEqual(stats.launches, numTokens === 0 ? 0 : 1, 'launches');
    expectEqual(stats.falseHits, 0, 'false hits');
  }
});

spec(
  'more workgroups than one dimension takes',
  async (t) => {
    const row = 16 * 256;
    const large: Setup = { numHeads: 16, headDim: 256, maxTokens: 4100 };
    const [a, b] = [randomState({ ...large, maxTokens: 1 }, 9), randomState({ ...large, maxTokens: 1 }, 10)];
    const repeat = ({ output, logSumExp }: State): State => {
      const repeated = { output: new Float32Array(large.maxTokens * row), logSumExp: new Float32Array(large.maxTokens * 16) };
      for (let token = 0; token < large.maxTokens; token++) {
        repeated.output.set(output, token * row);
        repeated.logSumExp.set(logSumExp, token * 16);
      }
      return repeated;
    };
    const { output } = await merge(t, large, repeat(a), repeat(b));
    const expected = referenceMerge(a, b).output;
    for (const token of [0, 4094, 4095, 4096, 4099]) expectClose(output.subarray(token * row, (token + 1) * row), expected, tolerance);
  },
  { devices: 'default' },
);

spec('parts of the keys, merged, are attention over all of them', async (t) => {
  const shape = { numHeads: 4, numKvHeads: 2, headDim: 32 };
  const [queries, keys, cut] = [7, 90, 37];
  const numbers = random(11);
  const query = numbers.normals(queries * 4 * 32);
  const key = numbers.normals(keys * 2 * 32);
  const value = numbers.normals(keys * 2 * 32);
  const over = (begin: number, end: number) => ({
    ...shape,
    query,
    key: key.subarray(begin * 64, end * 64),
    value: value.subarray(begin * 64, end * 64),
    causal: false,
    logSumExp: true,
  });
  const [a, b, whole] = [
    await attention(t.gpu, { ...over(0, cut), returns: 'buffer' }),
    await attention(t.gpu, { ...over(cut, keys), returns: 'buffer' }),
    await attention(t.gpu, over(0, keys)),
  ];
  for (const { output, logSumExp } of [a, b]) {
    t.defer(() => output.destroy());
    t.defer(() => logSumExp?.destroy());
  }
  expect(a.logSumExp && b.logSumExp && whole.logSumExp, 'a log-sum-exp is missing');
  const into = { output: emptyBuffer(t, query.byteLength), logSumExp: emptyBuffer(t, queries * 4 * 4) };
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const site = await prepareMergeStates(cache, {
    ...{ numHeads: 4, headDim: 32, maxTokens: queries, into },
    a: { output: a.output, logSumExp: a.logSumExp },
    b: { output: b.output, logSumExp: b.logSumExp },
  });
  const encoder = t.gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  site.record(pass, queries);
  pass.end();
  cache.submit([encoder.finish()]);
  expectClose(await readFloats(t.gpu, into.output), whole.output, { atol: 1e-6, rtol: 1e-5 });
  expectClose(await readFloats(t.gpu, into.logSumExp), whole.logSumExp, { atol: 1e-5, rtol: 1e-6 });
});

spec('refuses shapes that do not fit', async (t) => {
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const state = (): AttentionState => ({ output: emptyBuffer(t, 4 * 2 * 8 * 4), logSumExp: emptyBuffer(t, 4 * 2 * 4) });
  const options = { numHeads: 2, headDim: 8, maxTokens: 4, a: state(), b: state(), into: state() };
  const refuses = (change: Partial<typeof options>, message: RegExp) =>
    expectThrows(InvalidArgumentError, () => prepareMergeStates(cache, { ...options, ...change }), message);
  await refuses({ headDim: 6 }, /headDim is 6/);
  await refuses({ numHeads: 0 }, /numHeads is 0/);
  await refuses({ maxTokens: 1.5 }, /maxTokens is 1.5/);
  await refuses({ maxTokens: 5 }, /a\.output is "256 bytes", but must be at least 320 bytes/);
  await refuses({ b: { ...options.b, logSumExp: emptyBuffer(t, 28) } }, /b\.logSumExp is "28 bytes", but must be at least 32 bytes/);
  const shifted = { buffer: emptyBuffer(t, 512), offset: 4, size: 256 };
  await refuses({ a: { ...options.a, output: shifted } }, /a\.output\.offset is 4/);
  await refuses({ into: { ...options.into, output: options.a.output } }, /into\.output/);
  const site = await prepareMergeStates(cache, options);
  const encoder = t.gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  await expectThrows(CapacityExceededError, () => site.record(pass, 5), /maxTokens/);
  await expectThrows(InvalidArgumentError, () => site.record(pass, -1), /numTokens/);
  pass.end();
  encoder.finish();
});
