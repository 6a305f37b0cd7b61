/** The tensors that all subjects get: made once on the GPU, from random bits that the reference can make again. */
import type { Gpu } from 'pagewise';
import { fillNormals, hashedNormal } from '../attention/hash.ts';
import placeSource from './place.wgsl' with { type: 'text' };
import type { CompareCase } from './subject.ts';

const seeds = { query: 0x1000_0000, key: 0x2000_0000, value: 0x6000_0000 } as const;

/** All f32; values that f16 represents exactly. */
export interface Tensors {
  /** [batch * queryLen, numHeads, headDim] */
  readonly query: GPUBuffer;
  /** [batch * seqLen, numKvHeads, headDim]: of every token. */
  readonly key: GPUBuffer;
  readonly value: GPUBuffer;
  /** [batch * queryLen, numKvHeads, headDim]: of the new tokens. */
  readonly newKey: GPUBuffer;
  readonly newValue: GPUBuffer;
  destroy(): void;
}

export async function makeTensors(gpu: Gpu, one: CompareCase): Promise<Tensors> {
  const { device } = gpu;
  const { batch, queryLen, seqLen, numHeads, numKvHeads, headDim } = one;
  const made: GPUBuffer[] = [];
  const buffer = (rows: number) => {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    made.push(device.createBuffer({ label: 'tensor', size: rows * headDim * 4, usage }));
    return made[made.length - 1];
  };
  const query = buffer(batch * queryLen * numHeads);
  const [key, value] = [buffer(batch * seqLen * numKvHeads), buffer(batch * seqLen * numKvHeads)];
  const [newKey, newValue] = [buffer(batch * queryLen * numKvHeads), buffer(batch * queryLen * numKvHeads)];
  await fillNormals(gpu, query, seeds.query);
  await fillNormals(gpu, key, seeds.key);
  await fillNormals(gpu, value, seeds.value);
  const encoder = device.createCommandEncoder();
  const tokenBytes = numKvHeads * headDim * 4;
  for (let sequence = 0; sequence < batch; sequence++) {
    const from = ((sequence + 1) * seqLen - queryLen) * tokenBytes;
    encoder.copyBufferToBuffer(key, from, newKey, sequence * queryLen * tokenBytes, queryLen * tokenBytes);
    encoder.copyBufferToBuffer(value, from, newValue, sequence * queryLen * tokenBytes, queryLen * tokenBytes);
  }
  device.queue.submit([encoder.finish()]);
  return {
    ...{ query, key, value, newKey, newValue },
    destroy: () => {
      for (const one of made) one.destroy();
    },
  };
}

/** f64 [headDim]: attention of one row, over what was made. */
export function referenceRow(one: CompareCase, token: number, head: number): Float64Array {
  const { queryLen, seqLen, numHeads, numKvHeads, headDim } = one;
  const sequence = Math.floor(token / queryLen);
  const kvHead = Math.floor((head * numKvHeads) / numHeads);
  const visible = seqLen - queryLen + (token % queryLen) + 1;
  const row = (seed: number, at: number) => Float64Array.from({ length: headDim }, (_, d) => hashedNormal(seed + at * headDim + d));
  const kvRow = (seed: number, key: number) => row(seed, (sequence * seqLen + key) * numKvHeads + kvHead);
  const query = row(seeds.query, token * numHeads + head);
  const scores = Float64Array.from({ length: visible }, (_, key) => {
    return kvRow(seeds.key, key).reduce((sum, value, d) => sum + value * query[d], 0) / Math.sqrt(headDim);
  });
  const maximum = scores.reduce((a, b) => Math.max(a, b));
  const weights = scores.map((score) => Math.exp(score - maximum));
  const sum = weights.reduce((a, b) => a + b);
  const output = new Float64Array(headDim);
  weights.forEach((weight, key) => {
    kvRow(seeds.value, key).forEach((value, d) => {
      output[d] += (weight / sum) * value;
    });
  });
  return output;
}

/** WGSL in front of the kernels on contiguous caches: the sizes, and how four values are stored. */
export function contiguousPrelude({ numHeads, numKvHeads, headDim, kv }: CompareCase): string {
  const sizes = `const numHeads = ${numHeads}u; const numKvHeads = ${numKvHeads}u; const headDim = ${headDim}u;\n`;
  if (kv === 'f32')
    return `${sizes}alias Cell = vec4f;\nfn unpackCell(cell: Cell) -> vec4f { return cell; }\nfn packCell(v: vec4f) -> Cell { return v; }\n`;
  return `${sizes}alias Cell = vec2u;
fn unpackCell(cell: Cell) -> vec4f { return vec4f(unpack2x16float(cell.x), unpack2x16float(cell.y)); }
fn packCell(v: vec4f) -> Cell { return vec2u(pack2x16float(v.xy), pack2x16float(v.zw)); }
`;
}

/** Caches [batch, numKvHeads, seqLen, headDim] of all tokens but the new ones, whose rows hold poison until `append` puts them there. */
export interface ContiguousCaches {
  readonly keys: readonly GPUBuffer[];
  readonly values: readonly GPUBuffer[];
  /** Appends the new tokens' keys and values to one of the caches: two launches. */
  append(pass: GPUComputePassEncoder, cache: number): void;
  destroy(): void;
}

export async function makeContiguousCaches({ device }: Gpu, one: CompareCase, tensors: Tensors): Promise<ContiguousCaches> {
  const { batch, queryLen, seqLen, numKvHeads, headDim, kv, caches } = one;
  const cells = (batch * seqLen * numKvHeads * headDim) / 4;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = () => device.createBuffer({ label: 'contiguous cache', size: cells * (kv === 'f32' ? 16 : 8), usage });
  const keys = Array.from({ length: caches }, buffer);
  const values = Array.from({ length: caches }, buffer);
  const place = await makePlacing(device, one);
  const past = { sourceTokens: seqLen, copied: seqLen - queryLen, first: 0, capacity: seqLen, cells };
  const added = {
    sourceTokens: queryLen,
    copied: queryLen,
    first: seqLen - queryLen,
    capacity: seqLen,
    cells: (cells / seqLen) * queryLen,
  };
  const fills = keys.flatMap((key, i) => [place.bind(past, tensors.key, key), place.bind(past, tensors.value, values[i])]);
  const appends = keys.map((key, i) => [place.bind(added, tensors.newKey, key), place.bind(added, tensors.newValue, values[i])]);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const fill of fills) place.record(pass, fill, cells);
  pass.end();
  device.queue.submit([encoder.finish()]);
  return {
    ...{ keys, values },
    append: (pass, cache) => {
      for (const group of appends[cache]) place.record(pass, group, added.cells);
    },
    destroy: () => {
      for (const one of [...keys, ...values]) one.destroy();
      place.destroy();
    },
  };
}

/** The kernel of place.wgsl. */
async function makePlacing(device: GPUDevice, one: CompareCase) {
  const module = device.createShaderModule({ label: 'place', code: contiguousPrelude(one) + placeSource });
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module } });
  const uniforms: GPUBuffer[] = [];
  return {
    bind: (
      args: Readonly<Record<'sourceTokens' | 'copied' | 'first' | 'capacity' | 'cells', number>>,
      source: GPUBuffer,
      cache: GPUBuffer,
    ) => {
      const { sourceTokens, copied, first, capacity, cells } = args;
      const uniform = uniformOf(device, [sourceTokens, copied, first, capacity, cells]);
      uniforms.push(uniform);
      return bindBuffers(device, pipeline, [uniform, source, cache]);
    },
    record: (pass: GPUComputePassEncoder, group: GPUBindGroup, cells: number) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(Math.min(Math.ceil(cells / 64), 65_535));
    },
    destroy: () => {
      for (const uniform of uniforms) uniform.destroy();
    },
  };
}

/** A uniform buffer of u32. */
export function uniformOf(device: GPUDevice, values: readonly number[]): GPUBuffer {
  const size = Math.ceil(values.length / 4) * 16;
  const uniform = device.createBuffer({ size, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
  device.queue.writeBuffer(uniform, 0, Uint32Array.from(values));
  return uniform;
}

/** Buffers at the bindings 0, 1, ... of group 0. */
export function bindBuffers(device: GPUDevice, pipeline: GPUComputePipeline, buffers: readonly GPUBuffer[]): GPUBindGroup {
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  return device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
}

/** Copies a buffer to the host. */
export async function readBytes(device: GPUDevice, buffer: GPUBuffer, size = buffer.size): Promise<ArrayBuffer> {
  const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = staging.getMappedRange().slice(0);
  staging.destroy();
  return bytes;
}
