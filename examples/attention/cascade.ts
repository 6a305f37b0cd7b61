/** A prefix that sequences share is read once; and the merge behind it, by hand. `deno run -A examples/attention/cascade.ts` */
import { attention, LaunchCache, openGpu, prepareMergeStates } from 'pagewise';
import { largestDifference, Session } from './session.ts';

const gpu = await openGpu();

// Three sequences with the same first 64 tokens, each with a next token of its own.
const session = await Session.open(gpu);
const first = session.kv.open();
session.kv.extend(first, 64);
await session.step([{ sequence: first, queryLen: 64 }], session.rowsOf(Array.from({ length: 64 }, (_, i) => i)));
const sequences = [first, session.kv.fork(first), session.kv.fork(first)];
for (const sequence of sequences) session.kv.extend(sequence, 1);
const batch = sequences.map((sequence) => ({ sequence, queryLen: 1 }));
const rows = session.rowsOf([100, 101, 102]);
const apart = await session.step(batch, rows, []);
const together = await session.step(batch, rows, [{ first: 0, count: 3, prefixLen: 64 }]);
console.log(`cascade: the same results, ${largestDifference(apart, together) < 1e-5}`);

// Two parts of the keys, and their merge.
const shape = { numHeads: 2, headDim: 16, query: rows.query, causal: false, logSumExp: true, returns: 'buffer' } as const;
const { key, value } = session.rowsOf([1, 2, 3, 4, 5, 6, 7, 8, 9]);
const part = (begin: number, end: number) => ({ key: key.subarray(begin * 32, end * 32), value: value.subarray(begin * 32, end * 32) });
const a = await attention(gpu, { ...shape, ...part(0, 4) });
const b = await attention(gpu, { ...shape, ...part(4, 9) });
const whole = await attention(gpu, { ...shape, key, value, returns: 'array' });

const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
const output = gpu.device.createBuffer({ size: 3 * 2 * 16 * 4, usage });
const logSumExp = gpu.device.createBuffer({ size: 3 * 2 * 4, usage });
const cache = new LaunchCache(gpu);
const merge = await prepareMergeStates(cache, {
  ...{ numHeads: 2, headDim: 16, maxTokens: 3 },
  a: { output: a.output, logSumExp: a.logSumExp! },
  b: { output: b.output, logSumExp: b.logSumExp! },
  into: { output, logSumExp },
});
const encoder = gpu.device.createCommandEncoder();
const pass = encoder.beginComputePass();
merge.record(pass, 3);
pass.end();
cache.submit([encoder.finish()]);
const merged = await session.read(output, 0, output.size);
console.log(`mergeStates: as over all keys, ${largestDifference(merged, whole.output) < 1e-5}`);
gpu.destroy();
