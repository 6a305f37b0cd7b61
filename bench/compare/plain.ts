/** Attention as one would write it in an afternoon, over a contiguous cache; launched in the cheapest way there is: everything bound once. */
import type { Gpu } from 'pagewise';
import plainSource from './plain.wgsl' with { type: 'text' };
import type { CompareCase, Subject } from './subject.ts';
import { bindBuffers, contiguousPrelude, makeContiguousCaches, readBytes, type Tensors, uniformOf } from './tensors.ts';

export async function openPlain(gpu: Gpu, one: CompareCase, tensors: Tensors): Promise<Subject> {
  const { device } = gpu;
  const { batch, queryLen, seqLen, numHeads, layers } = one;
  const module = device.createShaderModule({ label: 'plain', code: contiguousPrelude(one) + plainSource });
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module } });
  const caches = await makeContiguousCaches(gpu, one, tensors);
  const uniform = uniformOf(device, [queryLen, seqLen]);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const output = device.createBuffer({ label: 'plain output', size: tensors.query.size, usage });
  const groups = caches.keys.map((key, i) => bindBuffers(device, pipeline, [uniform, tensors.query, key, caches.values[i], output]));
  const recordStep = (pass: GPUComputePassEncoder) => {
    for (let layer = 0; layer < layers; layer++) {
      const cache = layer % groups.length;
      caches.append(pass, cache);
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, groups[cache]);
      pass.dispatchWorkgroups(numHeads, batch * queryLen);
    }
  };
  return {
    name: 'plain',
    notes: ['plain: bench/compare/plain.wgsl, a workgroup per (token, head) over a contiguous cache; one submit per step.'],
    async enqueue(count) {
      for (let step = 0; step < count; step++) {
        const encoder = device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        recordStep(pass);
        pass.end();
        device.queue.submit([encoder.finish()]);
      }
    },
    output: async () => new Float32Array(await readBytes(device, output)),
    async destroy() {
      caches.destroy();
      uniform.destroy();
      output.destroy();
    },
  };
}
