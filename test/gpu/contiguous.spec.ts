/** `attention` over plain tensors, against float64. */
import { type AttentionOptions, attention, DeviceLostError, InvalidArgumentError, LimitExceededError } from '../../src/index.ts';
import { expect, expectClose, expectEqual, expectThrows, random, readFloats, spec, uploadBuffer } from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { referenceAttention } from './reference.ts';

const exact = { atol: 1e-5, rtol: 1e-4 };
const empty = Math.fround(-3e38);

interface Heads {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}
const heads: Heads = { numHeads: 4, numKvHeads: 2, headDim: 32 };

type Tensors = Heads & {
  readonly query: Float32Array<ArrayBuffer>;
  readonly key: Float32Array<ArrayBuffer>;
  readonly value: Float32Array<ArrayBuffer>;
};

function tensors(queries: number, keys: number, seed = 1, shape = heads): Tensors {
  const { normals } = random(seed);
  const { numHeads, numKvHeads, headDim } = shape;
  const keyRow = numKvHeads * headDim;
  return { ...shape, query: normals(queries * numHeads * headDim), key: normals(keys * keyRow), value: normals(keys * keyRow) };
}

/** What becomes of a score: `mask` first, as an undefined score takes no part. */
type Score = (score: number, head: number, query: number, key: number) => number | undefined;

/** Attention of one sequence in float64; a query's place is its number from the end of the keys. */
function reference(given: Tensors, score: Score, sinks?: readonly number[]) {
  const { numHeads, numKvHeads, headDim, query, key, value } = given;
  const queries = query.length / (numHeads * headDim);
  const keys = key.length / (numKvHeads * headDim);
  const output = new Float64Array(query.length);
  const logSumExp = new Float64Array(queries * numHeads);
  for (let row = 0; row < queries * numHeads; row++) {
    const head = row % numHeads;
    const kvHead = Math.floor(head / (numHeads / numKvHeads));
    const at = (k: number) => (k * numKvHeads + kvHead) * headDim;
    const scores = Array.from({ length: keys }, (_, k) => {
      let dot = 0;
      for (let d = 0; d < headDim; d++) dot += query[row * headDim + d] * key[at(k) + d];
      return score(dot / Math.sqrt(headDim), head, keys - queries + Math.floor(row / numHeads), k);
    });
    const seen = [...scores.filter((s) => s !== undefined), ...(sinks ? [sinks[head]] : [])];
    const maximum = Math.max(...seen);
    const sum = seen.reduce((total, s) => total + Math.exp(s - maximum), 0);
    logSumExp[row] = seen.length === 0 ? empty : maximum + Math.log(sum);
    scores.forEach((s, k) => {
      for (let d = 0; s !== undefined && d < headDim; d++) output[row * headDim + d] += (Math.exp(s - maximum) / sum) * value[at(k) + d];
    });
  }
  return { output, logSumExp };
}

const causal: Score = (score, _, query, key) => (key <= query ? score : undefined);

spec('one sequence, as many queries as keys', async (t) => {
  const given = tensors(70, 70);
  const { output, logSumExp } = await attention(t.gpu, given);
  expectClose(output, referenceAttention({ ...given, scale: 32 ** -0.5 }), exact);
  expectEqual(logSumExp, undefined, 'logSumExp that nobody asked for');
});

spec('one query over many keys, on one head', async (t) => {
  const given = tensors(1, 1000, 2, { numHeads: 1, numKvHeads: 1, headDim: 64 });
  const { numKvHeads: _, ...options } = given; // default: numHeads
  const { output } = await attention(t.gpu, { ...options, scale: 0.3 });
  expectClose(output, referenceAttention({ ...given, scale: 0.3 }), exact);
});

/** Lengths (queries, keys), and the parts of each tensor that belong to one sequence. */
const lengths = [
  [1, 300],
  [0, 5],
  [9, 80],
  [40, 40],
  [0, 0],
  [1, 1],
] as const;
const queryStartLoc = [0, 1, 1, 10, 50, 50, 51];
const seqLens = lengths.map(([, keys]) => keys);

function* sequencesOf({ query, key, value, ...shape }: Tensors): Generator<Tensors> {
  let [queryAt, keyAt] = [0, 0];
  for (const [queries, keys] of lengths) {
    const queryEnd = queryAt + queries * shape.numHeads * shape.headDim;
    const keyEnd = keyAt + keys * shape.numKvHeads * shape.headDim;
    yield { ...shape, query: query.subarray(queryAt, queryEnd), key: key.subarray(keyAt, keyEnd), value: value.subarray(keyAt, keyEnd) };
    [queryAt, keyAt] = [queryEnd, keyEnd];
  }
}

for (const shape of [heads, { numHeads: 5, numKvHeads: 1, headDim: 24 }]) {
  spec(`a batch of sequences, ${shape.numHeads} heads of ${shape.headDim}`, async (t) => {
    const given = tensors(51, 426, 3, shape);
    const { output, logSumExp } = await attention(t.gpu, { ...given, queryStartLoc, seqLens, logSumExp: true });
    const expected = [...sequencesOf(given)].map((one) => reference(one, causal));
    expectClose(
      output,
      expected.flatMap((one) => [...one.output]),
      exact,
    );
    expect(logSumExp, 'no logSumExp');
    expectClose(
      logSumExp,
      expected.flatMap((one) => [...one.logSumExp]),
      exact,
    );
  });
}

const slopes = [0.5, 0.25, 0.125, 0.0625];
const sinks = [1, -2, 40, -40];

const options: Readonly<Record<string, readonly [Partial<Omit<AttentionOptions, 'returns'>>, Score, sinks?: readonly number[]]>> = {
  'a window with kept keys': [
    { window: 10, keepFirst: 3 },
    (score, _, query, key) => (key <= query && (key > query - 10 || key < 3) ? score : undefined),
  ],
  softcap: [{ softcap: 2 }, (score, _, query, key) => (key <= query ? 2 * Math.tanh(score / 2) : undefined)],
  ALiBi: [{ alibi: { slopes } }, (score, head, query, key) => (key <= query ? score + slopes[head] * (key - query) : undefined)],
  sinks: [{ sinks }, causal, sinks],
  'without an order': [{ causal: false }, (score) => score],
  modifications: [
    {
      modifications: {
        scoreMod: 'fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32 { return score * modData(head); }',
        maskMod: 'fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool { return (query - key) % args.stride == 0u; }',
        scalars: { stride: 'u32' },
      },
      scalars: { stride: 3 },
      data: slopes,
    },
    (score, head, query, key) => (key <= query && (query - key) % 3 === 0 ? score * slopes[head] : undefined),
  ],
};

for (const [name, [change, score, headSinks]] of Object.entries(options)) {
  spec(`option: ${name}`, async (t) => {
    const given = tensors(20, 75, 4);
    const { output, logSumExp } = await attention(t.gpu, { ...given, ...change, logSumExp: true });
    const expected = reference(given, score, headSinks);
    expectClose(output, expected.output, exact);
    expectClose(logSumExp ?? [], expected.logSumExp, exact);
  });
}

spec('cross-attention: more queries than keys', async (t) => {
  const [one, two] = [tensors(50, 7, 5), tensors(5, 5, 6)];
  const joined = (name: 'query' | 'key' | 'value') => Float32Array.of(...one[name], ...two[name]);
  const given = { ...heads, query: joined('query'), key: joined('key'), value: joined('value') };
  const { output } = await attention(t.gpu, { ...given, causal: false, queryStartLoc: [0, 50, 55], seqLens: [7, 5] });
  const expected = [one, two].flatMap((part) => [...reference(part, (score) => score).output]);
  expectClose(output, expected, exact);
});

for (const [kvDtype, tolerance] of Object.entries({ f16: 5e-3, int8: 3e-2, fp8_e4m3: 1.5e-1, fp8_e5m2: 1.5e-1 } as const)) {
  spec(
    `keys and values in ${kvDtype}`,
    async (t) => {
      const given = tensors(20, 75, 7);
      const { output } = await attention(t.gpu, { ...given, kvDtype: kvDtype as AttentionOptions['kvDtype'] });
      expectClose(output, reference(given, causal).output, { atol: tolerance, rtol: tolerance });
    },
    { devices: 'granted', hostIndependent: kvDtype === 'fp8_e5m2' },
  );
}

spec('buffers in, larger than needed, and buffers out', async (t) => {
  const given = tensors(51, 426, 8);
  const upload = (values: Float32Array<ArrayBuffer>) => {
    const padded = new Float32Array(values.length + 99).fill(Number.NaN);
    padded.set(values);
    return uploadBuffer(t, padded);
  };
  const { output, logSumExp } = await attention(t.gpu, {
    ...{ ...given, query: upload(given.query), key: upload(given.key), value: upload(given.value) },
    ...{ queryStartLoc, seqLens, logSumExp: true, returns: 'buffer' },
  });
  t.defer(() => output.destroy());
  t.defer(() => logSumExp?.destroy());
  expect(logSumExp, 'no logSumExp');
  const arrays = await attention(t.gpu, { ...given, queryStartLoc, seqLens, logSumExp: true });
  expectEqual(await readFloats(t.gpu, output), arrays.output, 'output');
  expectEqual(await readFloats(t.gpu, logSumExp), arrays.logSumExp, 'logSumExp');
});

spec('deterministic: a row alone is the row in a batch', async (t) => {
  const given = tensors(51, 426, 9);
  const { output } = await attention(t.gpu, { ...given, queryStartLoc, seqLens, deterministic: true });
  const parts: number[] = [];
  for (const one of sequencesOf(given)) parts.push(...(await attention(t.gpu, { ...one, deterministic: true })).output);
  expectEqual([...output], parts, 'outputs');
});

spec('two calls at once do not meet', async (t) => {
  const all = [10, 11, 12].map((seed) => tensors(seed, 3 * seed, seed));
  const results = await Promise.all(all.map((given) => attention(t.gpu, given)));
  for (const [i, { output }] of results.entries()) expectClose(output, reference(all[i], causal).output, exact);
});

spec('a second call compiles nothing, and nothing is left behind', async (t) => {
  const gpu = await t.openGpu();
  const counts = countObjects(t, gpu);
  const pipelines = () => (counts.created.createComputePipelineAsync ?? 0) + (counts.created.createComputePipeline ?? 0);
  await attention(gpu, tensors(20, 75));
  const [compiled, live] = [pipelines(), counts.liveBuffers()];
  expect(compiled > 0, 'the first call compiled nothing');
  expect(live <= 1, `${live} buffers are left, expected the arguments' one`);
  const query = uploadBuffer(t, tensors(3, 1).query, undefined, gpu);
  await attention(gpu, { ...tensors(20, 75, 2), logSumExp: true });
  await attention(gpu, { ...tensors(1, 600, 3), window: 50, softcap: 20, sinks, scale: 0.5 });
  await attention(gpu, { ...tensors(51, 426, 3), queryStartLoc, seqLens });
  for (let i = 0; i < 20; i++) await attention(gpu, { ...tensors(3, 10), query });
  await expectThrows(InvalidArgumentError, () => attention(gpu, { ...tensors(20, 75), softcap: -1 }), /softcap/);
  expectEqual(pipelines(), compiled, 'pipelines');
  const kept = await attention(gpu, { ...tensors(3, 10), returns: 'buffer' });
  expectEqual(counts.liveBuffers(), live + 2, 'live buffers: the query of this spec, and the result');
  kept.output.destroy();
});

spec('an empty batch gives an empty output', async (t) => {
  const nothing = new Float32Array(0);
  const none = { ...heads, query: nothing, key: nothing, value: nothing };
  const { output, logSumExp } = await attention(t.gpu, { ...none, queryStartLoc: [0], seqLens: [], logSumExp: true });
  expectEqual([output.length, logSumExp?.length], [0, 0], 'lengths');
  expectEqual((await attention(t.gpu, none)).output.length, 0, 'length of one empty sequence');
  const keys = tensors(0, 5);
  expectEqual((await attention(t.gpu, { ...keys, query: nothing })).output.length, 0, 'length without a query');
  const buffers = await attention(t.gpu, { ...none, returns: 'buffer' });
  buffers.output.destroy();
});

spec('refuses what does not fit', async (t) => {
  const given = tensors(5, 9);
  const refuses = (change: object, message: RegExp) =>
    expectThrows(
      InvalidArgumentError,
      () => attention(t.gpu, { ...given, ...change } as AttentionOptions & { returns?: 'array' }),
      message,
    );
  await refuses({ numHeads: 3 }, /numHeads is 3, but must be a positive multiple of numKvHeads/);
  await refuses({ numHeads: 6 }, /query is "640 values", but must be whole rows of 192/);
  await refuses({ numHeads: 0 }, /numHeads is 0/);
  await refuses({ numHeads: 20, numKvHeads: 5 }, /key is "576 values"/);
  await refuses({ headDim: 4, numHeads: 32, numKvHeads: 16 }, /headDim is 4, but must be a multiple of 8 from 8 to 256/);
  await refuses({ query: new Float64Array(640) }, /query is "a Float64Array", but must be a Float32Array or a GPUBuffer/);
  await refuses({ key: undefined }, /key is "undefined"/);
  await refuses({ value: given.value.subarray(64) }, /value is "8 rows", but must be 9 rows, as seqLens says/);
  await refuses({ query: uploadBuffer(t, given.query, GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST) }, /query\.usage/);
  await refuses({ kvDtype: 'int4' }, /kvDtype is "int4", but must be one of f32, f16/);
  await refuses({ returns: 'promise' }, /returns/);
  await refuses({ causal: 1 }, /causal/);
  await refuses({ sinks: [1] }, /sinks/);
  await refuses({ seqLens: [9] }, /queryStartLoc is undefined/);
  await refuses({ queryStartLoc: [0, 5] }, /seqLens is undefined/);
  await refuses({ queryStartLoc: [0, 5], seqLens: [4, 5] }, /queryStartLoc is "2 numbers", but must be 3/);
  await refuses({ queryStartLoc: [0, 5, 3], seqLens: [5, 4] }, /queryStartLoc is "\[0,5,3\]"/);
  await refuses({ queryStartLoc: [1, 5], seqLens: [9] }, /queryStartLoc/);
  await refuses({ queryStartLoc: [0, 5], seqLens: [4.5] }, /seqLens\[0\] is 4\.5/);
  await refuses({ queryStartLoc: [0, 4], seqLens: [9] }, /query is "5 rows", but must be 4 rows/);
  await refuses({ queryStartLoc: [0, 5], seqLens: [10] }, /key is "9 rows", but must be 10 rows/);
  await refuses({ queryStartLoc: [0, 5, 5], seqLens: [4, 5] }, /seqLens\[0\] is 4, but must be at least its 5 queries/);
  await refuses({ queryStartLoc: [0, 5, 5], seqLens: [0, 9], causal: false }, /seqLens\[0\] is 0/);
  await refuses({ query: tensors(10, 1).query, causal: false, window: 3 }, /seqLens\[0\] is 9, but must be at least its 10 queries/);
  const small = uploadBuffer(t, given.key.subarray(64));
  await refuses({ key: small, queryStartLoc: [0, 5], seqLens: [9] }, /key is "8 rows", but must be at least 9 rows/);
});

spec(
  'refuses what the device cannot bind',
  async (t) => {
    const keys = t.gpu.limits.maxStorageBufferBindingSize / 4 / 256 + 1;
    const row = new Float32Array(256);
    const options = { numHeads: 1, headDim: 256, query: row, kvDtype: 'int8' } as const;
    const key = { size: 1024 * keys, usage: GPUBufferUsage.STORAGE } as GPUBuffer;
    await expectThrows(LimitExceededError, () => attention(t.gpu, { ...options, key, value: key, queryStartLoc: [0, 1], seqLens: [keys] }));
  },
  { devices: 'default' },
);

spec('a lost device is a DeviceLostError', async (t) => {
  const gpu = await t.openGpu();
  await attention(gpu, tensors(2, 2));
  gpu.destroy();
  await expectThrows(DeviceLostError, () => attention(gpu, tensors(2, 2)));
});
