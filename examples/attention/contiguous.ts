/** Attention over plain tensors: a batch of two sequences, one call. `deno run -A examples/attention/contiguous.ts` */
import { attention, openGpu } from 'pagewise';

const gpu = await openGpu();
const normals = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898) * 2);

const { output, logSumExp } = await attention(gpu, {
  ...{ numHeads: 8, numKvHeads: 2, headDim: 64 },
  query: normals(4 * 8 * 64), // three new tokens of the first sequence, one of the second
  key: normals(30 * 2 * 64), // 20 keys of the first sequence, 10 of the second
  value: normals(30 * 2 * 64),
  queryStartLoc: [0, 3, 4],
  seqLens: [20, 10],
  window: 16,
  logSumExp: true,
});
console.log(`${output.length / 64} rows of 64, ${logSumExp?.length} log-sum-exps.`);
gpu.destroy();
