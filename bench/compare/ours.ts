/** Pagewise's attention: a paged cache whose blocks are scattered, filled by its own append kernel. */
import { type Gpu, KvCache, LaunchCache, PagedAttention, type Sequence } from 'pagewise';
import { scatterBlocks } from '../attention/case.ts';
import type { CompareCase, Subject } from './subject.ts';
import { readBytes, type Tensors } from './tensors.ts';

export async function openOurs(gpu: Gpu, one: CompareCase, tensors: Tensors): Promise<Subject> {
  const { device } = gpu;
  const { batch, queryLen, seqLen, numHeads, numKvHeads, headDim, blockSize, kv: dtype, layers, caches } = one;
  const blocks = Math.ceil(seqLen / blockSize);
  const kv = new KvCache(gpu, {
    ...{ numLayers: caches, numKvHeads, headDim, blockSize, dtype },
    ...{ numBlocks: batch * blocks + 1, maxSequences: batch, maxBlocksPerSequence: blocks },
  });
  scatterBlocks(kv);
  const cache = new LaunchCache(gpu);
  const sequences = Array.from({ length: batch }, () => kv.open());
  if (seqLen > queryLen) await fillPast(cache, kv, sequences, one, tensors);
  for (const sequence of sequences) kv.extend(sequence, queryLen);

  const attention = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep: batch * queryLen });
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const output = device.createBuffer({ label: 'our output', size: tensors.query.size, usage });
  const inputs = { query: tensors.query, key: tensors.newKey, value: tensors.newValue, output };
  const [sites] = await Promise.all([Promise.all(kv.pools.map((_, i) => attention.prepareLayer(i, inputs))), attention.prepare()]);
  const entries = sequences.map((sequence) => ({ sequence, queryLen }));
  const recordStep = (pass: GPUComputePassEncoder) => {
    attention.updateTables(pass);
    for (let layer = 0; layer < layers; layer++) {
      const site = sites[layer % sites.length];
      site.append(pass);
      site.attend(pass);
    }
  };
  return {
    name: 'ours',
    notes: ['ours: PagedAttention, blocks in random order; a step plans, writes its plan and is one submit.'],
    async enqueue(count) {
      for (let step = 0; step < count; step++) {
        attention.plan(entries);
        attention.write();
        const encoder = device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        recordStep(pass);
        pass.end();
        cache.submit([encoder.finish()]);
      }
    },
    output: async () => new Float32Array(await readBytes(device, output)),
    async destroy() {
      attention.destroy();
      cache.destroy();
      kv.destroy();
      output.destroy();
    },
  };
}

/** Appends all but the new tokens to every cache, a sequence at a time. */
async function fillPast(cache: LaunchCache, kv: KvCache, sequences: readonly Sequence[], one: CompareCase, tensors: Tensors) {
  const { queryLen, seqLen, numHeads, numKvHeads, headDim } = one;
  const { key, value } = tensors;
  const past = seqLen - queryLen;
  const filler = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep: past });
  await filler.prepare();
  for (const [index, sequence] of sequences.entries()) {
    const keyOffset = index * seqLen * numKvHeads * headDim;
    // Its queries and outputs are never launched.
    const inputs = { query: key, key, value, keyOffset, valueOffset: keyOffset, output: value };
    const layers = await Promise.all(kv.pools.map((_, layer) => filler.prepareLayer(layer, inputs)));
    kv.extend(sequence, past);
    filler.plan([{ sequence, queryLen: past }]);
    filler.write();
    const encoder = cache.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    filler.updateTables(pass);
    for (const layer of layers) layer.append(pass);
    pass.end();
    cache.submit([encoder.finish()]);
  }
  await cache.gpu.device.queue.onSubmittedWorkDone();
  filler.destroy();
}
