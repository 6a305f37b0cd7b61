/** What the dtypes of a KV cache cost and save. `deno run -A examples/attention/quantised.ts` */
import { attention, type KvDtype, kvCacheBytes, openGpu } from 'pagewise';
import { largestDifference } from './session.ts';

const gpu = await openGpu();
const shape = { numKvHeads: 8, headDim: 128, blockSize: 16, numLayers: 32, numBlocks: 513, maxSequences: 1, maxBlocksPerSequence: 512 };
const rows = (seed: number) => Float32Array.from({ length: 100 * 8 * 128 }, (_, i) => Math.sin(i * 12.9898 + seed) * 2);
const tensors = { numHeads: 8, headDim: 128, query: rows(1), key: rows(2), value: rows(3) };
const exact = await attention(gpu, tensors);
const bounds: Record<KvDtype, number> = { f32: 1e-9, f16: 1e-2, int8: 5e-2, fp8_e4m3: 0.3, fp8_e5m2: 0.6 };
for (const [name, bound] of Object.entries(bounds)) {
  const dtype = name as KvDtype;
  const megabytes = kvCacheBytes({ ...shape, dtype }) / 2 ** 20;
  const { output } = await attention(gpu, { ...tensors, kvDtype: dtype });
  const difference = largestDifference(output, exact.output);
  console.log(`${dtype}: ${megabytes.toFixed(0)} MiB, error below ${bound}: ${difference <= bound}`);
}
gpu.destroy();
